"""One goal, held to a result."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Goal"]


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the table of goals: a ratio within one run, as far as may be, because absolute numbers are the
    machine's."""

    work: str  # the load
    measure: str  # what is measured
    value: float | None  # None if it wasn't
    limit: float
    unit: str = ""
    at_least: bool = False  # whether the limit is the least; else it is the most
    note: str = ""
    attempts: str = ""  # what was tried to reach it, should it fall short
    exact: bool = False  # whether it must hold on every machine, however slow and busy

    @property
    def met(self) -> bool | None:
        """Whether it holds; None without a value."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def tried(self) -> str:
        """What was tried, if the goal falls short."""
        return self.attempts if self.met is False else ""

    def dump(self) -> dict[str, Any]:
        """For JSON."""
        fields = asdict(self)
        del fields["attempts"]
        return fields | {"met": self.met, "tried": self.tried}
