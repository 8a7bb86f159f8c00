"""Snapshots are held to two JSON parsers that are not ours: the standard library's and pydantic's (jiter).

For any payload clients get one JSON object, and JSON stands in it byte for byte. ``is_json`` is held to the standard
library as its oracle; and the words by which orjson tells why it refuses a text are held to the installed orjson.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import orjson
import pydantic_core
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from wsd.protocol import payload as snapshot
from wsd.protocol.messages import message_head
from wsd.protocol.payload import MAX_DEEP, embed, is_json

HEAD = message_head("news")
KEYS = ["action", "topic", "snapshot"]

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
hunting = settings(relaxed, max_examples=5 * settings().max_examples)


# JSON as publishers write it, and worse.

NUMBERS = r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,5})?"
ESCAPES = r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})'

spaces = st.text(" \t\n\r", max_size=2)
characters = st.characters(exclude_categories=["Cs"], exclude_characters='"\\', min_codepoint=0x20)
contents = st.lists(characters | st.from_regex(ESCAPES, fullmatch=True), max_size=5).map("".join)
strings = contents.map('"{}"'.format)
keys = st.sampled_from(['"a"', '"b"', '""']) | strings  # few, so that some come twice
scalars = strings | st.from_regex(NUMBERS, fullmatch=True) | st.sampled_from(["true", "false", "null"])


def spaced(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(spaces, texts, spaces).map("".join)


def nested(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    arrays = st.lists(values, max_size=4).map(",".join).map("[{}]".format)
    members = st.tuples(spaced(keys), values).map(":".join)
    objects = st.lists(members, max_size=4).map(",".join).map("{{{}}}".format)
    return spaced(arrays | objects)


json_texts = st.recursive(spaced(scalars), nested, max_leaves=8)

ALPHABET = '[]{},:"\\ \n/u0d8cD19eE.+-trfalsn'


@st.composite
def nearly_json(draw: st.DrawFn) -> str:
    """JSON with a piece taken out, put in or replaced."""
    text = draw(json_texts)
    start = draw(st.integers(0, len(text)))
    end = start + draw(st.integers(0, 3))
    return text[:start] + draw(st.text(ALPHABET, max_size=3)) + text[end:]


texts = json_texts | nearly_json() | st.text(ALPHABET) | st.text()


def is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def accepted(text: str) -> bool:
    """Ask the standard library whether a text is JSON."""
    try:
        # Digits stay digits: int() would refuse 5,000 of them.
        json.loads(text, parse_int=str, parse_float=str, parse_constant=refuse)
    except ValueError:
        return False
    return True


def parsed(message: bytes) -> dict[str, Any]:
    """Parse a message, which must be UTF-8 and one JSON object whose keys are in order and come once."""
    pairs = json.loads(message.decode(), object_pairs_hook=tuple, parse_constant=refuse)
    keys = [key for key, _ in pairs]
    assert keys in (KEYS, [*KEYS, "encoding"])
    if b"\\u" not in message:  # jiter refuses lone surrogates
        assert list(pydantic_core.from_json(message, allow_inf_nan=False)) == keys
    return dict(pairs)


# What becomes of a payload.


@relaxed
@given(json_texts)
def test_json_is_embedded_byte_for_byte(text: str) -> None:
    message = embed(HEAD, text.encode())
    assert message == HEAD + text.encode() + b"}"
    assert list(parsed(message)) == KEYS


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@relaxed
@given(
    st.recursive(plain, lambda values: st.lists(values) | st.dictionaries(st.text(), values), max_leaves=10),
    st.sampled_from([{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}, {"sort_keys": True}]),
)
def test_what_programs_dump_comes_out_as_it_went_in(value: object, style: dict[str, Any]) -> None:
    payload = json.dumps(value, **style).encode()
    message = embed(HEAD, payload)
    assert message == HEAD + payload + b"}"
    assert json.loads(message) == {"action": "message", "topic": "news", "snapshot": value}


@relaxed
@given(st.text() | nearly_json())
def test_other_text_becomes_a_string_that_equals_it(text: str) -> None:
    if not accepted(text):
        assert parsed(embed(HEAD, text.encode())) == {"action": "message", "topic": "news", "snapshot": text}


NOT_UTF8 = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"]


@relaxed
@given(st.tuples(st.binary(), st.sampled_from(NOT_UTF8), st.just(b"") | st.binary()).map(b"".join))
def test_other_bytes_become_base64_and_say_so(payload: bytes) -> None:
    assume(not is_utf8(payload))
    found = parsed(embed(HEAD, payload))
    assert list(found) == [*KEYS, "encoding"]
    assert found["encoding"] == "base64"
    assert base64.b64decode(found["snapshot"], validate=True) == payload


@hunting
@given(st.binary() | texts.map(str.encode) | st.tuples(st.binary(max_size=3), json_texts.map(str.encode)).map(b"".join))
def test_whatever_is_published_clients_get_one_json_object(payload: bytes) -> None:
    message = embed(HEAD, payload)
    assert message.startswith(HEAD)
    assert list(parsed(message)) == (KEYS if is_utf8(payload) else [*KEYS, "encoding"])


@pytest.mark.parametrize(
    ("payload", "becomes"),
    [
        (b'{"info": "Hello from Redis"}', "json"),
        (b" [1 ,\t2]\r\n", "json"),
        (b'{"b":1,"a":2,"b":3}', "json"),
        (b"12345678901234567890123456789012345678901234567890", "json"),
        (b"-0", "json"),
        (b"1.10", "json"),
        (b"1E400", "json"),
        (b"-" + b"9" * 5000, "json"),
        (b"0." + b"1" * 5000 + b"e-5000", "json"),
        (b'"\\u00e9\\/\\ud83d\\ude00"', "json"),
        (b'"\\ud800"', "json"),
        (b'["\\uDFFF\\uD800", 1e999]', "json"),
        (b'"\x7f\xe2\x80\xa8"', "json"),
        (b"[" * 1024 + b"]" * 1024, "json"),
        (b"[" * 1025 + b"]" * 1025, "json"),
        (b'{"a":' * 5000 + b"null" + b"}" * 5000, "json"),
        (b"", "text"),
        (b" ", "text"),
        (b"hello", "text"),
        (b'","snapshot":1,"x":"', "text"),
        (b"NaN", "text"),
        (b"-Infinity", "text"),
        (b"01", "text"),
        (b"1.", "text"),
        (b"+1", "text"),
        (b"[1,]", "text"),
        (b"[1e999,]", "text"),
        (b"{'a':1}", "text"),
        (b'{"a":1}{"a":1}', "text"),
        (b'{"a":1}}', "text"),
        (b'"\\ud800', "text"),
        (b'"\\ud80"', "text"),
        (b'["\\ud800"]]', "text"),
        (b'"\\ud800\n"', "text"),
        (b'"\x00"', "text"),
        (b"1\x00", "text"),
        (b"\xef\xbb\xbf1", "text"),
        (b"\xc2\xa01", "text"),
        (b"1 // one", "text"),
        (b"[" * 1025, "text"),
        (b"[" * 1025 + b"}" * 1025, "text"),
        (b"\xff", "base64"),
        (b'"\xff"', "base64"),
        (b'"\xed\xa0\x80"', "base64"),
        (b"\x81\x05hello", "base64"),
    ],
)
def test_each_payload_becomes_what_the_protocol_says(payload: bytes, becomes: str) -> None:
    message = embed(HEAD, payload)
    if becomes == "json":
        assert message == HEAD + payload + b"}"
    elif becomes == "text":
        assert parsed(message) == {"action": "message", "topic": "news", "snapshot": payload.decode()}
    else:
        assert message == HEAD + b'"%b","encoding":"base64"}' % base64.b64encode(payload)


@hunting
@given(texts)
@example('["\\ud83d",01]')
@example('["\\ud83d" "a"]')
@example('["\\ud83d",NaN]')
@example("[1e999,-Infinity]")
@example('{"\\ud83d":1,}')
@example('"\\ud83d\\u12_4"')
@example('["\\ud83d",\f1]')
@example('["\\ud83d",\u0661]')
@example('["\\\\ud83d", 1e999]')
@example('{"a":"\\ud83d","a":"\\ud83d"}')
@example("[1e999," + "9" * 5000 + "." + "9" * 5000 + "]")
def test_a_text_is_embedded_if_and_only_if_it_is_json(text: str) -> None:
    payload = text.encode()
    assert (embed(HEAD, payload) == HEAD + payload + b"}") is accepted(text)


@pytest.mark.parametrize("unusual", ['"\\ud83d"', "1e999", "-" + "9" * 5000])
@given(data=st.data())
@relaxed
def test_what_orjson_refuses_is_judged_by_the_grammar_wherever_it_stands(unusual: str, data: st.DataObject) -> None:
    text = f"[{unusual},{data.draw(texts)}]"
    payload = text.encode()
    assert (embed(HEAD, payload) == HEAD + payload + b"}") is is_json(text) is accepted(text)


def deep(size: int) -> bytes:
    """JSON of this many bytes that no C parser takes for its depth."""
    levels = 100_000
    return b"[" * levels + b" " * (size - 2 * levels) + b"]" * levels


def test_deep_json_is_embedded_up_to_a_size() -> None:
    for payload in (deep(MAX_DEEP), b'{"\\ud83d":' * 990 + b"1" + b"}" * 990):
        assert embed(HEAD, payload) == HEAD + payload + b"}"
    # Larger, it is a string, which all clients can parse.
    payload = deep(MAX_DEEP + 1)
    assert parsed(embed(HEAD, payload))["snapshot"] == payload.decode()


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b'["\\ud83d"' + b",1" * 250_000 + b"]", id="lone surrogate"),
        pytest.param(b"[1e999" + b",1.5" * 125_000 + b"]", id="infinity"),
        pytest.param(b'["\\ud83d"' + b',{"a":"b"}' * 50_000 + b"]", id="objects"),
        pytest.param(b'["' + b'\\ud83d","' * 60_000 + b'"]', id="many lone surrogates"),
        pytest.param(b"[" * 400_000 + b"]" * 400_000, id="deep"),
    ],
)
def test_what_orjson_refuses_costs_a_fraction_of_the_walk(payload: bytes) -> None:
    def cost(work: Callable[[], object]) -> float:
        # The least of three, in CPU time: a busy machine delays both alike.
        runs = []
        for _ in range(3):
            started = time.process_time()
            work()
            runs.append(time.process_time() - started)
        return min(runs)

    text = payload.decode()
    assert cost(lambda: embed(HEAD, payload)) < cost(lambda: is_json(text)) / 3


# is_json


@hunting
@given(texts)
@example('"\\ud800\\udc00\\ud800"')
@example("[1,\n]")
@example("\f1")
@example("\u0661")  # a digit, but not one of JSON's
def test_is_json_agrees_with_the_standard_library(text: str) -> None:
    assert is_json(text) is accepted(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "-",
            "+1",
            ".5",
            "1.",
            "1.e5",
            "1e",
            "1e+",
            "01",
            "-01",
            "--1",
            "0x1",
            "1_0",
            "1 2",
            "1,",
            "tru",
            "True",
        ),
        *('"', '"\\"', '"\\x"', '"\\u12"', '"\\u12g4"', '"\0"', '"\x1f"', '"a\nb"', "'a'", '"a""b"'),
        *("[", "]", "[}", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "[1:2]", "[]]", "[][]"),
        *("{", "}", "{]", '{"a"', '{"a":', '{"a":1', '{"a":1,', '{"a":1,}', '{"a"}', "{1:2}", '{"a":1 "b":2}', "{a:1}"),
    ],
)
def test_is_json_refuses_what_is_nearly_json(text: str) -> None:
    assert not accepted(text)
    assert not is_json(text)
    if text.strip():
        assert not is_json(f"[{text}]")
        assert not is_json(f'{{"a":{text}}}')


@pytest.mark.parametrize("depth", [1, 1024, 1025, 100_000])
def test_depth_is_no_matter(depth: int) -> None:
    assert is_json("[" * depth + "]" * depth)
    assert is_json('{"":[' * depth + "]}" * depth)
    assert not is_json("[" * depth + "]" * (depth - 1))
    assert not is_json("[" * depth + "]" * (depth + 1))
    assert not is_json("[" * depth + "}" + "]" * (depth - 1))


def test_the_size_of_numbers_is_no_matter() -> None:
    assert is_json("1" * 100_000)
    assert is_json("1e" + "9" * 100_000)
    assert not is_json("0" * 100_000)


# What orjson says.


def orjson_says(payload: bytes) -> str:
    """Why orjson refuses a payload; "" if it doesn't."""
    try:
        orjson.loads(payload)
    except orjson.JSONDecodeError as exc:
        return str(exc)
    return ""


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b'"\\ud800"', "surrogate in string"),
        (b'"\\udc00"', "surrogate in string"),
        (b'"\\ud800\\ud800"', "surrogate in string"),
        (b'"\\ud800\\n"', "surrogate in string"),
        (b'{"\\udfff":1}', "surrogate in string"),
        (b"1e999", "infinity"),
        (b"-1e999", "infinity"),
        (b"1" * 400, "infinity"),
        (b"[" * 1025 + b"]" * 1025, "depth limit"),
        (b'{"a":' * 1025 + b"1" + b"}" * 1025, "depth limit"),
    ],
)
def test_the_words_are_those_of_the_installed_orjson(payload: bytes, words: str) -> None:
    assert words in snapshot._STRICTER_THAN_RFC_8259
    assert words in orjson_says(payload)


@hunting
@given(texts)
def test_orjson_differs_from_the_grammar_only_where_it_says_so(text: str) -> None:
    why = orjson_says(text.encode())
    if not why:
        assert accepted(text)
    elif accepted(text):
        assert any(words in why for words in snapshot._STRICTER_THAN_RFC_8259)


# Time. Linear means about 0.4 s for the slowest of these on a slow core; quadratic would take minutes.

MIB = 2**20


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"[" * MIB, id="opened"),
        pytest.param(b"[" * (MIB // 2) + b"]" * (MIB // 2), id="deep"),
        pytest.param(b'["\\ud800"' + b",1" * (MIB // 2) + b"]", id="many scalars"),
        pytest.param(b'"' + b"\\ud800" * (MIB // 6) + b'"', id="escapes"),
        pytest.param(b'["\\ud800","' + b"a" * MIB, id="never closed"),
        pytest.param(b'["\\ud800",' + b" " * MIB + b"x]", id="white space"),
        pytest.param(b'["\\ud800"' + b" , 1" * (MIB // 4) + b"x", id="white space in pieces"),
        pytest.param(b"1" * MIB, id="one number"),
        pytest.param(b"[" + b"1" * MIB + b".]", id="nearly one number"),
        pytest.param(b'"' * MIB, id="quotes"),
        pytest.param(b"\x00" * MIB, id="control characters"),
        pytest.param(b"\xff" * MIB, id="binary"),
    ],
)
def test_no_megabyte_takes_long(payload: bytes) -> None:
    started = time.process_time()
    embed(HEAD, payload)
    assert time.process_time() - started < 5
