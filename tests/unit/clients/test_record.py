"""The record of a connection: it comes back as it was written, and what isn't one of this version is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsd.auth.grant import EVERYTHING, Grant
from wsd.clients.record import VERSION, OwedReply, Record, SessionRecord, WaitingFrame, decode, encode
from wsd.codes import UNAUTHORIZED, ErrorCode
from wsd.errors import RecordError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)  # what can be written as UTF-8
TOPICS = st.lists(TEXTS.filter(bool), max_size=6, unique=True)
SECONDS = st.floats(-1e6, 1e6)
BYTES = st.binary(max_size=100)
GRANTS = st.builds(
    Grant,
    subject=TEXTS,
    topics=st.frozensets(TEXTS, max_size=4),
    prefixes=st.lists(TEXTS, max_size=4).map(tuple),
    expires_at=st.floats(0, 1e12) | st.just(inf),
)
KNOWN = st.builds(
    OwedReply,
    payload=BYTES,
    topic=st.just(""),
    request_id=st.none(),
    refusal=st.none() | st.sampled_from([*ErrorCode, UNAUTHORIZED]),
    reason=TEXTS,
    subject=TEXTS,
    seconds=SECONDS,
)


def unknown(topic: str) -> st.SearchStrategy[OwedReply]:
    return st.builds(
        OwedReply,
        payload=st.none(),
        topic=st.just(topic),
        request_id=st.none() | TEXTS | st.integers(-(2**63), 2**63 - 1),
        refusal=st.none(),
        reason=st.just(""),
        subject=st.just(""),
        seconds=SECONDS,
    )


@st.composite
def sessions(draw: st.DrawFn) -> SessionRecord:
    topics = draw(TOPICS)
    listening = draw(st.integers(0, len(topics)))
    replies = [draw(unknown(topic)) for topic in topics[listening:]]
    replies += draw(st.lists(KNOWN, max_size=4))
    grant = draw(st.none() | GRANTS)
    return SessionRecord(
        id=draw(TEXTS),
        grant=grant,
        seconds_to_authorize=draw(SECONDS) if grant is None else None,
        listening=tuple(topics[:listening]),
        waiting=tuple(topics[listening:]),
        replies=tuple(draw(st.permutations(replies))),
        violations=draw(st.integers(0, 100)),
        bad_tokens=draw(st.integers(0, 100)),
        allowance=draw(st.none() | SECONDS),
    )


RECORDS = st.builds(
    Record,
    session=sessions(),
    unread=BYTES,
    message=st.none() | BYTES,
    binary=st.booleans(),
    seconds_to_ping=SECONDS,
    seconds_to_pong=st.none() | SECONDS,
    seconds_to_read=SECONDS,
    backlog=st.lists(st.builds(WaitingFrame, age=SECONDS, data=BYTES), max_size=4).map(tuple),
)

SESSION = SessionRecord(
    id="abc",
    grant=Grant("ann", frozenset({"news"}), ("room.",), 2_000_000_000.0),
    seconds_to_authorize=None,
    listening=("news",),
    waiting=("room.1",),
    replies=(
        OwedReply(None, "room.1", 17, None, "", "", 4.5),
        OwedReply(b'{"action":"pong"}', "", None, ErrorCode.RATE_LIMITED, "slow down", "", 4.6),
    ),
    violations=2,
    bad_tokens=1,
    allowance=99.5,
)
RECORD = Record(
    session=SESSION,
    unread=b"\x81\xfe",
    message=b"half of it",
    binary=False,
    seconds_to_ping=20.0,
    seconds_to_pong=None,
    seconds_to_read=0.0,
    backlog=(WaitingFrame(1.5, b"\x81\x02{}"), WaitingFrame(0.5, b"\x81\x0212")),
)


def through_json(written: dict[str, Any]) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(written, allow_nan=False))
    return copy


@given(RECORDS)
def test_a_record_comes_back_as_it_was_written(record: Record) -> None:
    assert decode(through_json(encode(record))) == record


def test_a_grant_for_everything_and_for_ever_does_too() -> None:
    record = replace(RECORD, session=replace(SESSION, grant=EVERYTHING))
    assert decode(through_json(encode(record))) == record


def test_what_is_written_has_a_field_for_each_of_a_record_and_the_version() -> None:
    def names(value: Any) -> Any:
        """The fields of all dataclasses, nested as in the JSON object."""
        if is_dataclass(value):
            return {field.name: names(getattr(value, field.name)) for field in fields(value)}
        if isinstance(value, WaitingFrame):
            return dict.fromkeys(WaitingFrame._fields)
        return [names(each) for each in value] if isinstance(value, tuple) else None

    def keys(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: keys(inner) for key, inner in value.items()}
        return [keys(each) for each in value] if isinstance(value, list) else None

    written = keys(encode(RECORD))
    expected = {"version": None, **names(RECORD)}
    for grant in (written["session"]["grant"], expected["session"]["grant"]):
        grant["topics"] = None  # a set in the one, a list in the other
    assert written == expected


def objects(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any]]]:
    """All objects within a value, with their paths."""
    if isinstance(value, dict):
        yield path, value
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield from objects(inner, (*path, key))


def within(written: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        written = written[key]
    return written


FIELDS = [(path, name) for path, value in objects(encode(RECORD)) for name in value]


@pytest.mark.parametrize("version", [0, VERSION + 1, None, "1", 1.0, True, [1]])
def test_a_record_of_another_version_is_refused_and_both_versions_are_named(version: object) -> None:
    with pytest.raises(RecordError, match=f"version .*{VERSION} alone"):
        decode(encode(RECORD) | {"version": version})


@pytest.mark.parametrize(("path", "name"), FIELDS)
def test_every_field_must_be_there(path: tuple[str | int, ...], name: str) -> None:
    written = through_json(encode(RECORD))
    del within(written, path)[name]
    with pytest.raises(RecordError, match=rf"{name} is missing$"):
        decode(written)


@pytest.mark.parametrize("path", [path for path, _ in objects(encode(RECORD))])
def test_no_other_field_may_be_there(path: tuple[str | int, ...]) -> None:
    written = through_json(encode(RECORD))
    within(written, path)["colour"] = "red"
    with pytest.raises(RecordError, match="unknown field 'colour'"):
        decode(written)


@pytest.mark.parametrize(("path", "name"), FIELDS)
@pytest.mark.parametrize("wrong", [{"x": 1}, [0], True, "\ud800"], ids=repr)
def test_every_field_must_have_its_type(path: tuple[str | int, ...], name: str, wrong: object) -> None:
    written = through_json(encode(RECORD))
    within(written, path)[name] = 1 if (name, wrong) == ("binary", True) else wrong
    with pytest.raises(RecordError):
        decode(written)


@pytest.mark.parametrize(
    "change",
    [
        lambda session: session | {"violations": -1},
        lambda session: session | {"violations": True},
        lambda session: session | {"violations": 1.0},
        lambda session: session | {"allowance": nan},
        lambda session: session | {"allowance": inf},
        lambda session: session | {"allowance": 10**400},
        lambda session: session | {"allowance": False},
        lambda session: session | {"id": "\ud800"},
        lambda session: session | {"listening": ["\ud800"]},
        lambda session: session | {"seconds_to_authorize": 1.0},
        lambda session: session | {"grant": None},
        lambda session: session | {"listening": ["room.1"]},
        lambda session: session | {"listening": ["a", "a"]},
        lambda session: session | {"waiting": []},
        lambda session: session | {"waiting": ["room.1", "room.2"]},
        lambda session: session | {"replies": []},
        lambda session: session | {"replies": [session["replies"][0] | {"payload": "e30="}]},
        lambda session: session | {"replies": [session["replies"][0] | {"topic": ""}]},
        lambda session: session | {"replies": [session["replies"][0] | {"refusal": "because"}]},
        lambda session: session | {"replies": [session["replies"][0] | {"request_id": 0.5}]},
        lambda session: session | {"replies": [session["replies"][0] | {"request_id": True}]},
    ],
)
def test_a_session_that_can_not_be_is_refused(change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    written = encode(RECORD)
    with pytest.raises(RecordError, match="session"):
        decode(written | {"session": change(written["session"])})


@pytest.mark.parametrize("text", ["e3", "e30", "e30=\n", "e3 0=", "é30=", "====", "\ud800"])
def test_bytes_must_be_in_base64(text: str) -> None:
    with pytest.raises(RecordError, match="unread"):
        decode(encode(RECORD) | {"unread": text})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@given(JSON)
def test_rubbish_is_refused(rubbish: Any) -> None:
    with pytest.raises(RecordError):
        decode(rubbish)


@given(st.sampled_from(FIELDS), JSON)
def test_rubbish_in_any_field_is_refused_or_read(field: tuple[tuple[str | int, ...], str], rubbish: Any) -> None:
    path, name = field
    written = encode(RECORD)
    within(written, path)[name] = rubbish
    with suppress(RecordError):
        decode(written)
