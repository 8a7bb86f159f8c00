"""What Redis says, in RESP3 or RESP2.

https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

__all__ = ["NO_ARRAY", "Error", "Push", "Verbatim", "encode", "text_of"]


class Error(Exception):
    """What Redis answers a command with that it refuses. Its text begins with a code."""


class Push(list[Any]):
    """A push (RESP3), of which the client is not the one who asks."""


class Verbatim(bytes):
    """A text for people (RESP3)."""


class _NoArray:
    """An array that there is not: in RESP2 it looks different from a string that there is not."""


NO_ARRAY = _NoArray()


def encode(value: Any, protocol: int = 3) -> bytes:
    """A reply, in RESP3 or RESP2.

    https://redis.io/docs/latest/develop/reference/protocol-spec/
    """
    match value:
        case None:
            return b"_\r\n" if protocol == 3 else b"$-1\r\n"
        case _NoArray():
            return b"_\r\n" if protocol == 3 else b"*-1\r\n"
        case int():
            return b":%d\r\n" % value
        case Verbatim() if protocol == 3:
            return b"=%d\r\ntxt:%s\r\n" % (len(value) + 4, value)
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(value), value)
        case str():
            return b"+%s\r\n" % value.encode()
        case Error():
            return b"-%s\r\n" % str(value).encode("utf-8", "surrogateescape")
        case Push() if protocol == 3:
            return b">%d\r\n" % len(value) + _encode_all(value, protocol)
        case dict() if protocol == 3:
            return b"%%%d\r\n" % len(value) + _encode_all(chain.from_iterable(value.items()), protocol)
        case dict():
            return b"*%d\r\n" % (2 * len(value)) + _encode_all(chain.from_iterable(value.items()), protocol)
        case list() | tuple():
            return b"*%d\r\n" % len(value) + _encode_all(value, protocol)
    raise TypeError(f"{value!r} is nothing that Redis says")


def _encode_all(values: Iterable[Any], protocol: int) -> bytes:
    return b"".join(encode(value, protocol) for value in values)


def text_of(word: bytes) -> str:
    """A word of a client within an error."""
    return word.decode("utf-8", "surrogateescape").replace("\r", " ").replace("\n", " ")
