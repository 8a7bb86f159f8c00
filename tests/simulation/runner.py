"""Runs worlds, one seed after another, on all cores; shrinks what fails, and prints how it came to that.

Every world runs in a process of its own, forked from one in which everything is imported: nothing that a world leaves
behind can change the next one, and one that does not come to its end is ended.
"""

from __future__ import annotations

import argparse
import os
import pickle
import resource
import select
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from tests.simulation import chance

if TYPE_CHECKING:
    from tests.simulation.world import Cut, Outcome

__all__ = ["Fork", "main"]

KEPT = Path(__file__).parent / "seeds.txt"
"""Seeds that have failed once: a number, and what it found."""

LATEST = 40
"""Lines of the timeline that are printed before the first problem, and after it, unless all are wanted."""

LONGEST = 240
"""Seconds of processor time after which a world is ended that does not come to its end. Most take one, and days ten."""

SHRINK = 120.0
"""Seconds that it may take to shrink a seed that fails."""

_now = time.perf_counter


def _say(line: object) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


_clock = chance.install() if os.environ.get("PYTHONHASHSEED") == "0" else None


@dataclass
class Total:
    """What came of many worlds."""

    worlds: int = 0
    virtual: float = 0.0
    work: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    clients: int = 0
    messages: int = 0
    gaps: int = 0
    failed: list[int] = field(default_factory=list)

    def add(self, outcome: Outcome, seconds: float) -> None:
        """Add a world."""
        self.worlds += 1
        self.virtual += outcome.virtual
        self.work += seconds
        self.faults += outcome.faults
        self.clients += outcome.clients
        self.messages += outcome.messages
        self.gaps += outcome.gaps
        if outcome.problems:
            self.failed.append(outcome.seed)

    def __str__(self) -> str:
        minutes = self.work / 60
        return (
            f"{self.worlds} worlds: {self.virtual / 86_400:.2f} days of virtual time, {self.faults.total()} faults,"
            f" {self.clients} connections, {self.messages} messages, {self.gaps} gaps\n"
            f"in {self.work:.0f} s of work: a minute of one core plays {self.virtual / 86_400 / minutes:.2f} days and"
            f" {self.faults.total() / minutes:.0f} faults"
        )


def play(seed: int, cut: Cut | None = None) -> tuple[Outcome, float]:
    """Play a world in this process; return what came of it, and how many seconds of processor time it took."""
    from tests.simulation.world import World  # behind chance.install()

    assert _clock is not None
    begun = time.process_time()
    outcome = World(seed, _clock, cut).run()
    return outcome, time.process_time() - begun


def _told(seed: int, cut: Cut | None, *, timeline: bool) -> tuple[Outcome, float]:
    from tests.simulation.world import Outcome

    try:
        outcome, seconds = play(seed, cut)
    except BaseException:
        return Outcome(seed, problems=[traceback.format_exc()]), 0.0
    if not timeline and not outcome.problems:
        outcome.timeline.clear()
    return outcome, seconds


class Fork:
    """A world that is played in a process of its own.

    Args:
        seed: of the world.
        cut: which of its faults happen.
        timeline: whether that of a world without problems is wanted, too.
        longest: seconds of processor time after which it is ended.
    """

    def __init__(self, seed: int, cut: Cut | None, *, timeline: bool, longest: int = LONGEST) -> None:
        self.seed = seed
        self.begun = _now()
        self.ours, theirs = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            try:
                resource.setrlimit(resource.RLIMIT_CPU, (longest, longest))
                with open(theirs, "wb") as file:
                    pickle.dump(_told(seed, cut, timeline=timeline), file)
            finally:
                os._exit(0)  # whatever has happened: what called this function is not for a copy to finish
        os.close(theirs)

    def result(self) -> tuple[Outcome, float]:
        """What it has told; that nothing came, if it has died."""
        from tests.simulation.world import Outcome

        with open(self.ours, "rb") as file:
            told = file.read()
        os.waitpid(self._pid, 0)
        if told:
            outcome, seconds = pickle.loads(told)
            return outcome, seconds
        seconds = _now() - self.begun
        return Outcome(self.seed, problems=[f"the process of the world has died after {seconds:.0f} s"]), seconds


def _play_all(
    jobs: Iterator[tuple[int, Cut | None]], processes: int, *, timeline: bool
) -> Iterator[tuple[Outcome, float]]:
    from tests.simulation import world  # noqa: F401 - once, before the forks

    running: dict[int, Fork] = {}
    while True:
        while len(running) < processes and (job := next(jobs, None)) is not None:
            fork = Fork(*job, timeline=timeline)
            running[fork.ours] = fork
        if not running:
            return
        ready, _, _ = select.select(list(running), [], [])
        for number in ready:
            yield running.pop(number).result()


def shrink(planned: int, fails: Callable[[Cut], Outcome | None], seconds: float = SHRINK) -> tuple[Cut, Outcome] | None:
    """Find a short prefix of the faults with which a world still fails, and leave out of it what is not needed.

    Args:
        planned: how many faults there were.
        fails: plays a part of them; returns what came of it if it fails.
        seconds: that it may take.

    Returns:
        The part, and what came of it; None if it needs all faults, and the time behind them.
    """
    from tests.simulation.world import Cut

    deadline = _now() + seconds
    best, outcome = Cut(planned), fails(Cut(planned))
    if outcome is None:
        return None
    low, high = 0, planned
    while low < high and _now() < deadline:  # whether a prefix fails is not monotonous, but mostly
        middle = (low + high) // 2
        if (found := fails(Cut(middle))) is not None:
            best, outcome, high = Cut(middle), found, middle
        else:
            low = middle + 1
    # Halves of what has happened, then quarters, in the end one after the other.
    size = max(len(outcome.happened) // 2, 1)
    while _now() < deadline:
        at = 0
        while at < len(outcome.happened) and _now() < deadline:
            cut = Cut(best.most, best.without | set(outcome.happened[at : at + size]))
            if (found := fails(cut)) is not None:
                best, outcome = cut, found
            else:
                at += size
        if size == 1:
            break
        size //= 2
    return best, outcome


def _shrink_seed(seed: int, outcome: Outcome, seconds: float) -> tuple[Cut, Outcome] | None:
    longest = int(3 * seconds) + 5  # a part takes no longer than the whole, but for another mistake

    def fails(cut: Cut) -> Outcome | None:
        found, _ = Fork(seed, cut, timeline=True, longest=longest).result()
        return found if found.timeline and found.problems else None

    return shrink(outcome.planned, fails)


def kept() -> list[int]:
    """The seeds that have failed once."""
    return [int(line.split()[0]) for line in KEPT.read_text().splitlines() if line.strip() and line[0] != "#"]


def _tell(outcome: Outcome, cut: Cut, whole: bool) -> None:
    first = next((at for at, line in enumerate(outcome.timeline) if " PROBLEM " in line), len(outcome.timeline))
    for at, line in enumerate(outcome.timeline):
        if whole or first - LATEST <= at <= first + LATEST or " FAULT " in line:
            _say(f"    {line[: None if whole else 300]}")
    _say(f"    replay: make simulate ARGS='--seed {outcome.seed} {cut} --trace'")


def main() -> int:
    """Run worlds.

    Returns:
        1 if one has failed.
    """
    if _clock is None:
        # The order of sets of texts must be the same in each process.
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            os.environ | {"PYTHONHASHSEED": "0"},
        )
    from tests.simulation.world import Cut

    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulate days in minutes.")
    parser.add_argument("--seed", type=int, help="play this one (default: fresh ones)")
    parser.add_argument("--count", type=int, help="play as many, from --seed on")
    parser.add_argument("--hours", type=float, default=0.0, help="go on for so long (default: a minute)")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one for each core)")
    parser.add_argument("--kept", action="store_true", help="first play the seeds that have failed once")
    parser.add_argument("--faults", type=int, help="only so many of the faults happen")
    parser.add_argument("--without", default="", help="these faults do not happen: their numbers, with commas")
    parser.add_argument("--trace", action="store_true", help="print the whole timeline")
    parser.add_argument("--digest", action="store_true", help="print a digest of the timeline")
    parser.add_argument("--no-shrink", action="store_true", help="print what fails as it is")
    args = parser.parse_args()
    cut = Cut(args.faults, frozenset(int(number) for number in args.without.split(",") if number))
    begun = _now()
    deadline = begun + 60 * (args.minutes + 60 * args.hours)
    single = args.seed is not None

    def jobs() -> Iterator[tuple[int, Cut]]:
        if single:
            for seed in range(args.seed, args.seed + (args.count or 1)):
                yield seed, cut
            return
        if args.kept:
            for seed in kept():
                yield seed, Cut()
        first = int.from_bytes(os.urandom(4), "big") if not _clock.random else 0
        number = 0
        while _now() < deadline and (args.count is None or number < args.count):
            yield first + number, Cut()
            number += 1

    total = Total()
    for outcome, seconds in _play_all(jobs(), args.jobs, timeline=args.trace or args.digest):
        total.add(outcome, seconds)
        if single or outcome.problems:
            faults = ", ".join(f"{count} x {kind}" for kind, count in outcome.faults.most_common())
            _say(
                f"seed {outcome.seed}, {outcome.kind}: {outcome.virtual:.0f} s, {outcome.clients} connections,"
                f" {outcome.messages} messages, {outcome.gaps} gaps; {seconds:.1f} s of work; {faults}:"
                f" {'FAILED' if outcome.problems else 'ok'}"
            )
            for problem in outcome.problems[:5]:
                _say(f"    {problem}")
            if args.trace and not outcome.problems:
                _say("\n".join(outcome.timeline))
            if args.digest:
                _say(sha256("\n".join(outcome.timeline).encode()).hexdigest())
        if outcome.problems:
            best, found = cut, outcome
            wanted = not (args.no_shrink or args.trace)
            if wanted and (shrunk := _shrink_seed(outcome.seed, outcome, seconds)) is not None:
                best, found = shrunk
                _say(f"    shrunk to {len(found.happened)} faults; then: {found.problems[0][:300]}")
            _tell(found, best, args.trace)
    _say(total)
    if total.failed:
        _say(f"{len(total.failed)} worlds failed; their seeds: {' '.join(map(str, total.failed))}")
    return 1 if total.failed else 0
