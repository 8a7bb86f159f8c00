"""What the system says about processes and about itself: psutil's words, but for what it tells less finely."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from bench.processes import ROOT

__all__ = ["cpu_seconds", "descendants", "describe", "descriptors", "memory_bytes", "peak_bytes", "threads"]


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
    """CPU time, in user and system mode, of all threads of these processes.

    From schedstat, which counts nanoseconds, where the kernel has it; psutil counts ticks of 10 ms.
    """
    total = 0.0
    for pid in pids:
        stats = [_read(task) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        if stats and any(line.split()[:1] not in ([], ["0"]) for line in stats):
            total += sum(int(line.split()[0]) for line in stats if line) / 1e9
        else:
            with suppress(psutil.NoSuchProcess):
                spent = psutil.Process(pid).cpu_times()
                total += spent.user + spent.system
    return total


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
    return sum(psutil.Process(pid).num_fds() for pid in pids)


def threads(pids: Iterable[int]) -> int:
    """Threads of these processes."""
    return sum(psutil.Process(pid).num_threads() for pid in pids)


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
