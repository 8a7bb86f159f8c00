"""The log is held to one line per event, whatever the event holds."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.lib.logs import entries
from wsd.logs import BoundedLogger, fields, setup
from wsd.logs.lines import JSONFormatter

NASTY = [
    "two\nlines",
    "carriage\rreturn",
    "\x1b[31mred\x1b[0m",
    "\x00\x07\x7f\x85",
    "\u2028\u202e",
    'quotes " and \\',
    "%s %d %",
    "é\N{GRINNING FACE}",
    "\ud800",
    "",
]


def test_an_event_is_one_json_object_on_a_line(log: Callable[[], str]) -> None:
    setup("info", "json")
    before = time.time()
    logging.getLogger("wsd.x").warning("%d connections of %a", 2, "ann\n")
    (entry,) = entries(log())
    assert list(entry) == ["time", "level", "logger", "message"]
    assert (entry["level"], entry["logger"], entry["message"]) == ("warning", "wsd.x", "2 connections of 'ann\\n'")
    moment = datetime.strptime(entry["time"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    assert moment.timestamp() == pytest.approx(before, abs=5)


@pytest.mark.parametrize("text", NASTY, ids=ascii)
@pytest.mark.parametrize("how", ["%s", "%a", "%r"])
def test_json_lines_parse_whatever_the_message(text: str, how: str, log: Callable[[], str]) -> None:
    setup("info", "json")
    logging.getLogger("wsd.x").info(f"it says {how}", text)
    logging.getLogger("wsd.x").info("next")
    first, second = entries(log())
    assert first["message"] == "it says " + how % text
    assert second["message"] == "next"


@settings(deadline=None)
@given(st.text(), st.text())
@example("\ud800", "\udfff")
def test_any_record_is_one_line_that_parses(message: str, name: str) -> None:
    record = logging.LogRecord(name, logging.ERROR, __file__, 1, message, None, None)
    line = JSONFormatter().format(record)
    assert not set(line) & set("\n\r\0\x1b")
    entry = json.loads(line.encode())
    assert (entry["message"], entry["logger"]) == (message, name)


def test_a_traceback_stays_within_the_line(log: Callable[[], str]) -> None:
    setup("info", "json")
    try:
        raise ValueError("bad\nvalue \udcff")
    except ValueError:
        logging.getLogger("wsd.x").exception("it failed")
    (entry,) = entries(log())
    assert entry["message"] == "it failed"
    assert entry["traceback"].startswith("Traceback")
    assert entry["traceback"].endswith("ValueError: bad\nvalue \udcff")


# Text


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_what_others_say_forges_no_line_if_it_is_logged_as_the_rule_is(text: str, log: Callable[[], str]) -> None:
    setup("info", "text")
    logging.getLogger("wsd.x").info("a client says %a", f"{text}\n2026-01-01 00:00:00,000 ERROR wsd: forged")
    (line,) = log().splitlines()
    assert line.isascii()
    assert line.isprintable()
    assert " INFO    wsd.x: a client says '" in line


def test_the_time_is_utc_in_text_too(log: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        setup("info", "text")
        logging.getLogger("wsd.x").info("x")
        moment = datetime.strptime(log()[:19], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert moment.timestamp() == pytest.approx(time.time(), abs=5)


def test_fields_are_members_of_the_json_object_and_hide_none(log: Callable[[], str]) -> None:
    setup("info", "json")
    values = {"topic": "a\nb", "code": 4008, "message": "not this", "odd": {1}}
    logging.getLogger("wsd.x").info("it says %s", "so", extra=fields(**values))
    BoundedLogger(logging.getLogger("wsd.x")).warning("kind", "refused", client="192.0.2.1", peer="192.0.2.1:5")
    first, second = entries(log())
    assert (first["topic"], first["code"], first["message"], first["odd"]) == ("a\nb", 4008, "it says so", "{1}")
    assert (second["message"], second["peer"]) == ("refused", "192.0.2.1:5")


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_line_is_bounded_and_one_that_is_wrong_is_said(format: str, log: Callable[[], str]) -> None:
    setup("info", format)
    logging.getLogger("wsd.x").info("x" * 1_000_000, extra=fields(reason="y" * 1_000_000))
    logging.getLogger("wsd.x").info("%d of them", "many")
    first, second = log().splitlines()
    assert len(first) < 12_000
    assert "a line can't be written (TypeError): '%d of them'" in second


def test_nothing_in_a_traceback_passes_for_a_line(log: Callable[[], str]) -> None:
    setup("info", "text")
    try:
        raise ValueError("bad\n2026-01-01 00:00:00,000 ERROR   wsd: forged\x1b[31m")
    except ValueError:
        logging.getLogger("wsd.x").exception("it failed")
    head, *rest = log().splitlines()
    assert head.endswith("it failed")
    assert all(line.startswith("  ") and line.isprintable() for line in rest)


@pytest.mark.parametrize("format", ["text", "json"])
def test_where_there_are_several_workers_each_line_says_whose_it_is(format: str, log: Callable[[], str]) -> None:
    setup("info", format, worker=3)
    logging.getLogger("wsd.x").warning("it is full")
    line = log()
    if format == "json":
        assert (json.loads(line)["worker"], json.loads(line)["message"]) == (3, "it is full")
    else:
        assert line.endswith(" WARNING wsd.x: worker 3: it is full\n")


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_traceback_of_another_process_stands_where_any_does(format: str, log: Callable[[], str]) -> None:
    setup("info", format)
    stacks = 'Thread 0x1:\n  File "x.py", line 1 in f'
    logging.getLogger("wsd.x").error("stuck", extra=fields(worker=1) | {"traceback": stacks})
    text = log()
    if format == "json":
        assert (json.loads(text)["traceback"], json.loads(text)["worker"]) == (stacks, 1)
    else:
        assert text.splitlines()[1:] == ["  Thread 0x1:", '    File "x.py", line 1 in f']
