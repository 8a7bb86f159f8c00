"""A worker's process, as the supervisor has it: with real processes that end, and pipes that do."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable

import pytest

from tests.lib.waiting import eventually
from wsd.metrics import Metrics
from wsd.pipe import pair
from wsd.supervisor.child import Stage
from wsd.supervisor.launch import Launched, Launcher
from wsd.supervisor.team import Team


@pytest.mark.parametrize("ends", ["its process", "its pipe"])
async def test_whoever_is_dying_is_seen_off_before_the_supervisor_executes_itself(ends: str) -> None:
    """There is no pipe that the next program could go on with, and its number may be that of something else."""
    team = Team(Launcher(("wsd",), ()), Metrics(), -1)
    with subprocess.Popen(["sleep", "60"]) as process:  # noqa: ASYNC220 - it takes no time
        ours, theirs = pair()
        child = team.adopt(Launched(process.pid, ours))
        assert not child.dying
        await team.see_off()  # there is nobody
        with theirs:
            if ends == "its process":
                process.kill()
                await eventually(_does(child.reap, lambda: child.dying), "a process that has ended")
                seeing_off = asyncio.create_task(team.see_off())
                await asyncio.sleep(0.05)
                assert not seeing_off.done(), "what it has said last is in the pipe still"
                theirs.close()
            else:
                theirs.close()
                await eventually(lambda: child.dying, "the end of the pipe")
                seeing_off = asyncio.create_task(team.see_off())
            await asyncio.wait_for(seeing_off, 30)
        assert child.stage is Stage.GONE
        assert not child.dying
        assert not team.children
        process.returncode = 0  # the team has waited for it


def _does(act: Callable[[], object], then: Callable[[], bool]) -> Callable[[], bool]:
    def check() -> bool:
        act()
        return then()

    return check
