"""The table of phases: what its prose says, and that every connection comes to an end."""

from __future__ import annotations

import re

import pytest

from wsd.clients import phases
from wsd.clients.phases import Phase


def test_the_prose_has_a_row_for_every_phase_in_their_order() -> None:
    rows = re.findall(r"^    ([A-Z]+) +\| (.+?) +\| ", phases.__doc__ or "", re.MULTILINE)
    assert [name for name, _ in rows] == [phase.name for phase in Phase]
    reads = {name: not words.startswith("nothing") for name, words in rows}
    assert reads == {phase.name: phase.reads for phase in Phase}


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_may_be_cut_short_and_leads_to_no_earlier_one(phase: Phase) -> None:
    """But for a connection that could not move."""
    order = list(Phase)
    assert Phase.GONE in phase.leads_to
    later = [after for after in phase.leads_to if (phase, after) != (Phase.AWAY, Phase.OPEN)]
    assert all(order.index(after) > order.index(phase) for after in later if after is not Phase.GONE)


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_has_an_end_in_time_or_somebody_who_sees_to_it(phase: Phase) -> None:
    """OPEN ends by deadlines of its own, DOOMED with the turn of the loop, and GONE is the end. Of ARRIVING and AWAY
    the mover takes care."""
    others = (Phase.ARRIVING, Phase.OPEN, Phase.AWAY, Phase.DOOMED, Phase.GONE)
    assert (phase.seconds is None) is (phase in others)


@pytest.mark.parametrize("phase", Phase)
def test_frames_are_read_only_where_something_is_read(phase: Phase) -> None:
    assert phase.reads or not phase.takes_frames
