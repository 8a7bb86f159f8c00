"""How the service stands at one moment: its workers, what those that are gone had counted, and the supervisor itself.

It is a value, so that a page is made of one moment: a worker that ends while the page is made can't be counted twice.
As JSON it travels to the worker that makes the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from wsd.report import Report, Retired

__all__ = ["Standing", "State", "WorkerView"]


class State(StrEnum):
    """Where a worker is in its life. The earlier in this list, the more it stands for its number."""

    SERVING = "serving"
    """It takes new clients."""

    LEAVING = "leaving"
    """It takes no new clients: it hands those that it has over to the one in its place, or drains."""

    STARTING = "starting"
    """It does not serve yet."""

    GONE = "gone"
    """There is no process now, and there will be one: the supervisor is about to start it."""


_RANKS = {state: rank for rank, state in enumerate(State)}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """A worker, as the supervisor sees it."""

    number: int  # from 0; a worker that is being replaced and the one in its place have the same
    state: State = State.SERVING
    pid: int = 0  # 0 if there is no process
    silence: float = 0.0  # seconds since it was last heard of; of one that is gone, since it was
    problem: str = ""  # why clients should not come, if the supervisor knows that better than the worker
    report: Report | None = (
        None  # the last one that it has sent; None if it has sent none, or if it is among the retired
    )

    def dump(self) -> dict[str, Any]:
        """Return this in values that JSON knows."""
        return {
            "number": self.number,
            "state": str(self.state),
            "pid": self.pid,
            "silence": self.silence,
            "problem": self.problem,
            "report": None if self.report is None else self.report.dump(),
        }

    @classmethod
    def load(cls, value: Mapping[str, Any]) -> WorkerView:
        """Make it of what :meth:`dump` has returned, perhaps in another version."""
        state = value.get("state")
        report = value.get("report")
        return cls(
            number=int(value["number"]),
            state=State(state) if state in list(State) else State.SERVING,
            pid=int(value.get("pid", 0)),
            silence=float(value.get("silence", 0.0)),
            problem=str(value.get("problem", "")),
            report=None if report is None else Report.load(report),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The service at one moment."""

    workers: tuple[WorkerView, ...]  # all of them, those that are being replaced included
    configured: int = 1  # how many workers there should be
    worker_timeout: float = 10.0  # seconds that a worker's event loop may stand still
    own: Report | None = None  # the supervisor's; None if there is none, because a worker is alone
    retired: Retired = field(default_factory=Retired)

    @property
    def several(self) -> bool:
        """Whether a worker must be named to be found."""
        return self.configured > 1 or any(worker.number for worker in self.workers)

    def by_number(self) -> dict[int, WorkerView]:
        """Return the worker that stands for each number, and one that is gone for a number that nobody has."""
        missing = [WorkerView(number=number, state=State.GONE) for number in range(self.configured)]
        chosen: dict[int, WorkerView] = {}
        for worker in sorted((*self.workers, *missing), key=lambda worker: (worker.number, _RANKS[worker.state])):
            chosen.setdefault(worker.number, worker)
        return chosen

    def dump(self) -> dict[str, Any]:
        """Return this in values that JSON knows."""
        return {
            "workers": [worker.dump() for worker in self.workers],
            "configured": self.configured,
            "worker_timeout": self.worker_timeout,
            "own": None if self.own is None else self.own.dump(),
            "retired": self.retired.dump(),
        }

    @classmethod
    def load(cls, value: Mapping[str, Any]) -> Standing:
        """Make it of what :meth:`dump` has returned, perhaps in another version."""
        own = value.get("own")
        return cls(
            workers=tuple(WorkerView.load(worker) for worker in value["workers"]),
            configured=int(value.get("configured", 1)),
            worker_timeout=float(value.get("worker_timeout", 10.0)),
            own=None if own is None else Report.load(own),
            retired=Retired.load(value.get("retired")),
        )
