"""On systemd's journal each line has its priority in front, and no time of its own."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable

import pytest

from wsd.logs import process, say, setup
from wsd.logs.journal import is_journal, with_priority


@pytest.fixture
def journal(log: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What was written to standard error, which passes for the journal."""
    monkeypatch.setattr(process, "is_journal", lambda descriptor: True)
    return lambda: log().splitlines()


LEVELS = pytest.mark.parametrize(
    ("level", "number"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3), ("critical", 2)]
)


@LEVELS
def test_the_priority_is_that_of_syslog(level: str, number: int, journal: Callable[[], list[str]]) -> None:
    setup("debug", "text")
    logging.getLogger("wsd.x").log(getattr(logging, level.upper()), "a line")
    assert journal() == [f"<{number}>{level.upper():7} wsd.x: a line"]


@LEVELS
def test_a_json_object_stands_behind_its_priority(level: str, number: int, journal: Callable[[], list[str]]) -> None:
    setup("debug", "json")
    logging.getLogger("wsd.x").log(getattr(logging, level.upper()), "a line")
    (line,) = journal()
    assert line.startswith(f"<{number}>")
    assert json.loads(line[3:])["level"] == level


def test_every_line_of_a_traceback_has_the_priority(journal: Callable[[], list[str]]) -> None:
    setup("info", "text")
    try:
        raise ValueError("bad\n<0>forged")
    except ValueError:
        logging.getLogger("wsd.x").exception("it failed")
    first, *rest = journal()
    assert first == "<3>ERROR   wsd.x: it failed"
    assert len(rest) > 3
    assert all(line.startswith("<3>  ") for line in rest)


@pytest.mark.parametrize("format", ["text", "json"])
def test_what_the_command_line_says_and_what_was_lost_have_one_too(
    format: str, journal: Callable[[], list[str]]
) -> None:
    setup("info", format)
    assert say("port: 'x' is no port")
    logging.getLogger("wsd.x").info("%d of them", "many")  # the line is wrong
    mistake, wrong = journal()
    assert mistake.startswith("<3>") and "port: 'x' is no port" in mistake
    assert wrong.startswith("<3>") and "a line can't be written" in wrong
    assert format == "json" or mistake == "<3>wsd: port: 'x' is no port"
    assert process._handler is not None
    assert process._handler._loss(2, "nobody read it").startswith(b"<4>")


def test_a_variable_that_names_another_file_means_nothing(
    log: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child of a service has inherited it, and may have been given another standard error."""
    status = os.fstat(2)
    for value in (f"{status.st_dev}:{status.st_ino + 1}", f"{status.st_dev}", "", "x:y", "8:"):
        monkeypatch.setenv("JOURNAL_STREAM", value)
        assert not is_journal(2)
    setup("info", "text")
    logging.getLogger("wsd.x").info("a line")
    assert re.match(r"\d{4}-\d\d-\d\d ", log())


def test_the_variable_names_the_file_of_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    status = os.fstat(writing)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    assert is_journal(writing)
    os.close(reading)
    os.close(writing)


def test_a_descriptor_that_is_closed_is_no_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    assert not is_journal(writing)


def test_levels_between_those_of_the_library_count_as_the_one_below() -> None:
    assert with_priority("a\nb", logging.WARNING + 5) == "<4>a\n<4>b"
    assert with_priority("a", 1) == "<7>a"
    assert with_priority("", logging.INFO) == "<6>"
