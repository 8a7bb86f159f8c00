"""Traffic to all, for a while.

1. The server starts, all clients subscribe (which is timed), and memory is read while they are idle.
2. The publisher starts. After the warm-up the counters of all processes are read: the clock runs.
3. The publisher ends, and everything is waited for that was published. Only then does the clock stop, at the last
   message, so a server doesn't look faster for what it has still to send. One that is far behind is cut off.
4. Messages on all connections are compared with what was published; every message of the sampled connections is
   checked.

The server has a core for itself; Redis, publisher and generator share the others. CPU per delivery is the server's own
CPU time (all its processes, user and system mode) over the deliveries in the window: it is what a noisy machine
disturbs least.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import ClassVar

from bench.measure.cores import Cores
from bench.measure.rig import Rig
from bench.measure.window import checks, memory, setup, window
from bench.measure.work import Result, Work
from bench.servers.server import Server

__all__ = ["SETTLE", "FanOut"]

SETTLE = 0.1
"""Seconds in which a server may tidy up what the handshakes left, before its memory is read."""


@dataclass(frozen=True, slots=True)
class FanOut(Work):
    """Traffic to all, for a while."""

    kind: ClassVar[str] = "fan-out"

    def measure(self, server: type[Server], cores: Cores) -> Result:
        """See :meth:`Work.measure`."""
        load = self.load
        with Rig(server, cores) as rig:
            empty, cpu = rig.server.memory(), rig.server.cpu()
            opened = rig.shard.open(rig.plan(load))
            result: Result = {"server": server.name, "kind": self.kind, "load": asdict(load)}
            result["setup"] = setup(opened, rig.server.cpu() - cpu, load.connections)
            time.sleep(SETTLE)
            result["memory"] = memory(rig.server, empty, load.connections)
            with rig.publisher(load, load.warm_up + load.seconds) as publisher:
                publisher.start()
                time.sleep(load.warm_up)
                before = rig.read()
                published = publisher.result()
                drained = rig.shard.drain(published["published"], load.topics, quiet=load.quiet, timeout=load.drain)
                after = rig.read(drained)
            return result | window(load, before, after, published) | {"checks": checks(drained)}
