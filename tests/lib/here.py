"""Commands in this process: no process has to start, which takes most of the time of a short command."""

from __future__ import annotations

import os
from typing import NamedTuple

import pytest

from bench.processes import plain_environment
from wsd.cli import main

__all__ = ["Here", "Outcome"]


class Outcome(NamedTuple):
    """What became of a command."""

    status: int
    out: str  # what it printed on standard output
    err: str  # and on standard error


class Here:
    """Runs commands in this process.

    Args:
        capsys: takes what they print.
        monkeypatch: gives them an environment without settings.
    """

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, *args: str, **environment: str) -> Outcome:
        """Run a command."""
        self._monkeypatch.setattr(os, "environ", plain_environment(**environment))
        status = main(list(args))
        return Outcome(status, *self._capsys.readouterr())

    def refused(self, status: int, *args: str, **environment: str) -> list[str]:
        """Run a command that fails with this status; return its lines on standard error."""
        done = self(*args, **environment)
        assert (done.status, done.out) == (status, ""), done
        lines = done.err.splitlines()
        assert all(line.startswith("wsd: ") for line in lines), lines
        return [line.removeprefix("wsd: ") for line in lines]
