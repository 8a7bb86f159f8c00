"""What the system says about processes and about itself: psutil's words, but for what it tells less finely."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from bench.processes import ROOT

__all__ = [
    "cpu_seconds",
    "descendants",
    "describe",
    "descriptors",
    "family_cpu_seconds",
    "memory_bytes",
    "peak_bytes",
    "threads",
]

_TICKS = os.sysconf("SC_CLK_TCK")

LOOKS = 20
"""Times that a family is looked at until it stands still. Processes come and go seldom, and a look takes 0.2 ms."""


def descendants(pid: int) -> list[int]:
    """A process and all that descend from it.

    The kernel keeps a list of them. psutil looks through all processes of the machine instead, which takes 4 ms of a
    core of the load, at each reading.
    """
    found, todo = [], [pid]
    while todo:
        each = todo.pop()
        found.append(each)
        for tasks in Path(f"/proc/{each}/task").glob("*/children"):
            todo += map(int, _read(tasks).split())
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time, in user and system mode, of these processes, with the threads of theirs that have ended.

    From the clock that the kernel has for each process, in nanoseconds; psutil counts ticks of 10 ms.
    """
    total = 0.0
    for pid in pids:
        with suppress(OSError):  # it has ended
            # clock_getcpuclockid(3), which Python hasn't: the number of a process's clock is made from its id.
            total += time.clock_gettime((~pid << 3) | 2)
    return total


def family_cpu_seconds(pid: int) -> float:
    """CPU time of a process, of all that descend from it, and of those of them that have ended and were waited for.

    A child that ends leaves its time to the parent that waits for it, so the number doesn't fall: but for the rounding
    of the kernel, which tells that time in ticks of 10 ms.
    """
    for _ in range(LOOKS):
        members = descendants(pid)
        reaped = [_reaped_ticks(each) for each in members]
        own = cpu_seconds(members)
        # Who came or went in between would count twice, or not at all.
        if descendants(pid) == members and [_reaped_ticks(each) for each in members] == reaped:
            break
    return own + sum(reaped) / _TICKS


def _reaped_ticks(pid: int) -> int:
    """CPU time of the children that a process has waited for, and of theirs: proc_pid_stat(5), cutime and cstime."""
    # The name, which stands in brackets before, may hold anything.
    columns = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return sum(map(int, columns[13:15]))


def memory_bytes(pids: Iterable[int]) -> int:
    """Memory of these processes: PSS, in which shared pages count once."""
    total = 0
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            total += psutil.Process(pid).memory_full_info().pss
    return total


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had resident: since it started, or since that was forgotten.

    psutil has it only on Windows.
    """
    for line in _read(Path(f"/proc/{pid}/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def descriptors(pids: Iterable[int]) -> int:
    """Open descriptors of these processes."""
    total = 0
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            total += psutil.Process(pid).num_fds()
    return total


def threads(pids: Iterable[int]) -> int:
    """Threads of these processes."""
    total = 0
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            total += psutil.Process(pid).num_threads()
    return total


def describe(checkout: Path = ROOT) -> dict[str, Any]:
    """The machine, and the versions of what runs on it.

    Args:
        checkout: the repository that is measured.
    """
    cpu = next((line for line in _read(Path("/proc/cpuinfo")).splitlines() if line.startswith("model name")), "")
    return {
        "cpu": cpu.partition(":")[2].strip() or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "system": platform.system(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in ("websockets", "uvloop", "redis", "hiredis", "orjson", "pyjwt")},
        "redis": _first_line("redis-server", "--version"),
        "node": _first_line("node", "--version"),
        "nats-server": _first_line("nats-server", "--version"),
        "nginx": _first_line("nginx", "-v"),
        "revision": _revision(checkout),
        "load": psutil.getloadavg()[0],
    }


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # the process has ended


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _first_line(program: str, flag: str) -> str:
    if shutil.which(program) is None:
        return ""
    result = subprocess.run([program, flag], capture_output=True, text=True, check=False)
    return (result.stdout or result.stderr).partition("\n")[0].strip()


def _revision(checkout: Path) -> str:
    """The revision of a checkout, with a + if something isn't committed."""
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True
        )
        state = subprocess.run(
            ["git", "status", "--porcelain"], cwd=checkout, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if state.stdout else "")
