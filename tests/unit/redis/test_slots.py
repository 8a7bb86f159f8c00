"""Hash slots, as Redis computes them."""

from __future__ import annotations

import pytest

from wsd.redis.slots import SLOTS, key_slot


@pytest.mark.parametrize(
    ("key", "slot"),
    [  # from CLUSTER KEYSLOT of Redis 7.0
        (b"123456789", 0x31C3 % SLOTS),
        (b"", 0),
        (b"foo", 12182),
        (b"bar", 5061),
        (b"{foo}.bar", 12182),
        (b"x{foo}{bar}", 12182),
        (b"{}foo", 9500),
        (b"foo{}{bar}", 8363),
        (b"foo{{bar}}zap", 4015),
    ],
)
def test_slots_are_those_of_redis(key: bytes, slot: int) -> None:
    assert key_slot(key) == slot
