"""The load itself: a daemon that nothing happens to passes, and one that loses messages in silence doesn't."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.handover.crowd import Size
from tests.handover.deployments import Deployment
from tests.handover.libraries import CHROMIUM
from tests.handover.scene import Scenario, Scene, play

CALM = Scenario("nothing happens", lambda scene: asyncio.sleep(0.3), times=2)


async def test_nothing_happens() -> None:
    row = await play(CALM, seed=1)
    assert not row.problems, "\n".join([*row.problems, *row.log])
    assert row.verdict.clients > 50 and row.verdict.messages > 10_000 and row.verdict.replies > 300
    assert not row.verdict.ends and not row.verdict.gaps and not row.verdict.lost


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
async def test_a_browser_is_one_of_the_crowd() -> None:
    alone = Size(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, browsers=1)
    row = await play(replace(CALM, size=alone), seed=1)
    assert not row.problems, "\n".join(row.problems)
    assert row.verdict.clients == 1 and row.verdict.messages > 100 and row.verdict.replies > 4


FEW = Size(listeners=2, churners=2, halvers=0, laggards=0, sleepers=0, tails=0)


async def cut_link(scene: Scene) -> None:
    """Cut the daemon's link to Redis, and wait until it is back."""
    await asyncio.to_thread(scene.deployment.redis, "CLIENT", "KILL", "TYPE", "pubsub")
    await asyncio.sleep(0.5)


CUT = Scenario("the link is cut", cut_link, size=FEW)


async def test_a_loss_in_silence_is_found() -> None:
    row = await play(replace(CUT, settings={"WSD_GAP_NOTICES": "false"}), seed=1)
    assert any("were lost and no gap was announced" in problem for problem in row.problems), row.problems
    assert row.verdict.lost


async def test_gaps_may_be_forbidden_allowed_or_demanded() -> None:
    row = await play(CUT, seed=1)
    assert [problem[:19] for problem in row.problems] == ["gaps were announced"], row.problems
    assert not (await play(replace(CUT, gaps=None), seed=1)).problems
    row = await play(replace(CALM, gaps=None, size=FEW), seed=1)
    assert all("no gap of" in problem for problem in row.problems) and len(row.problems) > 25


async def test_a_daemon_that_ends_is_found() -> None:
    async def kill(scene: Scene) -> None:
        scene.service.kill()

    row = await play(replace(CUT, act=kill), seed=1)
    assert any("closed with 1006" in problem for problem in row.problems), row.problems
    assert any("not let in" in problem for problem in row.problems), row.problems
    assert any("has ended with status -9" in problem for problem in row.problems), row.problems


async def test_what_can_not_be_played_is_skipped_and_what_fails_is_told() -> None:
    assert (await play(replace(CALM, impossible=lambda: "no Redis"), seed=1)).skipped == "no Redis"

    class Broken(Deployment):
        def start(self) -> None:
            raise OSError("no memory")

    row = await play(replace(CALM, deployment=Broken), seed=1)
    assert row.problems == ["OSError: no memory"]
