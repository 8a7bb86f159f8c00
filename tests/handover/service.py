"""The daemon from outside: its processes, what they hold, and its reloads."""

from __future__ import annotations

import os
import re
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from signal import SIGHUP
from typing import NamedTuple

from tests.lib.programs import WSD, Daemon
from tests.lib.waiting import PATIENCE, until

__all__ = ["Holdings", "Service", "children"]

RELOAD_PATIENCE = 4 * PATIENCE
"""Seconds for a reload to end. Each worker may take a minute to start on a busy machine, and waits for Redis; a client
that reads nothing holds each up for ten seconds."""


class Holdings(NamedTuple):
    """What processes hold, all together."""

    processes: int
    descriptors: int
    threads: int
    memory: int  # bytes that are resident
    supervisor: int  # those of the supervisor alone


def children(pid: int) -> list[int]:
    """The processes that a process has started and that are there, zombies excepted."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if int(parent) == pid and state != "Z":
                    found.append(int(entry.name))
    return sorted(found)


class Service(Daemon):
    """``wsd serve`` with several workers."""

    program = WSD

    @property
    def workers(self) -> list[int]:
        """The process ids of its workers; its own if it has none."""
        return children(self.pid) or [self.pid]

    def metrics(self) -> dict[str, float]:
        """What /metrics says: values by name and labels."""
        with urllib.request.urlopen(f"{self.admin}/metrics", timeout=PATIENCE) as response:
            lines = response.read().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric, over what has these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            value
            for key, value in self.metrics().items()
            if re.split(r"[{ ]", key)[0] == name and all(each in key for each in wanted)
        )

    def reloads(self, result: str = "done") -> int:
        """How many reloads have ended like this."""
        return int(self.metric("wsd_reloads_total", result=result))

    def reload(self, result: str = "done") -> float:
        """Reload, and wait until that has ended in a certain way; return how long it took, in seconds.

        When it is done, the supervisor has executed itself, and its workers are the new ones.
        """
        before, executed = self.reloads(result), self._executed()
        start = time.monotonic()
        self.signal(SIGHUP)
        until(lambda: self.reloads(result) > before, f"a reload that is {result}", RELOAD_PATIENCE)
        if result == "done":
            until(lambda: self._executed() > executed, "the supervisor that has executed itself")
        return time.monotonic() - start

    def _executed(self) -> int:
        """How often the supervisor has executed itself."""
        return self.lines.text.count("the supervisor runs wsd")

    def holdings(self) -> Holdings:
        """What its processes hold now."""
        pids = [self.pid, *children(self.pid)]
        descriptors = threads = memory = supervisor = 0
        for pid in pids:
            status = Path(f"/proc/{pid}/status").read_text()
            numbers = {name: int(n) for name, n in re.findall(r"^(Threads|VmRSS):\s+(\d+)", status, re.MULTILINE)}
            descriptors += len(os.listdir(f"/proc/{pid}/fd"))
            threads += numbers["Threads"]
            memory += numbers["VmRSS"] * 1024
            if pid == self.pid:
                supervisor = memory
        return Holdings(len(pids), descriptors, threads, memory, supervisor)

    def complaints(self) -> list[str]:
        """Lines of the log that speak of a bug."""
        return [line.strip() for line in self.log if re.search(r"Traceback|\bERROR\b|\bCRITICAL\b", line)]
