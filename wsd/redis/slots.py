"""Hash slots: which part of a Redis Cluster a channel belongs to.

Source: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#key-distribution-model
"""

from __future__ import annotations

from binascii import crc_hqx

__all__ = ["SLOTS", "key_slot"]

SLOTS = 16_384
"""How many slots a cluster has."""


def key_slot(key: bytes) -> int:
    """Return the slot of a key or of a sharded channel.

    Of a key like ``{42}.news`` only the hash tag counts, what stands between the first ``{`` and the ``}`` after it, so
    that a publisher can put many channels into one slot.
    """
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS  # CRC16-XMODEM
