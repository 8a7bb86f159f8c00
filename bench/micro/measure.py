"""One round: pyperf times every piece of work in processes of their own.

``python -m bench.micro`` calls this module once a round, and pyperf calls it once for each process that measures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import sys
from collections.abc import Callable

import pyperf
import uvloop

from bench.micro.suite import choose, unknown
from bench.micro.work import Work

__all__ = ["Stage"]


class Stage:
    """Times one piece of work on a loop of its own.

    The loop is made when it is first needed, because pyperf goes through all benchmarks in every process and runs one.
    """

    def __init__(self, make: Callable[[], Work]) -> None:
        self._make = make
        self._runner: asyncio.Runner | None = None
        self._work: Work

    def time(self, loops: int) -> float:
        """Do the work some times; return the seconds that it took."""
        if self._runner is None:
            self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
            self._runner.run(self._open())
        return self._runner.run(self._work.time(loops))

    async def _open(self) -> None:
        self._work = self._make()
        await self._work.open()
        # What the daemon does when it has started; the references get it, too.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)

    def close(self) -> None:
        """Close what was opened."""
        if self._runner is not None:
            self._runner.run(self._work.close())
            self._runner.close()


def main() -> None:
    """Run the command line."""
    runner = pyperf.Runner(
        program_args=("-m", "bench.micro.measure"),
        add_cmdline_args=_pass_on,
        metadata={"timer": "CPU time of the thread, user and system"},
    )
    runner.argparser.add_argument("--only", default="")
    args = runner.parse_args()
    args.quiet = not args.verbose
    if not choose(args.only):
        runner.argparser.error(f"--only: {unknown(args.only)}")
    with contextlib.redirect_stdout(sys.stderr):  # pyperf's lines are the progress; the table is the result
        for comparison in choose(args.only):
            for subject, make in comparison.subjects().items():
                stage = Stage(make)
                runner.bench_time_func(
                    comparison.title(subject),
                    stage.time,
                    inner_loops=comparison.units,
                    metadata={"measures": comparison.measures, "per": comparison.unit, "subject": subject},
                )
                stage.close()


def _pass_on(command: list[str], args: argparse.Namespace) -> None:
    """Tell a process that measures which benchmarks there are, because pyperf knows them by their number."""
    command += ["--only", args.only]


if __name__ == "__main__":
    main()
