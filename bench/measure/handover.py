"""The server reloads under its clients: each worker hands its connections over to a new one, and no client may notice.

1. A reload without clients tells what starting the new workers costs.
2. All clients subscribe, and the publisher starts. Of every client the numbers are looked at, and the longest pause
   between two messages.
3. For a while nothing else happens: the calm, whose pauses are what the others are held to. The longest pause of
   thousands of clients is that of the machine's worst moment, with or without a reload.
4. The server reloads. The window ends when all its workers are others than before.
5. Everything that was published is waited for, and held against what came.

All processes share all cores, as a reload doubles the workers. What a reload costs is the CPU of all processes of the
server in its window, less what they use in the calm in the same time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Self

from bench.load.control import GeneratorError
from bench.measure.cores import Cores
from bench.measure.rig import Rig
from bench.measure.window import checks, disturbance, setup
from bench.measure.work import Result, Windows, Work
from bench.servers.process import ServerError
from bench.servers.server import Server

__all__ = ["Handover"]

PATIENCE = 120.0
"""Seconds for a reload."""

LOOK = 0.02
"""Seconds between two looks whether a reload is over."""

CALM = 3.0
"""Seconds of the calm, at least: about as long as a reload, as the longest pause of a longer window is longer."""

SETTLE = 0.5
"""Seconds after the last worker was replaced that count as the reload, too: the main process is replaced last."""

DRAIN = 30
"""Seconds that clients have to go over to another worker: what wsd comes with. In the other rows they have none."""

ENDLESS = 3600.0
"""Seconds that the publisher is told to publish. It is stopped before."""


@dataclass(frozen=True, slots=True)
class Handover(Work):
    """The server reloads under ``load.connections`` clients that get messages."""

    kind: ClassVar[str] = "handover"

    def within(self, windows: Windows) -> Self:
        """See :meth:`Work.within`: what is measured for a time is the calm."""
        return replace(self, load=replace(self.load, seconds=max(windows.seconds_of(self.load), CALM)))

    def shrunk(self, by: int) -> Self:
        """See :meth:`Work.shrunk`."""
        load = self.load.shrunk(by)
        return replace(self, load=replace(load, seconds=CALM / by))

    def measure(self, server: type[Server], cores: Cores) -> Result:
        """See :meth:`Work.measure`."""
        load = self.load
        patient = type(server.__name__, (server,), {"drain_seconds": DRAIN})
        with Rig(patient, cores) as rig:
            result: Result = {"server": server.name, "kind": self.kind, "load": asdict(load)}
            before = rig.server.cpu()
            _reload(rig.server)
            alone = rig.server.cpu() - before
            before = rig.server.cpu()
            opened = rig.shard.open(rig.plan(load, witnessed=True))
            result["setup"] = setup(opened, rig.server.cpu() - before, load.connections)
            with rig.publisher(load, ENDLESS) as publisher:
                publisher.start()
                time.sleep(load.warm_up)
                calm, moved = rig.read(rig.shard.turn()), rig.server.moved()
                time.sleep(load.seconds)
                begin = rig.read(rig.shard.turn())
                seconds = _reload(rig.server)
                end = rig.read(rig.shard.turn())
                publisher.halt()
                published = publisher.result()
                drained = rig.shard.drain(published["published"], load.topics, quiet=load.quiet, timeout=load.drain)
            told = rig.server.moved()
            result["moved"] = load.connections if told is None or moved is None else told - moved
            steady = (begin.server - calm.server) / (begin.at - calm.at)
            spent = end.server - begin.server - steady * (end.at - begin.at)
            result |= {"seconds": seconds, "cpu": spent, "cpu_alone": alone}
            result["cpu_per_moved_us"] = spent / max(result["moved"], 1) * 1e6
            result["cpu_per_moved_more_us"] = (spent - alone) / max(result["moved"], 1) * 1e6
            result["pauses"] = _pauses(rig.shard.pauses())
            listeners = drained["groups"]["listeners"]
            result["closed"] = sum(listeners["broken"].values())
            result["gaps"] = sum(count for text, count in listeners["notes"].items() if '"gap"' in text)
            result["checks"] = checks(drained)
            elapsed = (end.at - begin.at) / 1e9
            shares = {
                "generator": (end.shard["cpu"] - begin.shard["cpu"]) / elapsed,
                "publisher": published["cpu"] / published["seconds"],
                "redis": (end.redis - begin.redis) / elapsed,
            }
            result |= {"server_share": (end.server - begin.server) / elapsed, "shares": shares}
            generators = (shares["generator"] + shares["publisher"]) * elapsed
            return result | disturbance(begin, end, generators)

    def __str__(self) -> str:
        return f"a reload under {self.load}"


def _reload(server: Server) -> float:
    """Reload, and wait for the end; return the seconds that it took.

    Raises:
        ServerError: if the server has no workers, or doesn't come to the end.
    """
    began = time.monotonic()
    server.reload()
    while not server.reloaded():
        if time.monotonic() - began > PATIENCE:
            raise ServerError(f"the reload is not over after {PATIENCE:g} s: {server.log()[-2000:]}")
        time.sleep(LOOK)
    took = time.monotonic() - began
    time.sleep(SETTLE)
    return took


def _pauses(found: Mapping[int, Sequence[int]]) -> Result:
    """The longest pause of each client, in the calm and during the reload, over all clients; microseconds.

    Args:
        found: by client, the longest in the time before the calm, in the calm, and during the reload. Those that were
            cut off are not among them.

    Raises:
        GeneratorError: if nobody is left.
    """
    if not found:
        raise GeneratorError("all connections are gone, so there are no pauses")
    calm = sorted(windows[1] / 1000 for windows in found.values())
    reload = sorted(windows[2] / 1000 for windows in found.values())
    more = sorted((windows[2] - windows[1]) / 1000 for windows in found.values())
    return {
        "calm_us": _spread(calm),
        "reload_us": _spread(reload),
        "more_us": _spread(more),  # of each client, how much longer
        "beyond_us": reload[-1] - calm[-1],  # of all clients together
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Some percentiles of sorted values, and the greatest."""
    return {
        "p50": values[len(values) // 2],
        "p99": values[min(len(values) * 99 // 100, len(values) - 1)],
        "longest": values[-1],
    }
