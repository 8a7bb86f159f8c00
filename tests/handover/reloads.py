"""Reloads, and nothing else happens: nobody may see anything of them."""

from __future__ import annotations

from collections.abc import Sequence

from tests.handover.crowd import Size
from tests.handover.deployments import Cluster, Sentinels
from tests.handover.libraries import CHROMIUM
from tests.handover.scene import Scenario, Scene
from tests.lib.servers import redis_version

__all__ = ["SCENARIOS", "sharded"]

IN_A_ROW = 20

NO_SLEEPER = Size(sleepers=0)
"""A client that reads nothing more makes each reload take ten seconds: it has a scenario of its own."""

PEOPLE = Size(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, tails=1, browsers=1)
"""What a person has open."""


async def reload(scene: Scene) -> None:
    """Reload."""
    await scene.reload()


async def change_workers(scene: Scene) -> None:
    """Reload with another number of workers: with two and one in turn."""
    scene.write_settings(workers="2" if scene.row.times % 2 == 0 else "1")
    await scene.reload()


def sharded() -> str:
    """Why this machine has no sharded Pub/Sub, or ``""``."""
    return "" if redis_version() >= (7, 0) else "sharded Pub/Sub needs Redis 7.0"


def _browser() -> str:
    return "" if CHROMIUM else "there is no Chromium on this machine"


SCENARIOS: Sequence[Scenario] = [
    Scenario("reload", reload, IN_A_ROW, size=NO_SLEEPER, often=True),
    Scenario("reload, two workers", reload, IN_A_ROW, workers=2, size=NO_SLEEPER, often=True),
    Scenario("reload, one worker and two in turn", change_workers, IN_A_ROW, size=NO_SLEEPER, often=True),
    Scenario("reload, a client reads nothing", reload, 2, workers=2),
    Scenario("reload on Sentinel", reload, 5, workers=2, deployment=Sentinels, size=NO_SLEEPER, often=True),
    Scenario(
        "reload on a cluster",
        reload,
        5,
        workers=2,
        deployment=Cluster,
        size=NO_SLEEPER,
        impossible=sharded,
        often=True,
    ),
    Scenario("reload, a browser and wsd tail", reload, 10, workers=2, size=PEOPLE, impossible=_browser),
]
