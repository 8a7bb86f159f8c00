"""One worker hands clients over to another: the supervisor brings them together, and hears what became of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from wsd.pipe import Message, pair
from wsd.supervisor import steps
from wsd.supervisor.child import Child, Gone
from wsd.supervisor.steps import Step

__all__ = ["Outcome", "move"]

MOVE_PATIENCE = 5.0
"""Seconds that the taker may say nothing when the giver has said that it is over."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of clients that were to go to another worker."""

    moved: int = 0  # clients that went
    gaps: Mapping[str, int] = field(default_factory=dict)  # those of them that may have missed messages, by why
    left: int = 0  # clients that should have gone, and stayed
    reasons: tuple[str, ...] = ()  # why they did, or what went wrong

    @classmethod
    def of_message(cls, given: Message) -> Outcome:
        """Take what a giver says, perhaps one of another version."""
        gaps, reason = given.get("gaps"), str(given.get("reason", ""))
        return cls(
            moved=int(given.get("moved", 0)),
            gaps={str(why): int(count) for why, count in gaps.items()} if isinstance(gaps, Mapping) else {},
            left=int(given.get("left", 0)),
            reasons=(reason,) if reason else (),
        )

    def then(self, later: Outcome) -> Outcome:
        """This and what became of those who had been left, when it was tried again."""
        return Outcome(self.moved + later.moved, _sum(self.gaps, later.gaps), later.left, later.reasons)

    def beside(self, other: Outcome) -> Outcome:
        """This and what became of the clients of another worker."""
        reasons = dict.fromkeys((*self.reasons, *other.reasons))
        return Outcome(self.moved + other.moved, _sum(self.gaps, other.gaps), self.left + other.left, tuple(reasons))

    @property
    def clean(self) -> bool:
        """Whether no client can have noticed."""
        return not (self.gaps or self.left or self.reasons)

    @property
    def why_left(self) -> str:
        """How many stayed, and why; "" if nobody did and nothing went wrong."""
        counted = [f"{self.left} could not be moved"] if self.left else []
        return ": ".join([*counted, *filter(None, [", ".join(self.reasons)])])

    def __str__(self) -> str:
        said = f"{self.moved} {'client' if self.moved == 1 else 'clients'} went over"
        if self.gaps:
            said += f", {sum(self.gaps.values())} of them with a gap ({', '.join(self.gaps)})"
        return "; ".join(filter(None, [said, self.why_left]))

    def fields(self) -> dict[str, Any]:
        """The same for a program that reads the log."""
        return {
            "moved": self.moved,
            "gaps": sum(self.gaps.values()),
            "left": self.left,
            "reason": ", ".join((*self.reasons, *self.gaps)),
        }


async def move(giver: Child, taker: Child, count: int | None, seconds: float) -> Outcome:
    """Let a worker hand clients over to another.

    Args:
        giver: who has them.
        taker: who gets them.
        count: how many; None for all.
        seconds: that it goes on without a connection that moves. There is no other bound: a giver that does not
            answer stands still, and is ended as any worker that does.
    """
    one, other = pair()
    with one, other:
        # Only they have the ends of the pipe then, so that one sees when the other dies.
        taking = asyncio.ensure_future(taker.ask("take", other))
        # A taker that is gone takes no end; as long as one is open here, the giver would wait for an answer.
        taking.add_done_callback(lambda _: other.close())
        giving = asyncio.ensure_future(giver.ask("give", one, count=count, seconds=seconds))
        steps.reached(Step.MOVING)
        try:
            given = await giving
            with suppress(Gone, TimeoutError):
                async with asyncio.timeout(MOVE_PATIENCE):
                    await taking
        except Gone as exc:
            # Those whom the taker has by then are served, and nobody has counted them.
            return Outcome(reasons=(f"the process that had them is gone: it {exc}",))
        finally:
            for asked in (taking, giving):
                asked.cancel()
            await asyncio.gather(taking, giving, return_exceptions=True)
    return Outcome.of_message(given)


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return dict(Counter(one) + Counter(other))
