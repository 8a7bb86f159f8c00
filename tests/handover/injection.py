"""What is done to the processes of wsd from within: other values of constants, and traps at the steps of a reload."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGCONT, SIGKILL
from typing import Any

from tests.lib.programs import state
from tests.lib.waiting import PATIENCE, until

__all__ = ["Injection", "Trap"]

FOLDER = Path(__file__).parent / "injected"
"""What is put on PYTHONPATH."""


class Trap:
    """Something that happens to the first process that reaches a step.

    Args:
        told: the file in which the process says that it is there.
    """

    def __init__(self, told: Path) -> None:
        self.told = told

    @property
    def pid(self) -> int | None:
        """The process that was there; None as long as nobody was."""
        with suppress(OSError):
            return int(self.told.read_text())
        return None

    def wait(self, patience: float = PATIENCE) -> int:
        """Wait until a process is there; return its id."""
        until(lambda: self.pid is not None, "a process in the trap", patience)
        assert self.pid is not None
        return self.pid

    def wait_for_stop(self, patience: float = PATIENCE) -> int:
        """Wait until a process has stopped in the trap; return its id."""
        pid = self.wait(patience)
        until(lambda: state(pid) == "T", "stopped", patience)
        return pid

    def release(self) -> None:
        """Let the process go on, if it is there still."""
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, SIGCONT)

    def kill(self) -> None:
        """Kill it."""
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, SIGKILL)


class Injection:
    """Orders for the processes that are started with the :attr:`environment`.

    Args:
        folder: for its files.
        functions: those that tell that a step is reached, as ``module:name``.
    """

    def __init__(self, folder: Path, functions: Sequence[str]) -> None:
        self._folder = folder
        self._file = folder / "injection.json"
        self._orders: dict[str, Any] = {"values": {}, "functions": list(functions), "traps": []}
        self._traps: list[Trap] = []
        self._write()

    def _write(self) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(self._orders))
        new.replace(self._file)  # a process may be reading the old one

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the processes."""
        return {"PYTHONPATH": str(FOLDER), "HANDOVER_INJECTION": str(self._file)}

    def set(self, place: str, value: object) -> None:
        """Give a constant, ``module:NAME``, another value in processes that start from now on."""
        self._orders["values"][place] = value
        self._write()

    def trap(self, function: str, step: str, act: str = "stop") -> Trap:
        """Set a trap.

        Args:
            function: the one that tells of the step.
            step: its name.
            act: what happens to the process: ``stop``, ``hang``, ``raise``, ``exit``, or ``tell``: nothing.
        """
        trap = Trap(self._folder / f"trap-{len(self._traps)}")
        self._traps.append(trap)
        self._orders["traps"].append({"function": function, "step": step, "act": act, "told": str(trap.told)})
        self._write()
        return trap

    def clear(self) -> None:
        """Set no traps, and no values."""
        self._orders |= {"values": {}, "traps": []}
        self._write()
