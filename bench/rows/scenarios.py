"""What is measured: the rows of the goals table, and the grid for the plots.

A :class:`Cell` is one load on one server, some times. Servers are compared in turn: the first repetition of all, then
the second of all, so that a machine that gets slower meanwhile gets slower for everyone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.measure.run import Cores, Load, Result, burst, fan_out, soak, storm, verdicts
from bench.servers.catalogue import SERVERS

__all__ = ["SUITES", "Cell", "full", "in_turn", "quick"]

ALL = ("wsd", "floor", "floor-joined", "floor-transport", "naive", "node", "nats", "nchan")


@dataclass(frozen=True, slots=True)
class Cell:
    """One load on one server."""

    row: str  # of the goals table, or of the grid: see README.md
    server: str
    load: Load
    kind: str = "fan-out"  # or storm, soak, burst
    standing: Load | None = None  # of a storm
    churn: float = 0.0  # of a soak: clients per second that come and go
    slow: int = 0  # of a soak or burst: clients that don't keep up
    messages: int = 0  # of a burst
    repetitions: int = 1

    @property
    def title(self) -> str:
        """One line for whoever watches."""
        load = self.load
        topics = "" if load.topics == 1 else f", {load.topics} topics, {load.topics_each} each"
        traffic = f" x {load.rate:g}/s x {load.size} B" if self.kind != "storm" else " at once"
        if self.kind == "burst":
            traffic = f" and {self.slow} that don't read x {self.messages:,} at once x {load.size} B"
        return f"{self.row:9} {self.server:15} {load.connections} connections{traffic}{topics}"

    def measure(self, cores: Cores) -> Result:
        """Measure it once."""
        kind = SERVERS[self.server]
        match self.kind:
            case "storm":
                result = storm(kind, self.load, self.standing, cores)
            case "soak":
                result = soak(kind, self.load, cores, churn=self.churn, slow=self.slow)
            case "burst":
                result = burst(kind, self.load, cores, messages=self.messages, stalled=self.slow)
            case _:
                result = fan_out(kind, self.load, cores)
        return result | {"row": self.row, "verdicts": verdicts(result, cores)}


def _rows(row: str, servers: Iterable[str], load: Load, repetitions: int = 1, **more: Any) -> list[Cell]:
    return [Cell(row, server, load, repetitions=repetitions, **more) for server in servers]


def _goals(seconds: float, repetitions: int, soaking: float, few: bool) -> list[Cell]:
    """The rows of the goals table.

    Args:
        seconds: of each window, but of those in which latency is compared: at 20 messages a second, they need more.
        repetitions: of each cell.
        soaking: seconds of the soak.
        few: leave out what two minutes have no room for.
    """
    base = Load(seconds=seconds, warm_up=0.2, drain=3.0)
    # Rates that the naive server can't hold: its cost is what is asked for, so what it still owes isn't waited for.
    beyond = replace(base, drain=0.3)
    cells: list[Cell] = []
    # The ratio to the floor is the tightest goal: these two are repeated.
    cells += _rows("single", ("wsd", "floor"), base, max(repetitions, 3))
    others = ("naive", "node", "nats", "nchan") if few else ("floor-transport", "naive", "node", "nats", "nchan")
    cells += _rows("single", others, base, repetitions)
    # wsd and nats-server are within some per cent here.
    cells += _rows("joined", ("wsd", "nats"), replace(base, rate=2000), max(repetitions, 2))
    cells += _rows("joined", ("naive",), replace(beyond, rate=2000), repetitions)
    cells += _rows("joined", ("wsd", "nats"), replace(base, rate=5000), repetitions)
    if not few:
        cells += _rows("joined", ("floor-joined",), replace(base, rate=5000), repetitions)
        cells += _rows("joined", ("naive", "node"), replace(beyond, rate=5000), repetitions)
    for connections in (5000, 10_000):
        load = replace(base, connections=connections, rate=20, seconds=max(seconds, 1.2))
        cells += _rows("round", ("wsd", "floor", "nats", "nchan"), load, repetitions)
    if few:  # for the plots and the sizing; the grid has more of them
        cells += _rows("clients", ("wsd",), replace(base, rate=20))
        cells += _rows("payload", ("wsd",), replace(base, size=10_000, rate=20))
    cells += _topics(base, repetitions)
    cells += _bursts(few)
    crowd = Load(connections=10_000)
    cells += _rows(
        "storm", ("wsd",) if few else ("wsd", "naive", "node", "nats", "nchan"), crowd, repetitions, kind="storm"
    )
    # Half of what a server on one core can deliver one by one, so that there is time for the crowd at all.
    standing = Load(connections=5000, rate=10, seconds=max(seconds, 1.5))
    cells += _rows("standing", ("wsd",), crowd, repetitions, kind="storm", standing=standing)
    load = replace(base, rate=1000, seconds=soaking)
    cells += _rows("soak", ("wsd",), load, kind="soak", churn=50.0, slow=10)
    return cells


def _topics(base: Load, repetitions: int) -> list[Cell]:
    """Many topics: each server at a rate near the most that it can do, as these are compared.

    At the same rate for both the ratio couldn't exceed that rate over what the naive server can do, and a naive server
    that is offered more than it can do falls apart: at twice as much, it delivers half.
    """
    cells: list[Cell] = []
    for connections, topics, each, ours, theirs in (
        (10_000, 10_000, 1, 180_000, 28_000),
        (10_000, 1000, 1, 45_000, 5_500),
        (500, 500, 50, 20_000, 2_000),
    ):
        load = replace(base, connections=connections, topics=topics, topics_each=each)
        cells += _rows("topics", ("wsd",), replace(load, rate=ours), repetitions)
        cells += _rows("topics", ("naive",), replace(load, rate=theirs), repetitions)
    return cells


def _bursts(few: bool) -> list[Cell]:
    """Many messages at once, each on another topic than the one before.

    A client is due 0.8 MiB: what is more than ``max_backlog`` and doesn't fit into the kernel's buffers would cut off
    those who read no faster than the machine lets them.
    """
    servers = ("wsd",) if few else ("wsd", "naive", "nats")
    cells: list[Cell] = []
    for connections, topics, each, messages in ((1000, 2, 2, 4000), (1000, 10, 10, 4000), (1000, 500, 100, 20_000)):
        load = Load(connections=connections, topics=topics, topics_each=each, size=150, drain=60.0)
        cells += _rows("burst", servers, load, kind="burst", messages=messages)
    # Who doesn't read: what do they cost, and whom?
    load = Load(connections=10, topics=2, topics_each=2, size=150, drain=60.0)
    cells += _rows("stalled", ("wsd",), load, kind="burst", messages=30_000, slow=300)
    return cells


def quick() -> list[Cell]:
    """About two minutes on two cores."""
    return _goals(seconds=1.0, repetitions=1, soaking=4.0, few=True)


def full() -> list[Cell]:
    """The goals with more care, and the grid: about forty minutes, ten of which are the soak."""
    cells = _goals(seconds=3.0, repetitions=2, soaking=600.0, few=False)
    base = Load(seconds=2.0, warm_up=0.3, drain=1.0)
    # At the lower ones no core is full, so the shares tell servers apart; at the higher ones the latencies do.
    for rate in (10, 20, 50, 100, 200, 500, 1000, 2000, 5000):
        cells += _rows("rate", ALL, replace(base, rate=rate), 2)
    for connections in (100, 1000, 2000, 5000, 10_000, 15_000):
        cells += _rows("clients", ALL, replace(base, connections=connections, rate=20))
    for size in (1000, 10_000, 50_000):
        cells += _rows("payload", ALL, replace(base, size=size, rate=20))
    return cells


SUITES: dict[str, Callable[[], list[Cell]]] = {"quick": quick, "full": full}


def in_turn(cells: Sequence[Cell]) -> list[Cell]:
    """The order of measuring: within a load, repetition by repetition over all servers."""
    ordered: list[Cell] = []
    while cells:
        first = (cells[0].row, cells[0].load)
        same = [cell for cell in cells if (cell.row, cell.load) == first]
        cells = [cell for cell in cells if (cell.row, cell.load) != first]
        for repetition in range(max(cell.repetitions for cell in same)):
            ordered += [cell for cell in same if cell.repetitions > repetition]
    return ordered
