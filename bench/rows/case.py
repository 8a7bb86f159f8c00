"""One load of a row, on the servers that it is for."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.measure.cores import Cores
from bench.measure.verdicts import verdicts
from bench.measure.work import Result, Windows, Work
from bench.processes import ROOT
from bench.servers.catalogue import SERVERS
from bench.servers.server import Server

__all__ = ["Case", "Cell", "Suite"]


@dataclass(frozen=True, slots=True)
class Suite:
    """How thoroughly it is measured."""

    name: str
    words: str  # how long it takes, for --help
    windows: Windows
    repetitions: int
    everything: bool = False  # whether to measure what there is no room for in two minutes
    shrunk: int = 1  # divides the clients


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One load of a row.

    Goals and plots name a case and a server by these objects, so that a goal can't ask for a load that isn't measured.
    """

    name: str  # in results; no other case of any row has it
    work: Work
    servers: tuple[str, ...]  # that every suite measures
    more: tuple[str, ...] = ()  # servers that only the full suite measures
    enough: tuple[str, ...] = ()  # servers that tell whether it works; empty: all that every suite measures
    workers: int = 1  # the most that a server of it has: see Cores.for_workers
    repetitions: int = 1  # at least
    repeated: tuple[str, ...] = ()  # servers that these are for; empty: all
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    """By server: fields of the load that are different for it."""

    def work_of(self, server: str) -> Work:
        """What this server is asked to do."""
        return replace(self.work, load=replace(self.work.load, **self.changes.get(server, {})))

    def measures(self, server: str) -> bool:
        """Whether any suite measures this server."""
        return server in self.servers or server in self.more

    def cells(self, row: str, suite: Suite) -> Iterator[Cell]:
        """What a suite measures of it."""
        servers = self.servers + (self.more if suite.everything else ())
        for server in (suite.shrunk > 1 and self.enough) or servers:
            work = self.work_of(server).within(suite.windows)
            if suite.shrunk > 1:
                work = work.shrunk(suite.shrunk)
            least = self.repetitions if server in (self.repeated or (server,)) else 1
            # What is shrunk looks whether all works, and once is enough for that.
            repetitions = 1 if suite.shrunk > 1 else max(suite.repetitions, least)
            yield Cell(row, self.name, server, work, repetitions, self.workers)


@dataclass(frozen=True, slots=True)
class Cell:
    """One load on one server: what is measured at a time."""

    row: str
    case: str
    server: str
    work: Work
    repetitions: int = 1
    workers: int = 1

    @property
    def title(self) -> str:
        """One line for whoever watches."""
        return f"{self.case:13} {self.server:15} {self.work}"

    def measure(self, cores: Cores, *, checkout: Path = ROOT, profile: Path | None = None) -> Result:
        """Measure it once.

        Args:
            cores: which cores are for whom, if the server has one worker.
            checkout: the repository whose server it is.
            profile: the flame graph to write, if the server is a program of Python.

        Raises:
            ServerError: if the server doesn't start.
            GeneratorError: if a generator fails.
            ProfilerError: if there is no flame graph.
        """
        known = SERVERS[self.server]
        profile = profile if known.python else None
        kind: type[Server] = type(known.__name__, (known,), {"checkout": checkout, "profile": profile})
        cores = cores.for_workers(self.workers)
        began, clock = time.time(), time.monotonic()
        result = self.work.measure(kind, cores)
        told = {"row": self.row, "case": self.case, "began": began, "took": time.monotonic() - clock}
        told["cores"] = len({*cores.server, *cores.load}) or os.cpu_count() or 1
        said = verdicts(result, cores) + (["profiled"] if profile else [])
        return {**told, **result, "verdicts": said}
