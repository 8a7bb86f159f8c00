"""The unit lane starts no process, opens no socket, and does not sleep: a test that does fails, and belongs into
``tests/whole``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
import uvloop

FORBIDDEN = frozenset(
    {
        "os.exec",
        "os.fork",
        "os.posix_spawn",
        "os.system",
        "pty.spawn",
        "socket.bind",
        "socket.connect",
        "socket.getaddrinfo",
        "socket.sendto",
        "subprocess.Popen",
        "time.sleep",
    }
)
"""Audit events (https://docs.python.org/3/library/audit_events.html). A pair of sockets, by which an event loop wakes
itself, is none of these."""


class NotInThisLaneError(Exception):
    """A unit test did what only a test with real parts may do."""


class Lane:
    """Watches one test at a time."""

    def __init__(self) -> None:
        self.watching = False  # whether a test of the lane runs
        self.found: list[str] = []  # what it did

    def refuse(self, what: str) -> NoReturn:
        """Fail where the call is. The code under test may catch that, so the end of the test looks again."""
        self.found.append(what)
        raise NotInThisLaneError(what)

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        """An audit hook, which nothing can remove: it is silent while other lanes run."""
        if self.watching and event in FORBIDDEN:
            self.refuse(event)


LANE = Lane()
sys.addaudithook(LANE.hook)


def refused(name: str) -> Callable[..., Any]:
    """A method of a loop that is not allowed."""

    async def method(self: object, *args: object, **options: object) -> NoReturn:
        LANE.refuse(f"loop.{name}")

    return method


class LoopWithoutSockets(uvloop.Loop):
    """uvloop opens sockets and starts processes in C, without audit events."""

    for name in (
        "create_connection",
        "create_datagram_endpoint",
        "create_server",
        "create_unix_connection",
        "create_unix_server",
        "getaddrinfo",
        "subprocess_exec",
        "subprocess_shell",
    ):
        locals()[name] = refused(name)
    del name


@pytest.fixture(autouse=True)
def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """The event loop of this lane."""
    return LoopWithoutSockets


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Watch what the fixtures of a test do."""
    LANE.found.clear()
    LANE.watching = True
    try:
        return (yield)
    finally:
        LANE.watching = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Watch what a test does."""
    LANE.watching = True
    try:
        result = yield
    finally:
        LANE.watching = False
    assert not LANE.found, f"{', '.join(LANE.found)}: no process, no socket and no sleep here. Move it to tests/whole."
    return result
