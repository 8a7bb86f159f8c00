"""The list of planted bugs fits the code, and a bug is really found."""

from __future__ import annotations

import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from tests import ROOT
from tests.simulation.bugs import BUGS, CONTROL, Bug, Played, plant, play_with, search, seeds, table

LEAST = 15
"""Bugs at the least."""

EASY = next(bug for bug in BUGS if bug.name.startswith("When one of two listeners leaves"))
"""A bug that any world shows."""


def test_no_bug_is_listed_twice() -> None:
    assert len({bug.name for bug in BUGS}) == len({bug.changes for bug in BUGS}) == len(BUGS) >= LEAST


@pytest.mark.parametrize("bug", [CONTROL, *BUGS], ids=lambda bug: bug.name)
def test_a_bug_fits_the_code(bug: Bug) -> None:
    """Each piece stands in its file once, and the file can be compiled with the other one in its place."""
    with plant(bug) as folder:
        for file in {change.file for change in bug.changes}:
            text = (folder / "wsd" / file).read_text()
            assert text != (ROOT / "wsd" / file).read_text()
            compile(text, file, "exec")


def test_a_piece_that_is_not_in_the_code_is_refused() -> None:
    change = EASY.changes[0]
    with pytest.raises(AssertionError, match="0 times"), plant(Bug("", "", (change._replace(old="no such text"),))):
        pass


def test_worlds_are_played_with_the_copy(tmp_path: Path) -> None:
    """Where there is no copy, Python would find the wsd that is installed."""
    for name in ("tests", "bench"):
        (tmp_path / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "tests.simulation.bugs", "--child"]
    ended = subprocess.run(command, cwd=tmp_path, input="", capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "this would play with" in ended.stderr


def test_a_bug_is_found() -> None:
    with (
        plant(EASY) as folder,
        play_with(folder) as play,
        plant(None) as unplanted,
        play_with(unplanted) as unchanged,
    ):
        finding = search(EASY, play, unchanged, seconds=60, seeds=seeds(""))
        assert finding.seed is not None
        assert finding.problem in play(finding.seed).problems, "the same seed shows the same"
        assert not unchanged(finding.seed).problems


WELL, ILL = Played((), virtual=10.0, cpu=1.0), Played(("something is wrong", "and this"), virtual=20.0, cpu=2.0)


def test_what_is_wrong_without_the_bug_does_not_count() -> None:
    finding = search(
        EASY, lambda seed: WELL if seed == 2 else ILL, lambda seed: ILL if seed in (1, 3) else WELL, 60, count(1)
    )
    assert (finding.seed, finding.worlds, finding.skipped) == (4, 4, 2)
    assert (finding.virtual, finding.cpu) == (70.0, 7.0)
    assert finding.problem == "something is wrong"
    assert table([finding]).splitlines()[2] == f"| {EASY.name} | 4 | 4 | 70 s | 7 s | something is wrong |"


def test_a_bug_that_shows_in_no_world_is_given_up() -> None:
    finding = search(EASY, lambda seed: WELL, lambda seed: WELL, 3, count(1))
    assert (finding.seed, finding.worlds) == (None, 3)
    assert "not found" in table([finding])
    assert EASY.shown_by in table([finding])
