"""What gets into the log of a process: by its level, and what Python would print by itself."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Callable

import pytest

from tests.lib.logs import entries
from wsd.logs import catch_all, set_level, setup


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


def test_what_python_prints_by_itself_is_in_the_log(log: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (sys, "excepthook"),
        (sys, "unraisablehook"),
        (threading, "excepthook"),
        (warnings, "showwarning"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    setup("info", "json")
    catch_all()
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
