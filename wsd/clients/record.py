"""The record of a connection: everything that another process of the host needs to go on with its socket.

Written by `wsd.clients.moving` in the process that a connection leaves, read by `wsd.clients.arrival` in the process
that it arrives in, and carried as a JSON object. The other process may be another version of wsd, so a record says its
`VERSION`, and :func:`decode` is strict: a field that is missing, unknown or of another type is an error, and nothing is
guessed. Whoever adds, removes or changes a field raises `VERSION`.

What is in a record and what isn't:

- Monotonic times differ between processes, so they travel as seconds to go, or seconds ago. The expiry of a token is
  about the wall clock, and travels as it is.
- Limits, keys and other settings are the new process's own, because a reload may have changed them.
- What follows from the rest is left out: a session is authorized if it has a grant, and how long a message may be
  follows from that; the size of a message in fragments is that of its beginning.
- Replies that a confirmed subscription holds back are unknown again: the new process asks Redis anew.

Bytes are in base64: 4/3 of their length, whatever they hold. As text in Latin-1, each quotation mark of the JSON inside
would take a byte more, and each byte above 127 up to five.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, NamedTuple

from wsd.auth.grant import Grant
from wsd.codes import UNAUTHORIZED, ErrorCode, Refusal
from wsd.errors import RecordError

__all__ = ["VERSION", "OwedReply", "Record", "SessionRecord", "WaitingFrame", "decode", "encode"]

VERSION = 1
"""Of the record. A process reads records of its own version alone."""


_REFUSALS: dict[str, Refusal] = {UNAUTHORIZED: UNAUTHORIZED, **{str(code): code for code in ErrorCode}}


@dataclass(frozen=True, slots=True)
class OwedReply:
    """A reply in its place among those that are held back."""

    payload: bytes | None  # None if it is not known yet, because Redis has not answered
    topic: str  # the topic that an unknown reply waits for; "" if it is known
    request_id: str | int | None  # of the request, if it is not known; else it is in the payload
    refusal: Refusal | None  # this and what follows as in wsd.clients.replies.Reply, for the metrics and the log
    reason: str
    subject: str
    seconds: float  # until Redis must have answered


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session, which waits for nothing while it is on its way."""

    id: str
    grant: Grant | None  # None if it is not authorized
    seconds_to_authorize: float | None  # until it must be authorized; None if it is
    listening: tuple[str, ...]  # its topics that are delivered
    waiting: tuple[str, ...]  # those that Redis has yet to confirm in the new process, in the order of the requests
    replies: tuple[OwedReply, ...]  # in their order
    violations: int
    bad_tokens: int  # in a row
    allowance: float | None  # frames that the client may send now, below 0 if it has sent too many; None: no limit


class WaitingFrame(NamedTuple):
    """A part of the backlog."""

    age: float  # seconds since it was due
    data: bytes  # whole frames


@dataclass(frozen=True, slots=True)
class Record:
    """A connection on its way."""

    session: SessionRecord
    unread: bytes  # the beginning of a frame; what the client sent behind it is still in the socket
    message: bytes | None  # what has come of a fragmented message; None if none is in progress
    binary: bool  # whether that message is a binary one
    seconds_to_ping: float
    seconds_to_pong: float | None  # until the pong is late; None while no ping is unanswered
    seconds_to_read: float  # for which it is not read from, because its client was too fast
    backlog: tuple[WaitingFrame, ...]  # what is due to the client and its socket has not been handed, the oldest first


def encode(record: Record) -> dict[str, Any]:
    """Write a record, in values that JSON knows."""
    return {
        "version": VERSION,
        "session": _encode_session(record.session),
        "unread": _text(record.unread),
        "message": None if record.message is None else _text(record.message),
        "binary": record.binary,
        "seconds_to_ping": record.seconds_to_ping,
        "seconds_to_pong": record.seconds_to_pong,
        "seconds_to_read": record.seconds_to_read,
        "backlog": [{"age": age, "data": _text(data)} for age, data in record.backlog],
    }


def _encode_session(session: SessionRecord) -> dict[str, Any]:
    return {
        "id": session.id,
        "grant": None if session.grant is None else _encode_grant(session.grant),
        "seconds_to_authorize": session.seconds_to_authorize,
        "listening": list(session.listening),
        "waiting": list(session.waiting),
        "replies": [_encode_reply(reply) for reply in session.replies],
        "violations": session.violations,
        "bad_tokens": session.bad_tokens,
        "allowance": session.allowance,
    }


def _encode_grant(grant: Grant) -> dict[str, Any]:
    return {
        "subject": grant.subject,
        "topics": sorted(grant.topics),
        "prefixes": list(grant.prefixes),
        "expires_at": None if grant.expires_at == inf else grant.expires_at,  # JSON has no infinity
    }


def _encode_reply(reply: OwedReply) -> dict[str, Any]:
    return {
        "payload": None if reply.payload is None else _text(reply.payload),
        "topic": reply.topic,
        "request_id": reply.request_id,
        "refusal": None if reply.refusal is None else str(reply.refusal),
        "reason": reply.reason,
        "subject": reply.subject,
        "seconds": reply.seconds,
    }


def decode(written: Mapping[str, Any]) -> Record:
    """Read a record.

    Args:
        written: what :func:`encode` has returned, in this process or in another, after its way through JSON.

    Raises:
        RecordError: if it is no record of this version.
    """
    fields = _Fields(written, "record")
    version = fields.take("version")
    if version != VERSION or type(version) is not int:
        raise RecordError(f"the record has version {version!a:.20}, and this wsd reads version {VERSION} alone")
    record = Record(
        session=_decode_session(fields.inner("session")),
        unread=fields.data("unread"),
        message=fields.data_or_none("message"),
        binary=fields.flag("binary"),
        seconds_to_ping=fields.number("seconds_to_ping"),
        seconds_to_pong=fields.number_or_none("seconds_to_pong"),
        seconds_to_read=fields.number("seconds_to_read"),
        backlog=tuple(_decode_frame(frame) for frame in fields.each("backlog")),
    )
    fields.end()
    return record


def _decode_frame(fields: _Fields) -> WaitingFrame:
    frame = WaitingFrame(age=fields.number("age"), data=fields.data("data"))
    fields.end()
    return frame


def _decode_session(fields: _Fields) -> SessionRecord:
    grant = fields.inner_or_none("grant")
    session = SessionRecord(
        id=fields.text("id"),
        grant=None if grant is None else _decode_grant(grant),
        seconds_to_authorize=fields.number_or_none("seconds_to_authorize"),
        listening=fields.texts("listening"),
        waiting=fields.texts("waiting"),
        replies=tuple(_decode_reply(reply) for reply in fields.each("replies")),
        violations=fields.count("violations"),
        bad_tokens=fields.count("bad_tokens"),
        allowance=fields.number_or_none("allowance"),
    )
    fields.end()
    if (session.grant is None) is (session.seconds_to_authorize is None):
        raise fields.wrong("seconds_to_authorize", "a number, or null beside a grant")
    topics = session.listening + session.waiting
    if len(set(topics)) < len(topics):
        raise fields.wrong("waiting", "topics of which each is named once, and not in listening")
    if {reply.topic for reply in session.replies if reply.payload is None} != set(session.waiting):
        raise fields.wrong("waiting", "the topics that unknown replies wait for")
    return session


def _decode_grant(fields: _Fields) -> Grant:
    expires_at = fields.number_or_none("expires_at")
    grant = Grant(
        subject=fields.text("subject"),
        topics=frozenset(fields.texts("topics")),
        prefixes=fields.texts("prefixes"),
        expires_at=inf if expires_at is None else expires_at,
    )
    fields.end()
    return grant


def _decode_reply(fields: _Fields) -> OwedReply:
    reply = OwedReply(
        payload=fields.data_or_none("payload"),
        topic=fields.text("topic"),
        request_id=fields.request_id("request_id"),
        refusal=fields.refusal("refusal"),
        reason=fields.text("reason"),
        subject=fields.text("subject"),
        seconds=fields.number("seconds"),
    )
    fields.end()
    if (reply.payload is None) is not bool(reply.topic):
        raise fields.wrong("topic", "a topic, or empty beside a payload")
    return reply


def _text(data: bytes) -> str:
    return b64encode(data).decode()


class _Fields:
    """The fields of an object, each to be taken once.

    Args:
        written: the object.
        where: what it is called in errors.
    """

    def __init__(self, written: object, where: str) -> None:
        self._where = where
        if not isinstance(written, dict):
            raise RecordError(f"{where} must be an object")
        self._left = dict(written)

    def wrong(self, name: str, wanted: str) -> RecordError:
        """What is wrong with a field."""
        return RecordError(f"{self._where}.{name} must be {wanted}")

    def take(self, name: str) -> Any:
        """Take a field of any type."""
        if name not in self._left:
            raise RecordError(f"{self._where}.{name} is missing")
        return self._left.pop(name)

    def _is_none(self, name: str) -> bool:
        """Tell whether a field is null; then it is taken."""
        return name in self._left and self._left[name] is None and self._left.pop(name) is None

    def end(self) -> None:
        """All fields should have been taken."""
        for name in self._left:
            raise RecordError(f"{self._where} has an unknown field {name!a:.40}")

    def text(self, name: str) -> str:
        """Take a text."""
        return self._check_text(name, self.take(name), "a text")

    def _check_text(self, name: str, value: object, wanted: str) -> str:
        if type(value) is not str or not _is_unicode(value):
            raise self.wrong(name, wanted)
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Take a list of texts."""
        return tuple(self._check_text(name, value, "a list of texts") for value in self._list(name))

    def _list(self, name: str) -> list[object]:
        value = self.take(name)
        if type(value) is not list:
            raise self.wrong(name, "a list")
        return value

    def flag(self, name: str) -> bool:
        """Take a truth value."""
        value = self.take(name)
        if type(value) is not bool:
            raise self.wrong(name, "true or false")
        return value

    def count(self, name: str) -> int:
        """Take a count."""
        value = self.take(name)
        if type(value) is not int or value < 0:
            raise self.wrong(name, "a whole number, 0 or more")
        return value

    def number(self, name: str) -> float:
        """Take a number."""
        value = self.take(name)
        try:
            number = float(value) if type(value) in (int, float) else inf
        except OverflowError:
            number = inf
        if not isfinite(number):
            raise self.wrong(name, "a number")
        return number

    def number_or_none(self, name: str) -> float | None:
        """Take a number, or null."""
        return None if self._is_none(name) else self.number(name)

    def data(self, name: str) -> bytes:
        """Take bytes."""
        try:
            return b64decode(self.text(name), validate=True)
        except (binascii.Error, ValueError):
            raise self.wrong(name, "base64") from None

    def data_or_none(self, name: str) -> bytes | None:
        """Take bytes, or null."""
        return None if self._is_none(name) else self.data(name)

    def request_id(self, name: str) -> str | int | None:
        """Take the ``id`` of a request."""
        value = self.take(name)
        if value is None or type(value) is int:
            return value
        return self._check_text(name, value, "a text, a whole number or null")

    def refusal(self, name: str) -> Refusal | None:
        """Take what a request is refused with."""
        value = self.take(name)
        if value is not None and (type(value) is not str or value not in _REFUSALS):
            raise self.wrong(name, "a code of a refusal, or null")
        return None if value is None else _REFUSALS[value]

    def inner(self, name: str) -> _Fields:
        """Take an object."""
        return _Fields(self.take(name), f"{self._where}.{name}")

    def inner_or_none(self, name: str) -> _Fields | None:
        """Take an object, or null."""
        return None if self._is_none(name) else self.inner(name)

    def each(self, name: str) -> list[_Fields]:
        """Take a list of objects."""
        return [_Fields(value, f"{self._where}.{name}[{place}]") for place, value in enumerate(self._list(name))]


def _is_unicode(text: str) -> bool:
    """Whether a text can be written: JSON's escapes may make half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
