"""What the tests of the log share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from wsd.logs import process


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
    process._handler = None
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
