"""Programs that the bench and the tests start, and their ports."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
from itertools import chain, count
from pathlib import Path

import pytest

from bench.processes import Program, free_port, plain_environment
from tests.lib.waiting import PATIENCE

SLEEP = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(3600)"]

HOLD = [
    sys.executable,
    "-c",
    "import sys; from bench.processes import free_port; print(free_port(), flush=True); input()",
]
"""Takes a port, and keeps it until its standard input ends."""


def test_no_two_processes_get_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with Program(HOLD, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder, holder.stdin, holder.stdout:
        theirs = int(holder.stdout.readline())
        drawn = chain([theirs], count(free_port() + 1))
        monkeypatch.setattr(random, "randrange", lambda *bounds: next(drawn))
        assert free_port() != theirs, "somebody has it, although nobody listens"
    drawn = chain([theirs], count(theirs + 1))
    assert free_port() == theirs, "its process has ended"


def test_a_port_comes_once_and_no_client_gets_it() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert max(ports) < client.getsockname()[1]


def test_a_node_gets_a_port_for_its_bus_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bus:
        taken = bus.getsockname()[1] - 10_000
        drawn = chain([taken], count(free_port()))
        monkeypatch.setattr(random, "randrange", lambda *bounds: next(drawn))
        assert free_port(bus=10_000) != taken


def test_a_program_ends_with_what_it_has_started() -> None:
    shell = Program(f"{sys.executable} -c 'import time; time.sleep(3600)' & echo $!; wait", stdout=subprocess.PIPE)
    with shell.stdout:
        child = int(shell.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        assert shell.status is None
        assert shell.kill() == -signal.SIGKILL
        assert shell.stdout.read() == b"", "the child, which had it too, is gone"
    assert shell.status == shell.kill() == -signal.SIGKILL


def test_a_program_that_does_not_end_is_ended() -> None:
    with Program(SLEEP, stdout=subprocess.PIPE) as program, program.stdout:
        assert program.stdout.readline() == b"begun\n"
        program.signal(signal.SIGSTOP)
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(0.01)
        assert program.terminate(patience=0.01) == -signal.SIGKILL
    with Program(SLEEP, stdout=subprocess.PIPE) as program, program.stdout:
        assert program.stdout.readline() == b"begun\n"
        assert program.terminate(patience=PATIENCE) == -signal.SIGTERM


def test_no_setting_of_ours_reaches_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSD_PORT", "1")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/somewhere")
    assert plain_environment(WSD_HOST="x").get("WSD_PORT", "") == ""
    with Program("echo $WSD_PORT$CREDENTIALS_DIRECTORY$WSD_HOST", stdout=subprocess.PIPE) as shell, shell.stdout:
        assert shell.stdout.read() == b"\n"
