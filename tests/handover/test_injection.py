"""Traps and other values reach the processes of wsd, whoever starts them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.processes import Program, plain_environment
from tests.handover.injection import Injection

FUNCTION = "wsd.protocol.messages:check_topic"
"""In the place of one that tells of a step: it takes a text."""

# As wsd's modules do: by name, and in a child that inherits the environment.
PROGRAM = """
import subprocess, sys
from wsd.protocol.messages import MAX_TOPIC_BYTES, check_topic
print(MAX_TOPIC_BYTES, flush=True)
if sys.argv[1:]:
    sys.exit(subprocess.run([sys.executable, "-c", sys.argv[1]]).returncode)
check_topic("first")
check_topic("second")
print("done", flush=True)
"""

Start = Callable[..., Program]


@pytest.fixture
def injection(tmp_path: Path) -> Injection:
    return Injection(tmp_path, [FUNCTION])


@pytest.fixture
def start(injection: Injection) -> Iterator[Start]:
    programs: list[Program] = []

    def start_one(*args: str) -> Program:
        environment = plain_environment(**injection.environment)
        command = [sys.executable, "-c", PROGRAM, *args]
        programs.append(Program(command, environment=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
        return programs[-1]

    yield start_one
    for program in programs:
        program.kill()
        program.stdout.close()


def test_without_orders_nothing_is_different(start: Start) -> None:
    program = start()
    assert program.wait(60) == 0
    assert program.stdout.read() == b"256\ndone\n"


def test_a_process_stops_at_a_step_and_goes_on(start: Start, injection: Injection) -> None:
    trap = injection.trap(FUNCTION, "second")
    program = start()
    assert trap.wait_for_stop() == program.pid
    assert program.status is None
    trap.release()
    assert program.wait(60) == 0
    assert program.stdout.read() == b"256\ndone\n"


def test_a_process_is_killed_at_a_step(start: Start, injection: Injection) -> None:
    trap = injection.trap(FUNCTION, "first")
    program = start()
    trap.wait_for_stop()
    trap.kill()
    assert program.wait(60) == -signal.SIGKILL
    assert program.stdout.read() == b"256\n"


def test_a_trap_catches_one_process(start: Start, injection: Injection) -> None:
    trap = injection.trap(FUNCTION, "first")
    pid = start().pid
    assert trap.wait_for_stop() == pid
    assert start().wait(60) == 0


def test_a_child_is_caught_too(start: Start, injection: Injection) -> None:
    trap = injection.trap(FUNCTION, "first")
    parent = start(PROGRAM)
    assert trap.wait_for_stop() != parent.pid
    trap.release()
    assert parent.wait(60) == 0


@pytest.mark.parametrize(("act", "status"), [("exit", 70), ("raise", 1)])
def test_a_process_fails_at_a_step(act: str, status: int, start: Start, injection: Injection) -> None:
    injection.trap(FUNCTION, "first", act)
    assert start().wait(60) == status


def test_a_process_hangs_at_a_step(start: Start, injection: Injection) -> None:
    trap = injection.trap(FUNCTION, "first", "hang")
    program = start()
    assert trap.wait() == program.pid
    time.sleep(0.05)
    assert program.status is None


def test_orders_change_while_processes_run(start: Start, injection: Injection) -> None:
    first = injection.trap(FUNCTION, "first")
    program = start()
    first.wait_for_stop()
    second = injection.trap(FUNCTION, "second")
    first.release()
    assert second.wait_for_stop() == program.pid
    second.release()
    injection.clear()
    assert start().wait(60) == 0


def test_a_constant_has_another_value_in_processes_that_start_later(start: Start, injection: Injection) -> None:
    trap = injection.trap(FUNCTION, "first")
    old = start()
    trap.wait_for_stop()
    injection.set("wsd.protocol.messages:MAX_TOPIC_BYTES", 7)
    new = start()
    assert new.wait(60) == 0
    assert new.stdout.readline() == b"7\n"
    trap.release()
    assert old.stdout.readline() == b"256\n"


def test_a_constant_that_is_not_there_is_a_mistake(start: Start, injection: Injection) -> None:
    injection.set("wsd.protocol.messages:NO_SUCH", 7)
    assert start().wait(60) == 1
