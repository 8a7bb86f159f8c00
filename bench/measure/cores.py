"""Which cores are for whom, and how busy they are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Busy", "Cores", "busy"]

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores are for whom. Empty: any."""

    server: tuple[int, ...]
    load: tuple[int, ...]

    @classmethod
    def split(cls) -> Cores:
        """The first core for the server, the others for the load; if there is only one, all for all."""
        first, *others = sorted(os.sched_getaffinity(0))
        return cls((first,), tuple(others)) if others else cls((), ())

    def for_workers(self, most: int) -> Cores:
        """The same cores, for a server that has up to so many workers.

        Each worker gets a core, and the load what is left. If nothing would be left, all share all: what is measured
        then is bounded by the machine, and the load's share of it must be named.
        """
        if most == 1:
            return self
        every = tuple(sorted({*self.server, *self.load}))
        return Cores(every[:most], every[most:]) if len(every) > most else Cores(every, every)

    @property
    def shared(self) -> bool:
        """Whether server and load have the same cores."""
        return self.server == self.load


@dataclass(frozen=True, slots=True)
class Busy:
    """What some cores have spent since the machine started, in CPU seconds."""

    used: float  # by whoever, on this machine or on others of its host
    stolen: float  # the part of it that other machines of the host took


def busy(cores: Sequence[int]) -> Busy:
    """What these cores have spent."""
    used = stolen = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *columns = line.split()
        if name in {f"cpu{core}" for core in cores}:
            # proc_stat(5): user nice system idle iowait irq softirq steal
            used += sum(map(int, columns[:3] + columns[5:8]))
            stolen += int(columns[7])
    return Busy(used / _TICKS, stolen / _TICKS)
