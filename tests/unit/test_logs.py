"""The log is held to one line per event, whatever the event holds, and to its bounded rate."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsd import logs
from wsd.logs import BoundedLogger, JSONFormatter, fields, set_level, setup

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


@pytest.fixture
def log(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What was written to standard error. Leaves the logging of the tests as it was."""
    root = logging.getLogger()
    names = ["wsd", "wsd.x", "websockets", "asyncio"]
    handlers, root.handlers = root.handlers, []
    levels = {name: logging.getLogger(name).level for name in names}

    def read() -> str:
        root.handlers[0].flush()
        return capfd.readouterr().err

    yield read
    for handler in root.handlers:
        handler.close()
    root.handlers = handlers
    logs._handler = None
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def entries(text: str) -> list[dict[str, Any]]:
    """Parse JSON lines, strictly."""
    assert text.endswith("\n")
    return [json.loads(line) for line in text[:-1].split("\n")]


# JSON


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


# Levels


@pytest.mark.parametrize(("level", "said"), [("debug", "dwie"), ("info", "wie"), ("warning", "we"), ("error", "e")])
@pytest.mark.parametrize("format", ["text", "json"])
def test_the_level_is_that_of_wsd(level: str, said: str, format: str, log: Callable[[], str]) -> None:
    setup(level, format)
    for number, letter in ((10, "d"), (30, "w"), (20, "i"), (40, "e")):
        logging.getLogger("wsd.x").log(number, "letter %s", letter)
    assert [line.split("letter ")[1][0] for line in log().splitlines()] == list(said)


def test_the_level_can_be_changed_later(log: Callable[[], str]) -> None:
    setup("warning", "text")
    set_level("info")
    logging.getLogger("wsd.x").info("now")
    set_level("error")
    logging.getLogger("wsd.x").warning("not now")
    assert len(log().splitlines()) == 1


@pytest.mark.parametrize("level", ["debug", "info"])
@pytest.mark.parametrize("name", ["websockets", "websockets.server", "websockets.client", "asyncio", "redis", "any"])
def test_libraries_say_only_what_somebody_should_look_at(name: str, level: str, log: Callable[[], str]) -> None:
    """At DEBUG websockets logs paths, headers and payloads: tokens, that is."""
    setup(level, "text")
    logging.getLogger(name).debug("token")
    logging.getLogger(name).info("token")
    logging.getLogger(name).warning("look")
    assert [line[-4:] for line in log().splitlines()] == ["look"]


def test_setting_up_twice_does_not_say_things_twice(log: Callable[[], str]) -> None:
    setup("info", "text")
    setup("info", "json")
    logging.getLogger("wsd.x").info("once")
    assert len(entries(log())) == 1


# The bounded logger


class Bounded:
    """A bounded logger, its clock and what it logged."""

    def __init__(self, caplog: pytest.LogCaptureFixture, rate: float) -> None:
        self.now = 0.0
        self.logger = BoundedLogger(logging.getLogger("wsd.refusals"), lambda: self.now, rate)
        self.caplog = caplog

    def warn(self, kind: str, times: int = 1) -> list[str]:
        """Warn some times; return the lines that it made."""
        self.caplog.clear()
        for _ in range(times):
            self.logger.warning(kind, "%s of %a", kind, "ann")
        return self.caplog.messages


@pytest.fixture
def bounded(caplog: pytest.LogCaptureFixture) -> Bounded:
    return Bounded(caplog, rate=1.0)


def test_an_event_of_a_kind_is_logged_once_in_a_second(bounded: Bounded) -> None:
    assert bounded.warn("forged") == ["forged of 'ann'"]
    assert bounded.caplog.records[0].levelno == logging.WARNING
    assert bounded.caplog.records[0].name == "wsd.refusals"
    bounded.now = 0.99
    assert bounded.warn("forged", times=10_000) == []
    bounded.now = 1.0
    assert bounded.warn("forged") == ["forged of 'ann' (and 10000 more of this kind since the last line)"]
    bounded.now = 2.0
    assert bounded.warn("forged") == ["forged of 'ann'"]


def test_kinds_do_not_silence_each_other(bounded: Bounded) -> None:
    assert bounded.warn("forged", times=2) == ["forged of 'ann'"]
    assert bounded.warn("full", times=2) == ["full of 'ann'"]
    bounded.now = 1.5
    assert bounded.warn("full") == ["full of 'ann' (and 1 more of this kind since the last line)"]


@pytest.mark.parametrize(("rate", "interval"), [(0.25, 4.0), (8.0, 0.125)])
def test_the_rate_is_lines_per_second(rate: float, interval: float, caplog: pytest.LogCaptureFixture) -> None:
    bounded = Bounded(caplog, rate)
    lines = 0
    for step in range(100):
        bounded.now = step * interval / 4
        lines += len(bounded.warn("forged"))
    assert lines == 25


def test_a_bug_that_recurs_is_logged_with_one_traceback(bounded: Bounded) -> None:
    for number in range(1000):
        try:
            raise ZeroDivisionError(number)
        except ZeroDivisionError:
            bounded.logger.exception("bug", "a message of %d bytes", 5)  # noqa: PLE1205 - its first argument is the kind
    assert bounded.caplog.text.count("Traceback") == 1
    assert "ERROR" in bounded.caplog.text
    assert "a message of 5 bytes" in bounded.caplog.text


def test_a_kind_of_one_client_does_not_silence_it_of_another(bounded: Bounded) -> None:
    for client in ("192.0.2.1", "192.0.2.2"):
        bounded.logger.warning("forged", "of %s", client, client=client)  # noqa: PLE1205
        bounded.logger.warning("forged", "of %s", client, client=client)  # noqa: PLE1205
    assert bounded.caplog.messages == ["of 192.0.2.1", "of 192.0.2.2"]


def test_what_was_left_out_is_said_although_no_more_comes(bounded: Bounded) -> None:
    for _ in range(5):
        bounded.logger.warning("forged", "x", client="192.0.2.1")  # noqa: PLE1205
    bounded.now = 1.9
    bounded.logger.tick()
    assert bounded.caplog.messages == ["x"]
    bounded.now = 2.0
    bounded.logger.tick()
    assert bounded.caplog.messages == ["x", "4 more of this kind since the last line of 192.0.2.1: forged"]
    bounded.now = 100.0
    bounded.logger.tick()
    bounded.logger.flush()
    assert len(bounded.caplog.messages) == 2


def test_what_was_left_out_is_said_at_the_end(bounded: Bounded) -> None:
    assert bounded.warn("forged", times=3) == ["forged of 'ann'"]
    bounded.logger.flush()
    assert bounded.caplog.messages[1:] == ["2 more of this kind since the last line of its kind: forged"]


def test_many_addresses_make_bounded_lines_and_hide_no_other_kind(bounded: Bounded) -> None:
    for second in range(10):
        bounded.now = float(second)
        for number in range(1000):
            bounded.logger.warning("forged", "forged", client=f"2001:db8::{second}:{number}")  # noqa: PLE1205
    lines = bounded.caplog.messages
    assert 100 <= lines.count("forged") <= 130
    assert bounded.warn("full") == ["full of 'ann'"]
    bounded.logger.flush()
    left_out = bounded.caplog.messages[-1]
    said = [int(line.split(" ")[0]) for line in [*lines, left_out] if " more were not logged" in line]
    assert sum(said) + lines.count("forged") == 10_000
    assert left_out.endswith("of the kind forged")


def test_a_client_that_chooses_kinds_makes_bounded_lines_and_memory(bounded: Bounded) -> None:
    for second in range(10):
        bounded.now = float(second)
        for number in range(1000):
            bounded.logger.warning(f"kind {second} {number}", "x", client="192.0.2.1")
    assert bounded.caplog.messages.count("x") <= 350
    bounded.now = 20.0
    bounded.caplog.clear()
    bounded.logger.tick()
    (line,) = bounded.caplog.messages
    assert len(line) < 2000
    assert "of the kind other" in line


def test_fields_are_members_of_the_json_object_and_hide_none(log: Callable[[], str]) -> None:
    setup("info", "json")
    values = {"topic": "a\nb", "code": 4008, "message": "not this", "odd": {1}}
    logging.getLogger("wsd.x").info("it says %s", "so", extra=fields(**values))
    BoundedLogger(logging.getLogger("wsd.x")).warning("kind", "refused", client="192.0.2.1", peer="192.0.2.1:5")
    first, second = entries(log())
    assert (first["topic"], first["code"], first["message"], first["odd"]) == ("a\nb", 4008, "it says so", "{1}")
    assert (second["message"], second["peer"]) == ("refused", "192.0.2.1:5")


def test_what_python_prints_by_itself_is_in_the_log(log: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (sys, "excepthook"),
        (sys, "unraisablehook"),
        (threading, "excepthook"),
        (warnings, "showwarning"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    setup("info", "json")
    logs.catch_all()
    thread = threading.Thread(target=lambda: 1 / 0, name="mine")
    thread.start()
    thread.join()
    warnings.showwarning("look", UserWarning, "x.py", 3)
    try:
        raise ValueError("unraisable")
    except ValueError as exc:
        error = exc
    sys.excepthook(ValueError, error, error.__traceback__)
    thrown, warned, uncaught = entries(log())
    assert thrown["message"] == "the thread 'mine' ended"
    assert "ZeroDivisionError" in thrown["traceback"]
    assert (warned["logger"], warned["message"]) == ("py.warnings", "UserWarning: look (x.py, line 3)")
    assert uncaught["traceback"].endswith("ValueError: unraisable")


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
