"""A seed is the same run everywhere, and what fails is made short."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests import ROOT
from tests.simulation.runner import KEPT, kept, shrink
from tests.simulation.world import Cut, Outcome

SEEDS = (5000, 5002, 5005, 5013)
"""Short worlds, one of each kind."""


def simulate(*arguments: str, **environment: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr
    return ended.stdout


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_is_the_same_run_whatever_the_machine_is_like(seed: int) -> None:
    """Neither where things are in memory nor how texts are hashed makes a difference."""
    digests = {
        re.findall(r"^[0-9a-f]{64}$", simulate("--seed", str(seed), "--digest", **environment), re.MULTILINE)[0]
        for environment in ({}, {"PYTHONMALLOC": "malloc"}, {"PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo"})
    }
    assert len(digests) == 1


def test_a_trace_tells_what_happened() -> None:
    trace = simulate("--seed", str(SEEDS[0]), "--trace", "--jobs", "1")
    assert re.search(r"^ +\d+\.\d{6} FAULT 0: ", trace, re.MULTILINE)
    assert re.search(r"^ +\d+\.\d{6} process \d+ INFO wsd.redis.link: connected to Redis", trace, re.MULTILINE)
    assert re.search(r"1 worlds: \d+\.\d+ days of virtual time, \d+ faults", trace)


def test_kept_seeds_can_be_read() -> None:
    assert all(re.fullmatch(r"\d+ \S.+", line) for line in KEPT.read_text().splitlines() if not line.startswith("#"))
    assert len(set(kept())) == len(kept())


def play(needed: set[int], planned: int = 100) -> tuple[list[Cut], Cut | None]:
    """Shrink a world that fails when some of its faults happen."""
    played: list[Cut] = []

    def fails(cut: Cut) -> Outcome | None:
        played.append(cut)
        assert cut.most is not None
        happened = [number for number in range(cut.most) if number not in cut.without]
        if not needed <= set(happened):
            return None
        return Outcome(1, problems=["ill"], planned=cut.most, happened=happened)

    found = shrink(planned, fails)
    return played, found and found[0]


@pytest.mark.parametrize("needed", [set(), {0}, {99}, {3, 7}, {0, 50, 99}])
def test_what_is_not_needed_is_left_out(needed: set[int]) -> None:
    played, cut = play(needed)
    assert cut is not None
    assert cut.most == max(needed, default=-1) + 1
    assert set(range(cut.most)) - cut.without == needed
    assert len(played) < 80


def test_a_world_that_needs_its_end_is_not_shortened() -> None:
    assert play({100}) == ([Cut(100)], None)
