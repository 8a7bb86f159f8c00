"""Descriptors that run out: in processes of their own, with low limits."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from bench.processes import plain_environment
from tests import ROOT
from tests.lib.clients import Client
from tests.lib.programs import Daemon
from tests.lib.servers import RedisServer
from tests.lib.waiting import PATIENCE, eventually
from wsd import descriptors
from wsd.descriptors import FEW_CONNECTIONS
from wsd.worker import RESERVED_DESCRIPTORS


@pytest.fixture
def soft_limit() -> Iterator[Callable[[int], None]]:
    """Sets the limit of this process, and sets it back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda number: resource.setrlimit(resource.RLIMIT_NOFILE, (number, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_whether_some_are_free(soft_limit: Callable[[int], None]) -> None:
    assert not descriptors.shortage()
    with ExitStack() as stack:
        for _ in range(200):
            stack.callback(os.close, os.dup(0))
        highest = max(map(int, os.listdir("/dev/fd")))
        soft_limit(highest + 1)
        assert descriptors.limit() == highest + 1
        while True:
            try:
                stack.callback(os.close, os.dup(0))
            except OSError:
                break
        assert descriptors.shortage()
    # Those that are free now have lower numbers than others that are taken.
    assert not descriptors.shortage()


def limited(limit: int, *args: str) -> list[str]:
    """A command with a hard limit of open files."""
    return ["/bin/sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", sys.executable, "-m", "wsd", *args]


@pytest.mark.parametrize("limit", [20, 64, 100, RESERVED_DESCRIPTORS])
@pytest.mark.parametrize("command", ["serve", "dev"])
def test_a_daemon_that_could_serve_nobody_does_not_start(command: str, limit: int, redis: RedisServer) -> None:
    args = (command, "--auth=none", "--port=0", "--admin-port=0", f"--redis-url={redis.url}")
    done = subprocess.run(
        limited(limit, *args),
        env=plain_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"wsd: the limit of open files is {limit}, of which ")
    assert str(RESERVED_DESCRIPTORS) in last and "LimitNOFILE=" in last
    assert "Traceback" not in done.stderr and "stopped" not in done.stderr


async def test_a_daemon_with_few_descriptors_warns_and_refuses_politely(
    redis: RedisServer, start_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = RESERVED_DESCRIPTORS + 30
    monkeypatch.setattr(Daemon, "program", tuple(limited(limit))[:7])
    daemon = start_daemon("--auth=none", "--port=0", "--admin-port=0", f"--redis-url={redis.url}", "--drain-seconds=0")
    warning = daemon.wait_for("the limit of")
    assert f"the limit of {limit} open files allows only " in warning and "LimitNOFILE=" in warning
    most = int(warning.split("allows only ")[1].split(" ")[0])
    assert 1 <= most <= 30
    daemon.wait_until_ready()
    inside = [await Client(daemon.port).__aenter__() for _ in range(most)]
    # Full, and the admin port held by idle connections: clients hear 503, and balancers why.
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(socket.create_connection(("127.0.0.1", daemon.admin_port)))
        refused = [await Client(daemon.port, greet=False).__aenter__() for _ in range(40)]
        assert {client.response.split(" ")[1] for client in refused} == {"503"}
        assert daemon.readiness() == (503, f"not ready: full: {most} connections")
    for client in [*inside, *refused]:
        client.writer.close()
    await eventually(lambda: daemon.readiness() == (200, "ready"))


def test_descriptors_that_something_else_takes_are_noticed(
    redis: RedisServer, start_daemon: Callable[..., Daemon]
) -> None:
    """The limit is lowered while the daemon runs, as if so many descriptors were taken."""
    daemon = start_daemon("--auth=none", "--port=0", "--admin-port=0", f"--redis-url={redis.url}", "--drain-seconds=0")
    daemon.wait_until_ready()
    (worker,) = daemon.workers
    before = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    taken = len(os.listdir(f"/proc/{worker}/fd"))
    few = taken + descriptors.SPARE // 2
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (few, before[1]))
    assert f"fewer than {descriptors.SPARE} of {few} are free" in daemon.wait_for("out of descriptors")
    assert daemon.readiness()[0] == 503
    assert daemon.readiness()[1].startswith("not ready: out of descriptors: ")
    resource.prlimit(worker, resource.RLIMIT_NOFILE, before)
    daemon.wait_for("enough free descriptors again")
    assert daemon.readiness() == (200, "ready")


def test_a_limit_that_is_high_is_nothing_to_speak_of(redis: RedisServer, start_daemon: Callable[..., Daemon]) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < FEW_CONNECTIONS + RESERVED_DESCRIPTORS + 100:
        pytest.skip("the limit of open files of this machine is low")
    daemon = start_daemon("--auth=none", "--port=0", "--admin-port=0", f"--redis-url={redis.url}")
    assert not any("open files" in line for line in daemon.log)
