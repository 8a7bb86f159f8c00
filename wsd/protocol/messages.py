"""The messages of the client protocol: requests parsed, replies built.

PROTOCOL.md is the contract. The messages of its first section are byte-for-byte stable: the keys shown, in that order,
without spaces, and ``id`` at the end where the client sent one.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import orjson

from wsd.codes import ErrorCode, TokenReason
from wsd.errors import RequestError

__all__ = [
    "CONNECTED",
    "PONG",
    "SESSION_AUTHENTICATED",
    "SESSION_UNAUTHORIZED",
    "SUBSCRIBED",
    "UNSUBSCRIBED",
    "Request",
    "check_topic",
    "error",
    "gap",
    "message_head",
    "parse_request",
    "session_created",
    "unauthorized",
    "with_id",
]

MAX_TOPIC_BYTES = 256
"""PROTOCOL.md, "Topics and channels"."""

CONNECTED = b'{"action":"connect","message":"connection established"}'
SESSION_AUTHENTICATED = b'{"action":"session","message":"session authenticated"}'
SESSION_UNAUTHORIZED = b'{"action":"session","message":"session unauthorized"}'
SUBSCRIBED = b'{"action":"subscribe","message":"context subscribed"}'
UNSUBSCRIBED = b'{"action":"unsubscribe","message":"context unsubscribed"}'
PONG = b'{"action":"pong"}'

# Unicode white space, and the control characters C0, DEL and C1.
_NOT_IN_TOPICS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")

# Actions that name a session and carry a context, with the words for what their context is.
_CONTEXTS = {"authorization": "a token", "subscribe": "a topic", "unsubscribe": "a topic"}


class Request(NamedTuple):
    """A request that has the right form; what it asks for may still be refused."""

    action: str  # authorization, subscribe, unsubscribe or ping
    session: str  # the session it claims to be of; "" for ping, which needs none
    context: str  # the token or the topic; "" for ping
    request_id: str | int | None  # its ``id``, which comes back in the reply


def parse_request(text: str) -> Request:
    """Read one request.

    Args:
        text: the text message that the client sent.

    Raises:
        RequestError: with the code ``malformed`` or ``unknown_action``.
    """
    try:
        parsed: Any = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise RequestError(ErrorCode.MALFORMED, f"not valid JSON ({exc}); send one JSON object per message") from None
    if type(parsed) is not dict:
        raise RequestError(ErrorCode.MALFORMED, f"expected a JSON object, got {_kind(parsed)}")
    request_id = parsed.get("id")
    if request_id is None:
        if "id" in parsed:
            raise RequestError(
                ErrorCode.MALFORMED, "id must be a string or a 64-bit integer, not null; leave it out instead"
            )
    elif type(request_id) is not str and type(request_id) is not int:
        raise RequestError(ErrorCode.MALFORMED, f"id must be a string or a 64-bit integer, not {_kind(request_id)}")
    action = parsed.get("action")
    if type(action) is not str:
        raise RequestError(ErrorCode.MALFORMED, _missing("action", action, "a string"), request_id)
    if action == "ping":
        return Request("ping", "", "", request_id)
    if action not in _CONTEXTS:
        known = ", ".join((*_CONTEXTS, "ping"))
        raise RequestError(ErrorCode.UNKNOWN_ACTION, f"no such action; the actions are {known}", request_id)
    session, context = parsed.get("session"), parsed.get("context")
    if type(session) is not str:
        problem = _missing("session", session, "the session id received at the start")
        raise RequestError(ErrorCode.MALFORMED, problem, request_id)
    if type(context) is not str:
        raise RequestError(
            ErrorCode.MALFORMED, _missing("context", context, f"a string: {_CONTEXTS[action]}"), request_id
        )
    return Request(action, session, context, request_id)


def _missing(key: str, value: object, wanted: str) -> str:
    return f"{key} is missing" if value is None else f"{key} must be {wanted}, not {_kind(value)}"


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def check_topic(topic: str) -> None:
    """Check that a topic is well formed.

    A leading ``__`` is refused because Redis itself publishes under such names: ``__keyspace@0__:…``,
    ``__keyevent@0__:…``, ``__sentinel__:hello``, ``__redis__:invalidate``.

    Raises:
        RequestError: with the code ``invalid_topic``.
    """
    if not topic:
        raise RequestError(ErrorCode.INVALID_TOPIC, "the topic is empty; name a topic of 1 to 256 bytes")
    try:
        size = len(topic.encode())
    except UnicodeEncodeError:
        raise RequestError(ErrorCode.INVALID_TOPIC, "the topic is not UTF-8: it holds a lone surrogate") from None
    if size > MAX_TOPIC_BYTES:
        raise RequestError(ErrorCode.INVALID_TOPIC, f"the topic is longer than {MAX_TOPIC_BYTES} bytes of UTF-8")
    if topic.startswith("__"):
        raise RequestError(
            ErrorCode.INVALID_TOPIC, "a topic can't start with two underscores: such names are Redis's own"
        )
    if _NOT_IN_TOPICS.search(topic):
        raise RequestError(ErrorCode.INVALID_TOPIC, "a topic can't contain white space or control characters")


def session_created(session: str) -> bytes:
    """Build the second message of the greeting. ``session`` is URL-safe, so it needs no escaping."""
    return b'{"action":"session","message":"waiting for create session","session":"%b"}' % session.encode()


def with_id(reply: bytes, request_id: str | int | None) -> bytes:
    """Add the request's ``id`` to a reply, where there was one."""
    return reply if request_id is None else b'%b,"id":%b}' % (reply[:-1], orjson.dumps(request_id))


def unauthorized(reason: TokenReason, request_id: str | int | None) -> bytes:
    """Build the refusal of a token, or of a request without one.

    Without an ``id`` the message is one of the byte-for-byte stable ones. A client that sends one knows that replies
    have more keys, and is told why.
    """
    if request_id is None:
        return SESSION_UNAUTHORIZED
    return with_id(b'%b,"reason":"%b"}' % (SESSION_UNAUTHORIZED[:-1], reason.encode()), request_id)


def error(code: ErrorCode, message: str) -> bytes:
    """Build an ``error``: a code for programs, and a text that says what to do about it."""
    return orjson.dumps({"action": "error", "code": code, "message": message})


def gap(topic: str) -> bytes:
    """Build the notice that messages of a topic may have been missed."""
    return orjson.dumps({"action": "gap", "topic": topic, "message": "messages may have been missed"})


def message_head(topic: str) -> bytes:
    """Build a message of a topic up to its snapshot. Made once per topic."""
    return b'{"action":"message","topic":%b,"snapshot":' % orjson.dumps(topic)
