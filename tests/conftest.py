"""How the tests run: coroutines on uvloop, and a real Redis."""

from __future__ import annotations

import asyncio
import fcntl
import inspect
import os
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import uvloop
from hypothesis import settings

from tests.lib.programs import Daemon
from tests.lib.servers import RedisServer

# A machine that is busy takes any time for an example. `make test` tries the same examples each time, a few; who looks
# for what nobody has found asks for many, and for others each time: make test ARGS=--hypothesis-profile=thorough
settings.register_profile("wsd", deadline=None, max_examples=50, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("wsd")


for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # of the `make` that started the tests; some tests run another
    os.environ.pop(name, None)

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell lets its jobs in the background ignore it, and children
    signal.signal(signal.SIGINT, signal.default_int_handler)  # inherit that; tests end commands by it

LONGEST = (
    "tests/faults/test_faults.py",
    "tests/handover/test_reloads.py",
    "tests/handover/test_kills.py",
    "tests/house/test_packaging.py",
    "tests/simulation/test_models.py",
    "tests/simulation/test_runner.py",
    "tests/whole/redis/test_source.py",
    "tests/bench/test_locust.py",
    "tests/whole/systemd/test_host.py",
    "tests/whole/papers/test_commands.py",
    "tests/bench/test_command.py",
    "tests/bench/test_measure.py",
)
"""The files that take longest. They begin first, because one that begins last would go on alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the files that take longest to the front. Within a file the order stays."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.nodeid.split("::", 1)[0], len(rank)))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function on an event loop of its own, the one that the daemon uses."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    loop_factory = cast(Callable[[], asyncio.AbstractEventLoop], pyfuncitem.funcargs["loop_factory"])
    problems: list[dict[str, object]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
        await pyfuncitem.obj(**arguments)

    runner = asyncio.Runner(loop_factory=loop_factory)
    try:
        runner.run(watched())
    except BaseException:
        # Of what a failed test leaves open the loop warns; were that an exception, it would wait for its end for ever.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            runner.close()
        raise
    runner.close()
    assert not problems, f"the loop caught exceptions: {problems}"
    return True


@pytest.fixture(autouse=True)
def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes the event loop of a test that is a coroutine function. A lane may have one of its own."""
    return uvloop.new_event_loop


@pytest.fixture
def usual_ports() -> Iterator[None]:
    """Keeps the ports that users type, 3000, 3001 and 6379, for one test at a time, of all runs on this machine."""
    with (Path(tempfile.gettempdir()) / f"wsd-usual-ports-{os.getuid()}").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    """A Redis that the tests of one process share; they don't harm it, and each uses channels of its own."""
    server = RedisServer()
    yield server
    server.remove()


@pytest.fixture
def make_redis() -> Iterator[Callable[..., RedisServer]]:
    """Makes Redis servers that the test may kill, freeze and configure."""
    servers: list[RedisServer] = []

    def make(*options: str) -> RedisServer:
        servers.append(RedisServer(*options))
        return servers[-1]

    yield make
    for server in servers:
        server.remove()


@pytest.fixture
def own_redis(make_redis: Callable[..., RedisServer]) -> RedisServer:
    """A Redis that the test may kill and freeze."""
    return make_redis()


@pytest.fixture
def start_daemon() -> Iterator[Callable[..., Daemon]]:
    """Starts ``wsd serve`` in processes of their own."""
    daemons: list[Daemon] = []

    def start(*flags: str, **environment: str) -> Daemon:
        daemons.append(Daemon(*flags, **environment))
        return daemons[-1]

    yield start
    for daemon in daemons:
        daemon.kill()
