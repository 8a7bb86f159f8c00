"""What the system says about processes and about itself."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["children", "cpu_seconds", "describe", "descriptors", "memory_bytes", "threads"]

_TICKS = os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found, todo = [], [pid]
    while todo:
        each = todo.pop()
        found.append(each)
        for tasks in Path(f"/proc/{each}/task").glob("*/children"):
            todo += map(int, _read(tasks).split())
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time, in user and system mode, of all threads of these processes.

    From schedstat, which counts nanoseconds, where the kernel has it; else from stat, which counts ticks of 10 ms.
    """
    total = 0.0
    for pid in pids:
        stats = [_read(task) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        if stats and any(line.split()[:1] not in ([], ["0"]) for line in stats):
            total += sum(int(line.split()[0]) for line in stats if line) / 1e9
        elif line := _read(Path(f"/proc/{pid}/stat")):
            # proc_pid_stat(5): fields 14 and 15; the second field may hold spaces.
            user, system = line.rpartition(")")[2].split()[11:13]
            total += (int(user) + int(system)) / _TICKS
    return total


def memory_bytes(pids: Iterable[int]) -> int:
    """Memory of these processes: PSS, in which shared pages count once."""
    total = 0
    for pid in pids:
        for line in _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had resident: since it started, or since that was forgotten."""
    for line in _read(Path(f"/proc/{pid}/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def descriptors(pids: Iterable[int]) -> int:
    """Open descriptors of these processes."""
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


def threads(pids: Iterable[int]) -> int:
    """Threads of these processes."""
    return sum(len(list(Path(f"/proc/{pid}/task").glob("*"))) for pid in pids)


def describe() -> dict[str, Any]:
    """The machine, and the versions of what runs on it."""
    cpu = next((line for line in _read(Path("/proc/cpuinfo")).splitlines() if line.startswith("model name")), "")
    return {
        "cpu": cpu.partition(":")[2].strip() or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "system": platform.system(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in ("websockets", "uvloop", "redis", "hiredis", "orjson", "pyjwt")},
        "redis": _first_line("redis-server", "--version"),
        "node": _first_line("node", "--version"),
        "nats-server": _first_line("nats-server", "--version"),
        "nginx": _first_line("nginx", "-v"),
        "revision": _revision(),
        "load": os.getloadavg()[0],
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


def _revision() -> str:
    """The revision of this checkout, with a + if something isn't committed."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        state = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if state.stdout else "")
