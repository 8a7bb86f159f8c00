"""Messages are held byte for byte to PROTOCOL.md, and requests to its table of mistakes."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from wsd.codes import ErrorCode
from wsd.config import Settings
from wsd.errors import RequestError
from wsd.protocol import messages as protocol
from wsd.protocol.messages import Request, check_topic, parse_request

relaxed = settings(deadline=None)


# What the server says.


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (protocol.CONNECTED, '{"action":"connect","message":"connection established"}'),
        (protocol.SESSION_AUTHENTICATED, '{"action":"session","message":"session authenticated"}'),
        (protocol.SESSION_UNAUTHORIZED, '{"action":"session","message":"session unauthorized"}'),
        (protocol.SUBSCRIBED, '{"action":"subscribe","message":"context subscribed"}'),
        (protocol.UNSUBSCRIBED, '{"action":"unsubscribe","message":"context unsubscribed"}'),
        (protocol.PONG, '{"action":"pong"}'),
        (
            protocol.session_created("aZ09-_"),
            '{"action":"session","message":"waiting for create session","session":"aZ09-_"}',
        ),
        (protocol.error(ErrorCode.MALFORMED, "say it"), '{"action":"error","code":"malformed","message":"say it"}'),
        (protocol.gap("news"), '{"action":"gap","topic":"news","message":"messages may have been missed"}'),
        (protocol.message_head("news") + b"1}", '{"action":"message","topic":"news","snapshot":1}'),
        (protocol.with_id(protocol.PONG, None), '{"action":"pong"}'),
        (protocol.with_id(protocol.PONG, 0), '{"action":"pong","id":0}'),
        (protocol.with_id(protocol.PONG, ""), '{"action":"pong","id":""}'),
        (protocol.with_id(protocol.PONG, "é"), '{"action":"pong","id":"é"}'),
    ],
)
def test_the_messages_are_stable_byte_for_byte(message: bytes, text: str) -> None:
    assert message.decode() == text


@relaxed
@given(st.text())
def test_any_topic_text_and_id_is_escaped(text: str) -> None:
    error = {"action": "error", "code": "forbidden_topic", "message": text, "id": text}
    assert json.loads(protocol.with_id(protocol.error(ErrorCode.FORBIDDEN_TOPIC, text), text)) == error
    assert json.loads(protocol.gap(text))["topic"] == text
    assert json.loads(protocol.message_head(text) + b"null}") == {"action": "message", "topic": text, "snapshot": None}


# What clients ask for.


def refusal(text: str) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse_request(text)
    return caught.value


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        (
            '{"action":"authorization","session":"S","context":"eyJ"}',
            Request("authorization", "S", "eyJ", None),
        ),
        ('{"action":"subscribe","session":"S","context":"T","id":7}', Request("subscribe", "S", "T", 7)),
        ('{"action":"unsubscribe","session":"S","context":"T","id":"7"}', Request("unsubscribe", "S", "T", "7")),
        (' {\n"context":"","action":"subscribe","session":"","more":[{}]} ', Request("subscribe", "", "", None)),
        ('{"action":"ping"}', Request("ping", "", "", None)),
        ('{"action":"ping","session":5,"context":[],"id":0}', Request("ping", "", "", 0)),
        ('{"action":"\\u0070ing","id":"\\ud83d\\ude00"}', Request("ping", "", "", "\N{GRINNING FACE}")),
        ('{"action":"subscribe","action":"ping"}', Request("ping", "", "", None)),
    ],
)
def test_a_request_of_the_right_form_is_read(text: str, request_: Request) -> None:
    assert parse_request(text) == request_


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("", "malformed", "not valid JSON"),
        ("hello", "malformed", "not valid JSON"),
        ('{"action":"ping"', "malformed", "not valid JSON"),
        ('{"action":"ping"}{"action":"ping"}', "malformed", "not valid JSON"),
        ("{'action':'ping'}", "malformed", "not valid JSON"),
        ('{"action":NaN}', "malformed", "not valid JSON"),
        ('{"action":"ping","id":1e999}', "malformed", "not valid JSON"),
        ('{"action":"\\ud800"}', "malformed", "not valid JSON"),
        ('{"action":"\ud800"}', "malformed", "not valid JSON"),
        ("[" * 2000 + "]" * 2000, "malformed", "not valid JSON"),
        ("null", "malformed", "got null"),
        ("true", "malformed", "got a boolean"),
        ("12", "malformed", "got a number"),
        ('"ping"', "malformed", "got a string"),
        ('[{"action":"ping"}]', "malformed", "got an array"),
        ("{}", "malformed", "action is missing"),
        ('{"Action":"ping"}', "malformed", "action is missing"),
        ('{"action":null}', "malformed", "action is missing"),
        ('{"action":["ping"]}', "malformed", "action must be a string, not an array"),
        ('{"action":{}}', "malformed", "action must be a string, not an object"),
        ('{"action":""}', "unknown_action", "the actions are authorization, subscribe, unsubscribe, ping"),
        ('{"action":"Ping"}', "unknown_action", "no such action"),
        ('{"action":"message","topic":"T"}', "unknown_action", "no such action"),
        ('{"action":"subscribe","context":"T"}', "malformed", "session is missing"),
        ('{"action":"subscribe","session":5,"context":"T"}', "malformed", "session must be the session id"),
        ('{"action":"subscribe","session":"S"}', "malformed", "context is missing"),
        ('{"action":"subscribe","session":"S","context":["T"]}', "malformed", "a topic, not an array"),
        ('{"action":"unsubscribe","session":"S","context":1}', "malformed", "a topic, not a number"),
        ('{"action":"authorization","session":"S","context":false}', "malformed", "a token, not a boolean"),
    ],
)
def test_every_mistake_has_its_slug_and_says_what_is_wrong(text: str, code: str, words: str) -> None:
    error = refusal(text)
    assert (error.code, error.request_id) == (code, None)
    assert words in error.message


@pytest.mark.parametrize(
    "text",
    [
        '{"id":5}',
        '{"id":5,"action":[]}',
        '{"id":5,"action":"nonsense"}',
        '{"id":5,"action":"subscribe"}',
        '{"id":5,"action":"subscribe","session":"S"}',
    ],
)
def test_a_refusal_carries_the_id_where_there_is_one(text: str) -> None:
    assert refusal(text).request_id == 5


@pytest.mark.parametrize("id", ["", "a", "\x00", "é\N{GRINNING FACE}", '"}', 0, -1, 2**53 + 1, -(2**63), 2**64 - 1])
def test_an_id_is_a_string_or_a_64_bit_integer_and_comes_back_the_same(id: str | int) -> None:
    request = parse_request(json.dumps({"action": "ping", "id": id}))
    assert request.request_id == id
    assert type(request.request_id) is type(id)
    assert json.loads(protocol.with_id(protocol.PONG, request.request_id)) == {"action": "pong", "id": id}


@pytest.mark.parametrize(
    "id", ["true", "false", "null", "1.0", "1e2", "[]", "{}", str(2**64), str(-(2**63) - 1), "9" * 40]
)
def test_any_other_id_is_malformed_and_does_not_come_back(id: str) -> None:
    error = refusal(f'{{"action":"ping","id":{id}}}')
    assert (error.code, error.request_id) == ("malformed", None)
    assert "id must be a string or a 64-bit integer, not" in error.message


JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=5,
)
ACTIONS = st.sampled_from(["authorization", "subscribe", "unsubscribe", "ping"])


@relaxed
@given(
    st.text(st.characters())
    | JSON_VALUES.map(json.dumps)
    | st.dictionaries(st.sampled_from(["action", "session", "context", "id"]), ACTIONS | JSON_VALUES).map(json.dumps)
)
def test_no_text_raises_anything_but_a_request_error(text: str) -> None:
    outcome: RequestError | Request
    try:
        outcome = parse_request(text)
    except RequestError as exc:
        outcome = exc
    if isinstance(outcome, Request):
        assert type(outcome.session) is type(outcome.context) is str
        assert outcome.action in {"authorization", "subscribe", "unsubscribe", "ping"}
    else:
        assert outcome.code in {"malformed", "unknown_action"}
        assert json.loads(protocol.with_id(protocol.error(outcome.code, outcome.message), outcome.request_id))


# Topics.

WHITE_SPACE = [chr(code) for code in range(0x110000) if chr(code).isspace()]
CONTROL_CHARACTERS = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) == "Cc"]


def is_topic(topic: str) -> bool:
    code = ""
    try:
        check_topic(topic)
    except RequestError as exc:
        code = exc.code
    assert code in {"", "invalid_topic"}
    return not code


@pytest.mark.parametrize(
    "topic",
    [
        "a",
        "*",
        "[a-z]?",
        "chat:room/1.2-3_4",
        "_keyspace@0__:x",
        "a__b",
        "{42}.topic",
        '"\\',
        "é\N{GRINNING FACE}",
        "a" * 256,
        "é" * 128,
        "\N{GRINNING FACE}" * 64,
        "\u200b",
    ],
)
def test_a_topic_is_1_to_256_bytes_of_utf8(topic: str) -> None:
    assert is_topic(topic)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "a" * 257,
        "é" * 128 + "a",
        "\N{GRINNING FACE}" * 64 + "a",
        "a" * 100_000,
        "__",
        "___",
        "__keyspace@0__:x",
        "__keyevent@0__:del",
        "__sentinel__:hello",
        "__redis__:invalidate",
        "__é",
    ],
)
def test_other_lengths_and_names_of_redis_are_refused(topic: str) -> None:
    assert not is_topic(topic)


@pytest.mark.parametrize("place", ["{}topic", "to{}pic", "topic{}", "{}"])
def test_white_space_and_control_characters_are_refused_wherever_they_stand(place: str) -> None:
    assert len(CONTROL_CHARACTERS) == 65
    assert [sign for sign in {*WHITE_SPACE, *CONTROL_CHARACTERS} if is_topic(place.format(sign))] == []


@relaxed
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_a_topic_is_valid_by_the_rule_and_no_other(topic: str) -> None:
    by_the_rule = (
        1 <= len(topic.encode()) <= 256
        and not topic.startswith("__")
        and not any(sign.isspace() or unicodedata.category(sign) == "Cc" for sign in topic)
    )
    assert is_topic(topic) is by_the_rule


NAMES = st.text("_@0k:", max_size=6)


@relaxed
@given(NAMES, NAMES)
def test_no_topic_reaches_a_channel_of_redis_behind_any_prefix_that_the_settings_allow(prefix: str, topic: str) -> None:
    try:
        Settings(auth="none", channel_prefix=prefix)
    except ValidationError:
        assume(False)
    assume(is_topic(topic))
    assert not (prefix + topic).startswith("__")


def test_a_topic_that_is_not_unicode_is_refused() -> None:
    """Requests can't carry one, but a command line can: ``wsd publish $'\\xff'``."""
    assert not is_topic("\udcff")
