"""How a process has ended, in words."""

from __future__ import annotations

import signal

import pytest

from wsd.supervisor.child import how_it_ended


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "ended with status 0"),
        (3, "ended with status 3"),
        (-signal.SIGKILL, "was killed by SIGKILL"),
        (-(signal.SIGRTMIN + 3), f"was killed by signal {signal.SIGRTMIN + 3}"),
    ],
)
def test_how_a_process_has_ended(status: int, words: str) -> None:
    assert how_it_ended(status) == words
