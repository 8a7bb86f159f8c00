"""What is known of one run, and what a reader must know before believing the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from bench.locust.stats import Timeline
from bench.measure.verdicts import GENERATOR_LIMIT

__all__ = ["Phase", "Run", "WorkerNow"]

MACHINE_LIMIT = 0.95
"""Share of all cores of a machine above which its processes wait for each other."""

BUSY_SECONDS = 0.1
"""Share of the seconds of a run in which a machine may be as busy."""


class Phase(Enum):
    """How far a run is. A run goes through them in this order, and may leave some out."""

    GATHERING = "users come and open their connections"
    PUBLISHING = "messages are published, or will be in a moment"
    ENDING = "the publisher was told to stop"


@dataclass(frozen=True, slots=True)
class WorkerNow:
    """A worker of a replica, as the replica's metrics told last."""

    replica: str  # the address of its admin port
    number: str
    connections: int
    cpu: float | None  # cores that it uses; None before the second look


@dataclass(slots=True)
class Run:
    """One run."""

    phase: Phase = Phase.GATHERING
    spawned: bool = False  # whether Locust has made all users
    timeline: Timeline = field(default_factory=Timeline)
    published: int = 0  # messages; while the publisher runs, as many as should have been
    failure: str = ""  # why the run was given up
    untimed: set[str] = field(default_factory=set)  # nodes whose clock isn't the publisher's
    storms: int = 0
    given_up: int = 0  # slow clients that wsd has cut off, as its metrics say
    workers: list[WorkerNow] = field(default_factory=list)  # of all replicas
    restarts: int = 0  # of workers, since the run began: those that nobody had sent away
    moved: int = 0  # connections that went from one process to another, since the run began
    first_joined: float | None = None  # when the first user came, time.monotonic()
    first_message: float | None = None  # seconds since 1970: when the publisher began

    def verdicts(self) -> list[str]:
        """What a reader must know before believing the run; empty if nothing."""
        said = []
        seconds = list(self.timeline.seconds.values())
        busiest = max((second.generator for second in seconds), default=0.0)
        if busiest > GENERATOR_LIMIT:
            said.append(f"generator-bound: a shard used {busiest:.0%} of its core; rates and latencies are the shard's")
        full = sum(second.machine > MACHINE_LIMIT for second in seconds)
        if full > BUSY_SECONDS * len(seconds):
            said.append(f"machine-bound: for {full} s, all cores of a machine with users were busy; its processes wait")
        if self.untimed:
            said.append(
                f"untimed: {len(self.untimed)} generators on other machines than the publisher only count and check"
            )
        return said

    def summary(self) -> list[str]:
        """What the log says at the end."""
        line = self.timeline
        percentiles = {name: line.latencies.percentile(percent) for name, percent in (("p50", 50), ("p99", 99))}
        latency = ", ".join(f"{name} {value / 1000:.2f} ms" for name, value in percentiles.items() if value is not None)
        said = [f"Published {self.published}, delivered {line.deliveries}" + (f"; {latency}" if latency else "")]
        if self.given_up:
            said.append(f"wsd gave up {self.given_up} slow clients")
        if self.restarts:
            said.append(f"wsd restarted {self.restarts} workers")
        if self.moved:
            said.append(f"{self.moved} connections moved from one process to another")
        if line.returned:
            said.append(f"{line.returned} connections that had ended or failed came back")
        return said
