"""Many messages at once, over topics in turn: what does that cost in time, in memory, and in messages?"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self

from bench.load.control import Stops
from bench.measure.cores import Cores
from bench.measure.fan_out import SETTLE
from bench.measure.rig import Rig
from bench.measure.window import checks, disturbance
from bench.measure.work import Result, Windows, Work
from bench.servers.server import Server

__all__ = ["Burst"]

BURST_SECONDS = 0.001
"""Seconds over which the messages of a burst are due: at once, as nothing takes less."""


@dataclass(frozen=True, slots=True)
class Burst(Work):
    """Many messages at once."""

    kind: ClassVar[str] = "burst"

    messages: int
    stalled: int = 0  # clients that listen to the same, and read nothing while it lasts

    def within(self, windows: Windows) -> Self:
        """See :meth:`Work.within`: it lasts as long as it lasts."""
        return self

    def shrunk(self, by: int) -> Self:
        """See :meth:`Work.shrunk`."""
        return replace(self, load=self.load.shrunk(by), messages=self.messages // by, stalled=-(-self.stalled // by))

    def measure(self, server: type[Server], cores: Cores) -> Result:
        """See :meth:`Work.measure`."""
        load = self.load
        with Rig(server, cores) as rig:
            rig.shard.open(rig.plan(load))
            if self.stalled:
                changes: dict[str, Any] = {"slow": 1, "receive_buffer": 4096}
                rig.shard.open(rig.plan(load, "stalled", count=self.stalled, from_start=False, sampled=0, **changes))
            time.sleep(SETTLE)
            with Stops(rig.server.port, cores.load) as stops:
                rig.server.forget_peak()
                peak, before = rig.server.peak(), rig.read()
                hurry = replace(load, rate=self.messages / BURST_SECONDS)
                with rig.publisher(hurry, BURST_SECONDS) as publisher:
                    began = time.monotonic_ns()
                    publisher.start()
                    published = publisher.result()
                    drained = rig.shard.drain(published["published"], load.topics, quiet=5.0, timeout=load.drain)
                    after = rig.read(drained)
                found = stops.result()
            result: Result = {"server": server.name, "kind": self.kind, "load": asdict(load)}
            result |= {"messages": self.messages, "stalled": self.stalled, "stops": found}
            result |= {"cpu": after.server - before.server, "memory_growth": rig.server.peak() - peak}
            generators = after.shard["cpu"] - before.shard["cpu"] + published["cpu"] + found["cpu"]
            result |= disturbance(before, after, generators)
            result["seconds"] = max(drained["groups"]["listeners"]["last_message"] - began, 0) / 1e9
            return result | {"checks": checks(drained)}

    def __str__(self) -> str:
        load = self.load
        stalled = f" and {self.stalled} that don't read" if self.stalled else ""
        return (
            f"{self.messages:,} messages of {load.size} B at once over {load.topics:,} topics, to {load.connections:,}"
            f" on {load.topics_each} of them{stalled}"
        )
