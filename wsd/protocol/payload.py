r"""From a payload to the snapshot inside a message.

Publishers may send anything; clients must always get valid JSON. A payload is one of three things, tried in this order:

1. JSON text (RFC 8259): it is embedded byte for byte, so that digits, key order and escapes stay the publisher's.
2. Other UTF-8 text: it becomes a JSON string.
3. Anything else: it becomes a base64 string (RFC 4648, section 4) with ``"encoding":"base64"`` beside it.

The question "is this JSON?" is answered by orjson, at about the speed of reading the bytes. orjson is a decoder, so it
refuses a few texts that the grammar of RFC 8259 allows: escapes of lone surrogates (``"\ud800"``, which JavaScript
writes of a text that was cut inside an emoji), numbers that no double holds (``1e999``), nesting deeper than 1024. Only
when orjson names one of these, another parser decides:

- The standard library's scanner, written in C: it takes lone surrogates, and leaves numbers as digits here. It
  recurses, so it stops at Python's limit of recursion (a depth of about 950 on CPython 3.11).
- :func:`is_json` for what is nested deeper. It walks the grammar with a regular expression and a stack: no recursion,
  no values built, but a step of Python for every token.

CPU of one core for 1 MiB, in milliseconds (AMD EPYC, CPython 3.11):

=================================  ===========  ===========
payload                            the scanner  ``is_json``
=================================  ===========  ===========
``["\ud800",1,1,1…``                        10          496
``["\ud800",{"abc":1},{"abc":1}…``          24          231
``["\ud800",[],[],[]…``                     56          358
one string with ``\ud800`` in it             1            7
``[[[[…]]]]``                          refused          382
=================================  ===========  ===========

So nothing but deep nesting takes long, and deep nesting has a bound: `MAX_DEEP`.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Never

import orjson

__all__ = ["embed", "is_json"]

# The words by which orjson names a text that it refuses although the grammar allows it. A test holds them to the
# installed version.
_STRICTER_THAN_RFC_8259 = ("surrogate in string", "infinity", "depth limit")

MAX_DEEP = 262_144
"""Bytes. A larger payload that is nested too deeply for the C parsers becomes a string, whether it is JSON or not.

The walk takes 0.1 s for this much, and no publisher should be able to hold the event loop for longer. A linked list of
10,000 nested objects is smaller; and few clients can parse such a depth, but all can parse a string.
"""


def _refuse_constant(constant: str) -> Never:
    raise ValueError(f"{constant} is not JSON")


# A number stays a text, of which only the length is looked at, because `int` takes 4,300 digits at most.
_SCANNER = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=_refuse_constant)

# One token with the white space around it. RFC 8259, sections 2 to 7.
_TOKEN = re.compile(
    r"""[ \t\n\r]*(?:
        (?P<open>[\[{])
      | (?P<close>[\]}])
      | (?P<comma>,)
      | (?P<colon>:)
      | (?P<string>"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+")
      | (?P<scalar>-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?|true|false|null)
    )[ \t\n\r]*""",
    re.VERBOSE,
)


def embed(head: bytes, payload: bytes) -> bytes:
    """Build the message that carries a payload.

    Args:
        head: the message up to and including ``"snapshot":`` (see :func:`wsd.protocol.messages.message_head`).
        payload: what was published: any bytes.

    Returns:
        One JSON object as UTF-8.
    """
    try:
        orjson.loads(payload)
    except orjson.JSONDecodeError as exc:
        return head + _embed_unusual(payload, str(exc))
    return b"".join((head, payload, b"}"))


def _embed_unusual(payload: bytes, why: str) -> bytes:
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return b'"%b","encoding":"base64"}' % base64.b64encode(payload)
    if any(words in why for words in _STRICTER_THAN_RFC_8259) and _is_json_all_the_same(text, len(payload)):
        return payload + b"}"
    return orjson.dumps(text) + b"}"


def _is_json_all_the_same(text: str, size: int) -> bool:
    try:
        _SCANNER.decode(text)
    except RecursionError:
        return size <= MAX_DEEP and is_json(text)
    except ValueError:
        return False
    return True


def is_json(text: str) -> bool:
    """Tell whether a text is JSON by the grammar of RFC 8259, whatever its depth and the size of its numbers."""
    stack: list[str] = []
    position = 0
    # What may come next: a "value", a "key", a "colon", or what follows a value ("after"); "first" is a value or the
    # end of an empty array, "first key" a key or the end of an empty object.
    expected = "value"
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return False
        position = match.end()
        kind = match.lastgroup
        if kind == "open" and expected in ("value", "first"):
            stack.append(match["open"])
            expected = "first" if stack[-1] == "[" else "first key"
        elif kind == "close" and stack and expected in ("after", "first", "first key"):
            if stack.pop() + match["close"] not in ("[]", "{}"):
                return False
            expected = "after"
        elif kind == "comma" and stack and expected == "after":
            expected = "value" if stack[-1] == "[" else "key"
        elif kind == "colon" and expected == "colon":
            expected = "value"
        elif kind == "string" and expected in ("key", "first key"):
            expected = "colon"
        elif kind in ("string", "scalar") and expected in ("value", "first"):
            expected = "after"
        else:
            return False
    return expected == "after" and not stack
