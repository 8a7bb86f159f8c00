"""Traffic for a long time, while clients come and go, and some don't keep up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self

from bench.measure.cores import Cores
from bench.measure.rig import Rig
from bench.measure.window import checks, window
from bench.measure.work import Result, Windows, Work
from bench.servers.server import Server

__all__ = ["Soak"]

SAMPLES = 60
"""Looks at what a soaking server holds: a short soak is looked at often enough to have a trend, and a long one not so
often that looking (PSS of a large process takes milliseconds of its core's kernel time) becomes a load."""


@dataclass(frozen=True, slots=True)
class Soak(Work):
    """Traffic for a long time."""

    kind: ClassVar[str] = "soak"

    churn: float  # clients that come and go per second; a tenth of the connections are such
    slow: int  # clients that read only a trickle

    def within(self, windows: Windows) -> Self:
        """See :meth:`Work.within`."""
        return replace(self, load=replace(self.load, seconds=windows.soak))

    def measure(self, server: type[Server], cores: Cores) -> Result:
        """See :meth:`Work.measure`."""
        load = self.load
        with Rig(server, cores) as rig:
            shard = rig.shard
            shard.open(rig.plan(load))
            visitors = max(load.connections // 10, 1)
            shard.open(rig.plan(load, "churners", count=visitors, from_start=False, sampled=0))
            shard.ask("churn", group="churners", rate=self.churn)
            if self.slow:
                changes: dict[str, Any] = {"slow": 2000, "receive_buffer": 4096}
                shard.open(rig.plan(load, "slow", count=self.slow, from_start=False, sampled=0, **changes))
            samples: list[Result] = []
            with rig.publisher(load, load.warm_up + load.seconds) as publisher:
                publisher.start()
                time.sleep(load.warm_up)
                before = rig.read()
                begin, every = time.monotonic(), load.seconds / SAMPLES
                while (passed := time.monotonic() - begin) < load.seconds - every:
                    samples.append({"at": passed} | _held(rig.server))
                    time.sleep(every)
                published = publisher.result()
                drained = shard.drain(published["published"], load.topics, quiet=load.quiet, timeout=load.drain)
                after = rig.read(drained)
            result: Result = {"server": server.name, "kind": self.kind, "load": asdict(load), "samples": samples}
            result |= window(load, before, after, published)
            result["checks"] = checks(drained)
            result["churned"] = drained["groups"]["churners"]["left"]
            result["churn_failures"] = drained["groups"]["churners"]["failures"]
            if self.slow:
                result["slow"] = {name: drained["groups"]["slow"][name] for name in ("broken", "closes", "connections")}
            # What the traffic beside the listeners costs is in the CPU, not in the deliveries.
            for name in ("memory", "descriptors", "threads", "tasks"):
                result[f"{name}_growth"] = _growth([each[name] for each in samples if each[name] is not None])
            return result

    def __str__(self) -> str:
        return f"{self.load}, {self.churn:g} clients/s come and go, {self.slow} are slow"


def _held(server: Server) -> Result:
    """What a server holds now."""
    return {
        "memory": server.memory(),
        "descriptors": server.descriptors(),
        "threads": server.threads(),
        "tasks": server.tasks(),
    }


def _growth(values: Sequence[float]) -> float | None:
    """How much the last fifth is above the second fifth: the first is warm-up. None if there are too few values."""
    fifth = len(values) // 5
    if not fifth:
        return None
    return sum(values[-fifth:]) / fifth - sum(values[fifth : 2 * fifth]) / fifth
