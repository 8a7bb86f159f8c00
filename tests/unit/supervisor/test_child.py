"""The end of a process: how it is told, and what comes of it while its stacks are waited for."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

import pytest

from wsd.pipe import pair
from wsd.supervisor.autopsy import put_down
from wsd.supervisor.child import Child, how_it_ended
from wsd.supervisor.launch import Launched

NOBODY = 2**30
"""No process has such a number (pid_max, proc(5)): it has ended, and somebody else has waited for it."""


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


def test_a_stuck_process_may_end_while_its_stacks_are_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        ours, theirs = pair()
        child = Child(Launched(NOBODY, ours), lambda *heard: None, lambda child: None)
        child.kept_stacks = signal.SIGRTMIN, os.memfd_create("stacks")
        putting_down = asyncio.create_task(put_down(child, 10.0))
        await asyncio.sleep(0)
        theirs.close()
        child.reap()
        await child.ended
        await putting_down

    with caplog.at_level(logging.ERROR):
        asyncio.run(play())
    assert not caplog.records
