r"""From a payload to the snapshot inside a message.

Publishers may send anything; clients must always get valid JSON. A payload is one of three things, tried in this order:

1. JSON text (RFC 8259): it is embedded byte for byte, so that digits, key order and escapes stay the publisher's.
2. Other UTF-8 text: it becomes a JSON string.
3. Anything else: it becomes a base64 string (RFC 4648, section 4) with ``"encoding":"base64"`` beside it.

The question "is this JSON?" is answered by orjson, at about the speed of reading the bytes. orjson is a decoder, so it
refuses a few texts that the grammar of RFC 8259 allows: escapes of lone surrogates (``"\ud800"``), numbers that no
double holds (``1e999``), nesting deeper than 1024. Only when orjson names one of these does the slower
:func:`is_json` decide. It walks the grammar with a regular expression and a stack: no recursion, no values built.
"""

from __future__ import annotations

import base64
import re

import orjson

__all__ = ["embed", "is_json"]

# The words by which orjson names a text that it refuses although the grammar allows it. A test holds them to the
# installed version.
_STRICTER_THAN_RFC_8259 = ("surrogate in string", "infinity", "depth limit")

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
        head: the message up to and including ``"snapshot":`` (see :func:`wsd.protocol.message_head`).
        payload: what was published: any bytes.

    Returns:
        One JSON object as UTF-8.
    """
    try:
        orjson.loads(payload)
    except orjson.JSONDecodeError as exc:
        return head + _embed_unusual(payload, str(exc))
    return b"%b%b}" % (head, payload)


def _embed_unusual(payload: bytes, why: str) -> bytes:
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return b'"%b","encoding":"base64"}' % base64.b64encode(payload)
    if any(words in why for words in _STRICTER_THAN_RFC_8259) and is_json(text):
        return payload + b"}"
    return orjson.dumps(text) + b"}"


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
