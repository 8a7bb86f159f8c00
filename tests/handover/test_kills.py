"""Some of the kills; ``python -m tests.handover --only kill`` plays all of them."""

from __future__ import annotations

import pytest

from tests.handover.kills import SWIFT, Victim, supervisor_dies, worker_dies
from tests.handover.scene import Row, play
from wsd.handover.steps import Step as Move
from wsd.supervisor.steps import Step as Reload

OLD = (Move.GIVER_CUT, Move.TAKER_HAS)
NEW = (Reload.WORKER_STARTED, Move.GIVER_SENT, Move.TAKER_HAS)


def check(row: Row) -> None:
    if row.skipped:
        pytest.skip(row.skipped)
    assert not row.problems, "\n".join([*row.problems, *row.log])


@pytest.mark.parametrize(("victim", "steps"), [(Victim.OLD, OLD), (Victim.NEW, NEW)], ids=["old", "new"])
async def test_a_worker_that_dies_costs_its_own_clients_the_connection(
    victim: Victim, steps: list[Move | Reload]
) -> None:
    row = await play(worker_dies(victim, steps, "some", size=SWIFT), seed=1)
    check(row)
    assert row.times == len(steps) + 1
    assert row.verdict.ends["1006"] and not row.verdict.gaps and not row.verdict.lost


async def test_when_the_supervisor_dies_all_are_sent_away() -> None:
    row = await play(supervisor_dies(Move.TAKER_PREPARED), seed=1)
    check(row)
    assert row.verdict.ends["1012"] > 10 and not row.verdict.lost
