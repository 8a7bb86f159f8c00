"""Reloads that change something: settings, for good or for bad, and the version of wsd."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from tests.handover.crowd import Size
from tests.handover.deployments import Deployment, Pair
from tests.handover.diary import Diary, End
from tests.handover.injection import Injection
from tests.handover.scene import Scenario, Scene
from tests.lib.waiting import until

__all__ = ["SCENARIOS"]

PREFIXES = ("", "new:")

ANOTHER_VERSION = 1_000_000

NO_SLEEPER = Size(sleepers=0)

NO_TAIL = Size(sleepers=0, tails=0)
"""`wsd tail` tells of gaps, on standard error: nobody knows then before which message."""

PUNCTUAL = Size(laggards=0, sleepers=0, tails=0)
"""Clients that read what they are told when they are sent away. `wsd tail` would say something, and come again."""


async def change_prefix(scene: Scene) -> None:
    """Reload with another prefix of channels."""
    scene.write_settings(channel_prefix=PREFIXES[1])
    await scene.reload()


async def change_url(scene: Scene) -> None:
    """Reload with another Redis."""
    deployment = scene.deployment
    assert isinstance(deployment, Pair)
    scene.write_settings(redis_url=deployment.other.url)
    await scene.reload()
    await asyncio.to_thread(scene.service.wait_until_ready)


async def write_wrong_settings(scene: Scene) -> None:
    """Try to reload with wrong settings, and take them back."""
    right, workers = scene.config.read_text(), scene.service.workers
    scene.config.write_text(right + 'max_topics = "many"\n')
    await scene.reload("failed")
    scene.config.write_text(right)
    await asyncio.to_thread(until, lambda: scene.service.workers == workers, "the workers are those of before")


# Another version.


async def prepare_injection(scene: Scene) -> None:
    """Let processes of wsd take orders."""
    scene.injection = Injection(scene.folder, [])
    scene.environment |= scene.injection.environment


async def upgrade(scene: Scene) -> None:
    """Reload into a version that does not know the records of this one."""
    scene.injection.set("wsd.clients.record:VERSION", ANOTHER_VERSION)
    await scene.reload()


def is_sent_away(diary: Diary, end: End) -> bool:
    """Whether a client was told to connect again."""
    return end.code == 1012


async def check_all_sent_away(scene: Scene) -> None:
    """All that were there have been sent away, and who has come again is served."""
    away = [diary for diary in scene.crowd.diaries if diary.end is not None]
    stayed = [diary.name for diary in scene.crowd.diaries if not diary.left and diary.end is None]
    assert len(away) > 20, "those who were there have been sent away"
    assert all("visitor" in name for name in stayed), stayed
    assert f"reads records of version {ANOTHER_VERSION}" in scene.service.lines.text


SCENARIOS: Sequence[Scenario] = [
    Scenario(
        "reload with another channel_prefix",
        change_prefix,
        workers=2,
        deployment=partial(Deployment, PREFIXES),
        size=NO_TAIL,
        gaps=None,
    ),
    Scenario("reload with another redis_url", change_url, workers=2, deployment=Pair, size=NO_TAIL, gaps=None),
    Scenario(
        "reload with wrong settings",
        write_wrong_settings,
        3,
        workers=2,
        size=NO_SLEEPER,
        complaints=("reload failed: max_topics",),
    ),
    Scenario(
        "reload into a version that refuses",
        upgrade,
        workers=2,
        settings={"WSD_DRAIN_SECONDS": "1"},
        size=PUNCTUAL,
        prepare=prepare_injection,
        may_end=is_sent_away,
        check=check_all_sent_away,
    ),
]
