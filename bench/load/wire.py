"""Bytes: the payload with its sequence number and time, client frames, tokens.

Every payload of a run has the same length and the same layout::

    {"bench":"TTTTT SSSSSSSSSSSS NNNNNNNNNNNNNNNNNN xxxxxxxx!|!"}
              |     |            |                  |       mark: one per message, and nowhere else
              |     |            |                  padding up to the payload's size
              |     |            when the message was due, CLOCK_MONOTONIC in nanoseconds
              |     number of the message in its topic, from 0
              number of the topic

It is valid JSON, so wsd embeds it as it is. Equal lengths are what lets ``scan`` count by arithmetic.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from struct import pack

__all__ = ["MARK", "MIN_SIZE", "STAMP", "client_frame", "pad", "payload", "token", "topic_name"]

MARK = b"!|!"
"""Ends every payload and occurs nowhere else: not in an envelope, and not in a frame's header either, as no header
holds three of these bytes in a row."""

STAMP = re.compile(rb'\{"bench": ?"(\d{5}) (\d{12}) (\d{18}) x*!\|!"\}')
"""Finds topic, number and time of a message. The space is from servers that decode and encode the payload."""

MIN_SIZE = len('{"bench":"00000 000000000000 000000000000000000 !|!"}')
"""Bytes of the smallest payload."""

_MASK = b"\x00\x00\x00\x00"
# RFC 6455, section 5.3, asks for an unpredictable mask, against proxies that this load doesn't meet. Unmasking costs
# the server the same whatever the mask; masking with zeros costs the generator nothing.


def topic_name(number: int) -> str:
    """Name of a topic, also its channel: always 6 characters."""
    return f"t{number:05d}"


def pad(size: int) -> bytes:
    """The padding of a payload.

    Args:
        size: bytes of the payload.

    Raises:
        ValueError: if a payload can't be that small.
    """
    if size < MIN_SIZE:
        raise ValueError(f"a payload of the suite has at least {MIN_SIZE} bytes, for its number and its time")
    return b"x" * (size - MIN_SIZE)


def payload(topic: int, number: int, due: int, padding: bytes) -> bytes:
    """One payload.

    Args:
        topic: number of the topic.
        number: number of the message in its topic.
        due: when it was due, CLOCK_MONOTONIC in nanoseconds.
        padding: from :func:`pad`.
    """
    return b'{"bench":"%05d %012d %018d %b!|!"}' % (topic, number, due, padding)


def client_frame(data: bytes, opcode: int = 1) -> bytes:
    """One frame as clients send them: complete and masked.

    Args:
        data: at most 65,535 bytes.
        opcode: RFC 6455, section 5.2.
    """
    if len(data) < 126:
        return bytes((0x80 | opcode, 0x80 | len(data))) + _MASK + data
    return pack("!BBH", 0x80 | opcode, 0xFE, len(data)) + _MASK + data


def token(key: bytes, subject: str, expires: int) -> str:
    """A JWT signed with HS256 (RFC 7519).

    Written out rather than asked of PyJWT: the suite makes tens of thousands before a storm.

    Args:
        key: the shared secret.
        subject: who it is for.
        expires: seconds since 1970.
    """
    signed = _HEADER + b"." + _base64url(json.dumps({"sub": subject, "exp": expires}).encode())
    return (signed + b"." + _base64url(hmac.digest(key, signed, hashlib.sha256))).decode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


_HEADER = _base64url(b'{"alg":"HS256","typ":"JWT"}')
