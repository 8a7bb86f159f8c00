"""Everyone comes at once, or at a rate: alone, or beside others who get traffic."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self

from bench.load.control import Shard
from bench.load.histogram import Histogram
from bench.measure.cores import Cores
from bench.measure.fan_out import SETTLE
from bench.measure.rig import Rig
from bench.measure.window import checks, disturbance, memory, percentiles, setup
from bench.measure.work import Load, Result, Windows, Work
from bench.servers.server import Server

__all__ = ["Standing", "Storm"]


@dataclass(frozen=True, slots=True)
class Storm(Work):
    """``load.connections`` clients come at once, and then idle."""

    kind: ClassVar[str] = "storm"

    ramp: float = 0.0  # connections per second; 0: as fast as the server lets them
    think: float = 0.0  # seconds before each request, give or take a half

    def within(self, windows: Windows) -> Self:
        """See :meth:`Work.within`: it lasts as long as it lasts."""
        return self

    def measure(self, server: type[Server], cores: Cores) -> Result:
        """See :meth:`Work.measure`."""
        load = self.load
        with Rig(server, cores) as rig:
            result: Result = {"server": server.name, "kind": self.kind, "load": asdict(load)}
            empty, cpu = rig.server.memory(), rig.server.cpu()
            before = rig.read()
            plan = rig.plan(load, "storm", from_start=False, sampled=0, ramp=self.ramp, think=self.think)
            opened = rig.shard.open(plan)
            after = rig.read()
            result["setup"] = setup(opened, after.server - cpu, load.connections)
            seconds, generator = (after.at - before.at) / 1e9, after.shard["cpu"] - before.shard["cpu"]
            result["server_share"] = (after.server - before.server) / seconds
            result["shares"] = {"generator": generator / seconds, "redis": (after.redis - before.redis) / seconds}
            time.sleep(SETTLE)
            result["memory"] = memory(rig.server, empty, load.connections)
            return result | disturbance(before, after, generator)

    def __str__(self) -> str:
        clients = f"{self.load.connections:,} clients"
        if not self.ramp:
            return f"{clients} at once"
        return f"{clients}, {self.ramp:,g} a second, that think {self.think:g} s before each request"


@dataclass(frozen=True, slots=True)
class Standing(Work):
    """The same, while others get traffic: their latency before and meanwhile is compared."""

    kind: ClassVar[str] = "standing"

    others: Load

    def within(self, windows: Windows) -> Self:
        """See :meth:`Work.within`: what is measured for a time is the calm before."""
        return replace(self, others=replace(self.others, seconds=windows.seconds_of(self.others)))

    def shrunk(self, by: int) -> Self:
        """See :meth:`Work.shrunk`."""
        return replace(self, load=self.load.shrunk(by), others=self.others.shrunk(by))

    def measure(self, server: type[Server], cores: Cores) -> Result:
        """See :meth:`Work.measure`."""
        load, others = self.load, self.others
        with Rig(server, cores) as rig:
            result: Result = {"server": server.name, "kind": self.kind, "load": asdict(load)}
            result["others"] = asdict(others)
            rig.shard.open(rig.plan(others, timeout=60.0))
            # A generator of its own: those who come mustn't delay the eyes of those who are there.
            with rig.publisher(others, 600) as publisher, Shard(cores.load) as crowd:
                publisher.start()
                time.sleep(others.warm_up)
                start = rig.read()
                time.sleep(others.seconds)
                calm = rig.read()
                # On a topic of their own, on which nothing is published: their coming is measured, not their traffic.
                changes: dict[str, Any] = {"topics": 1, "topics_each": 1, "first_topic": others.topics}
                opened = crowd.open(rig.plan(load, "storm", from_start=False, sampled=0, **changes))
                rough = rig.read()
                publisher.halt()
                published = publisher.result()
                drained = rig.shard.drain(
                    published["published"], others.topics, quiet=others.quiet, timeout=others.drain
                )
            result["setup"] = setup(opened, 0.0, load.connections)
            result["setup"]["cpu_per_session_us"] = None  # can't be told from that of the traffic
            read = [Histogram(each.shard["groups"]["listeners"]["latencies"]) for each in (start, calm, rough)]
            result["calm_us"] = percentiles(read[1].since(read[0]))
            result["storm_us"] = percentiles(read[2].since(read[1]))
            seconds = (rough.at - calm.at) / 1e9
            result["shares"] = {
                "generator": (rough.shard["cpu"] - calm.shard["cpu"] + opened["cpu"]) / seconds,
                "publisher": published["cpu"] / published["seconds"],
                "redis": (rough.redis - calm.redis) / seconds,
            }
            generators = (result["shares"]["generator"] + result["shares"]["publisher"]) * seconds
            return result | disturbance(calm, rough, generators) | {"checks": checks(drained)}

    def __str__(self) -> str:
        return f"{self.load.connections:,} clients at once beside {self.others}"
