"""What the bench reads of processes that come and go."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from bench.measure.machine import cpu_seconds, descendants, descriptors, family_cpu_seconds, memory_bytes, threads
from bench.processes import Program
from bench.servers.process import Process

BURN = """
import sys, time
def burn(clock, seconds):
    begin = clock()
    while clock() - begin < seconds:
        pass
"""

CHILD = f"{BURN}\nburn(time.process_time, 0.2)\nprint('burnt', flush=True)\ninput()"

PARENT = f"""{BURN}
import subprocess
for line in sys.stdin:
    child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    print('burnt', flush=True)
    sys.stdin.readline()
    child.communicate(b'\\n')
    print('ended', flush=True)
"""
"""At each line it starts a child that uses 0.2 s of CPU, and at the next it waits for the child's end."""

THREAD = f"""{BURN}
import threading
for _ in range(2):
    thread = threading.Thread(target=burn, args=(time.thread_time, 0.1))
    thread.start()
    thread.join()
print('burnt', flush=True)
input()
"""

ROUNDING = 0.02
"""Seconds by which the kernel may tell the time of children that have ended too short: a tick each for user and system
mode."""


class Family(Process):
    """A parent whose children come and go, as a server."""

    def __init__(self, program: Program, cores: Collection[int] = ()) -> None:
        super().__init__(cores)
        self._program = program


def say(program: Program, answer: bytes) -> None:
    """Send an empty line, and wait for the answer."""
    program.stdin.write(b"\n")
    program.stdin.flush()
    assert program.stdout.readline() == answer


def test_cpu_is_that_of_all_processes_and_does_not_end_with_them() -> None:
    command = [sys.executable, "-c", PARENT]
    with Program(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent, parent.stdin, parent.stdout:
        server = Family(parent)
        told = [server.cpu()]
        for children in (1, 2, 3):
            say(parent, b"burnt\n")
            assert len(server.pids) == 2
            told.append(server.cpu())
            assert told[-1] - told[0] >= 0.2 * children - ROUNDING, "of the child that runs"
            assert cpu_seconds([parent.pid]) < told[-1] - 0.2 * children + ROUNDING, "and not the parent's own"
            say(parent, b"ended\n")
            assert server.pids == [parent.pid]
            told.append(server.cpu())
            assert family_cpu_seconds(parent.pid) >= told[-2] - ROUNDING
        assert told == sorted(told), "it never falls"
        assert told[-1] - told[0] >= 0.6 - ROUNDING


def test_cpu_of_threads_that_have_ended_counts() -> None:
    command = [sys.executable, "-c", THREAD]
    with Program(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program, program.stdin, program.stdout:
        assert program.stdout.readline() == b"burnt\n"
        assert cpu_seconds([program.pid]) >= 0.2


def test_memory_descriptors_and_threads_are_those_of_all_processes() -> None:
    command = [sys.executable, "-c", PARENT]
    with Program(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent, parent.stdin, parent.stdout:
        server = Family(parent)
        say(parent, b"burnt\n")
        both, alone = server.pids, [parent.pid]
        assert memory_bytes(both) > memory_bytes(alone) > 0
        assert descriptors(both) >= descriptors(alone) + 3
        assert threads(both) == 2
        assert server.peak() >= memory_bytes(both) > 0
        say(parent, b"ended\n")
        # Who asks may have looked the processes up before one of them ended.
        assert (descriptors(both), threads(both)) == (descriptors(alone), 1)
        assert cpu_seconds(both) <= cpu_seconds(alone), "which was read later"
        assert memory_bytes(both) > 0


def test_a_process_that_has_ended_has_nothing() -> None:
    with Program([sys.executable, "-c", ""]) as program:
        assert program.terminate(patience=60) in (0, -15)
    gone = program.pid
    assert not Path(f"/proc/{gone}").exists()
    assert (descriptors([gone]), threads([gone]), memory_bytes([gone]), cpu_seconds([gone])) == (0, 0, 0, 0.0)
    assert descendants(gone) == [gone] and family_cpu_seconds(gone) == 0
