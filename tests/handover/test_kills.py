"""One of the kills. ``python -m tests.handover --only kill`` plays all; test_accidents.py has a coarse form of them."""

from __future__ import annotations

import pytest

from tests.handover.kills import supervisor_dies
from tests.handover.scene import Row, play
from wsd.handover.steps import Step as Move


def check(row: Row) -> None:
    if row.skipped:
        pytest.skip(row.skipped)
    assert not row.problems, "\n".join([*row.problems, *row.log])


async def test_when_the_supervisor_dies_all_are_sent_away() -> None:
    row = await play(supervisor_dies(Move.TAKER_PREPARED), seed=1)
    check(row)
    assert row.verdict.ends["1012"] > 10 and not row.verdict.lost
