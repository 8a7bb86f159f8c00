"""A flame graph of a server, by py-spy."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from signal import SIGINT

from bench.processes import Program

__all__ = ["Profiler", "ProfilerError", "py_spy"]

RATE = 200
"""Looks per second. At each, the server stands still for about a millisecond."""

PATIENCE = 60.0
"""Seconds to begin, and to write the graph."""

BEGUN = "Sampling process"
"""What py-spy prints when it looks."""


class ProfilerError(Exception):
    """There is no profile. The text says what py-spy printed."""


def py_spy() -> str | None:
    """Path of the program; None if it isn't installed."""
    return shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")


class Profiler:
    """Looks where a process of Python and those that it starts spend their CPU time, from now on.

    Args:
        pid: the process.
        path: the SVG file to write.
        log: the file for what py-spy prints.

    Raises:
        ProfilerError: if py-spy isn't installed, or doesn't begin.
    """

    def __init__(self, pid: int, path: Path, log: Path) -> None:
        program = py_spy()
        if program is None:
            raise ProfilerError("py-spy is not installed")
        self._path, self._log = path, log
        # The workers are where the work is done; what starts them is a process that hardly does any.
        options = ["--pid", str(pid), "--subprocesses", "--rate", str(RATE), "--format", "flamegraph"]
        options += ["--output", str(path.absolute())]
        with log.open("wb") as stream:
            self._program = Program([program, "record", *options], stdout=stream, stderr=stream)
        # Until it looks, a SIGINT would end it without a graph.
        deadline = time.monotonic() + PATIENCE
        while BEGUN not in self._said() and self._program.status is None:
            if time.monotonic() > deadline:
                self._program.kill()
                raise ProfilerError(f"py-spy did not begin within {PATIENCE:g} s: {self._said()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Write the graph.

        Raises:
            ProfilerError: if py-spy couldn't look into the process.
        """
        # It may have ended by itself, because the process did or because it may not look into it.
        status = self._program.terminate(SIGINT, PATIENCE)
        if status or not self._path.exists():
            raise ProfilerError(f"py-spy: {self._said()}")

    def _said(self) -> str:
        return self._log.read_text(errors="replace").strip()[-500:]
