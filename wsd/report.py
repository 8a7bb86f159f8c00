"""What a process of the service tells of itself, and what is left of those that are gone.

A worker tells it to the supervisor as JSON. During a reload the two may be of different versions, so a report is read
with patience: what is unknown is left out, and what is missing or of the wrong type has a default. The numbers of
another version are kept all the same. They are added up by their names, whatever they mean.

No counter of the service ever falls: a report replaces the one before of the same process, and what a process had last
reported is added to :class:`Retired` when it ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias

__all__ = ["Numbers", "Report", "Retired", "added"]

Numbers: TypeAlias = "Mapping[str, Any]"
"""Numbers by their names: each is a number, or again numbers by their names. ``None`` stands for a number that there
isn't, because JSON has no NaN."""

DEPTH = 4
"""How deep numbers may be nested; a histogram's buckets are at three."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a process tells of itself, at one moment."""

    version: str = ""  # of wsd
    pid: int = 0
    unready: str = "it does not tell whether it is ready"  # why clients should not come; "" if they should
    links: tuple[str, ...] = ()  # how each connection to Redis stands, a line for each
    metrics: Numbers = field(default_factory=dict)  # what wsd.metrics.Metrics.dump() returns
    gauges: Numbers = field(default_factory=dict)  # what wsd.metrics.Gauges.dump() returns, or a part of it
    process: Numbers = field(default_factory=dict)  # what wsd.process.figures() returns

    def dump(self) -> dict[str, Any]:
        """Return the report in values that JSON knows."""
        return {
            "version": self.version,
            "pid": self.pid,
            "unready": self.unready,
            "links": list(self.links),
            "metrics": _numbers(self.metrics),
            "gauges": _numbers(self.gauges),
            "process": _numbers(self.process),
        }

    @classmethod
    def load(cls, value: object) -> Report:
        """Make a report of what :meth:`dump` has returned, perhaps in another version. Any value will do."""
        given = value if isinstance(value, Mapping) else {}
        known = {each.name: given[each.name] for each in fields(cls) if each.name in given}
        chosen: dict[str, Any] = {}
        for name, found in known.items():
            match name, found:
                case ("version" | "unready", str()):
                    chosen[name] = found
                case ("pid", int()):
                    chosen[name] = int(found)
                case ("links", list() | tuple()):
                    chosen[name] = tuple(line for line in found if isinstance(line, str))
                case ("metrics" | "gauges" | "process", Mapping()):
                    chosen[name] = _numbers(found)
        return cls(**chosen)

    def after(self, before: Report | None) -> Report:
        """This report, with the gauges that it leaves out and the same process's report before it had.

        A worker's beat leaves out what takes long to look up.
        """
        if before is None or before.pid != self.pid:
            return self
        return replace(self, gauges={**before.gauges, **self.gauges}, process={**before.process, **self.process})


@dataclass(frozen=True, slots=True, kw_only=True)
class Retired:
    """What the workers that are gone had counted."""

    metrics: Numbers = field(default_factory=dict)
    cpu_seconds: Mapping[str, float] = field(default_factory=dict)  # by the worker's number

    def adding(self, number: int, report: Report | None) -> Retired:
        """This, and what one more worker had counted.

        Args:
            number: the worker's.
            report: the last one that it has sent; None if it sent none.
        """
        if report is None:
            return self
        spent = {str(number): report.process.get("cpu_seconds") or 0.0}
        return Retired(metrics=added(self.metrics, report.metrics), cpu_seconds=added(self.cpu_seconds, spent))

    def dump(self) -> dict[str, Any]:
        """Return this in values that JSON knows."""
        return {"metrics": _numbers(self.metrics), "cpu_seconds": _numbers(self.cpu_seconds)}

    @classmethod
    def load(cls, value: object) -> Retired:
        """Make it of what :meth:`dump` has returned, perhaps in another version. Any value will do."""
        given = value if isinstance(value, Mapping) else {}
        spent = _numbers(given.get("cpu_seconds"))
        return cls(
            metrics=_numbers(given.get("metrics")),
            cpu_seconds={number: value for number, value in spent.items() if isinstance(value, (int, float))},
        )


def added(one: Numbers, other: Numbers) -> dict[str, Any]:
    """Add up numbers of the same name. What only one side has stays.

    Where one side has a number and the other has several by their names, because a version has given a counter labels,
    the several are kept.
    """
    total = dict(one)
    for name, more in other.items():
        known = total.get(name)
        if isinstance(more, Mapping):
            total[name] = added(known if isinstance(known, Mapping) else {}, more)
        elif known is None:
            total[name] = more
        elif more is not None and not isinstance(known, Mapping):
            total[name] = known + more
    return total


def _numbers(value: object, depth: int = DEPTH) -> dict[str, Any]:
    """What there is of numbers in a value; NaN and the infinities, which JSON doesn't have, are None."""
    found: dict[str, Any] = {}
    for name, number in value.items() if isinstance(value, Mapping) else ():
        match number:
            case None | bool() | int():
                found[str(name)] = number
            case float():
                found[str(name)] = number if math.isfinite(number) else None
            case Mapping() if depth > 1:
                found[str(name)] = _numbers(number, depth - 1)
    return found
