"""The server restarts under its clients, and they come back as clients are told to: after a wait that grows."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import ClassVar, Self

from bench.measure.cores import Cores
from bench.measure.rig import Rig
from bench.measure.window import disturbance, setup
from bench.measure.work import Result, Windows, Work
from bench.servers.server import Server

__all__ = ["Restart"]

PATIENCE = 120.0
"""Seconds until those that aren't back are given up. The waits double up to 45 s."""

LOOK = 0.1
"""Seconds between looks whether all are back: what that costs the generator isn't worth finer ones."""


@dataclass(frozen=True, slots=True)
class Restart(Work):
    """The server restarts under ``load.connections`` clients, which come back."""

    kind: ClassVar[str] = "restart"

    def within(self, windows: Windows) -> Self:
        """See :meth:`Work.within`: it lasts as long as it lasts."""
        return self

    def measure(self, server: type[Server], cores: Cores) -> Result:
        """See :meth:`Work.measure`."""
        count = self.load.connections
        with Rig(server, cores) as rig:
            result: Result = {"server": server.name, "kind": self.kind, "load": asdict(self.load)}
            cpu = rig.server.cpu()
            opened = rig.shard.open(rig.plan(self.load, reconnect=True, from_start=False, sampled=0))
            result["setup"] = setup(opened, rig.server.cpu() - cpu, count)
            began = time.monotonic()
            rig.server.restart()
            down = time.monotonic() - began
            before = rig.read()
            back = before.shard["groups"]["listeners"]["returned"]
            while back < count and time.monotonic() - began < PATIENCE:
                time.sleep(LOOK)
                back = rig.shard.stats()["groups"]["listeners"]["returned"]
            after = rig.read()
            result |= {"down": down, "seconds": time.monotonic() - began, "returned": back, "away": count - back}
            result["cpu_per_return_us"] = (after.server - before.server) / max(back, 1) * 1e6
            return result | disturbance(before, after, after.shard["cpu"] - before.shard["cpu"])

    def __str__(self) -> str:
        return f"the server restarts under {self.load.connections:,} clients, which come back after a wait"
