"""``wsd check --connect``: does Redis let the daemon in, and does it deliver?

It is the daemon's own way: the same links, with their login, their choice of the server, and their probe, a message to
a private channel that must come back. The check wants a channel of its own, because a Cluster's links are opened when a
channel needs them; nobody publishes on that channel.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from wsd.config import Settings
from wsd.deployment import addresses
from wsd.errors import CommandError
from wsd.metrics import Metrics
from wsd.redis.source import make_source
from wsd.source import Events, LinkStatus, Source

__all__ = ["connect"]

PATIENCE = 15.0  # seconds; a Cluster's topology and a connection may take 5 each, whatever the heartbeat is

GLANCE = 0.01  # seconds between two looks at the links, which tell nobody when their probes come back


async def connect(chosen: Settings) -> list[str]:
    """Connect to Redis as the daemon would; return lines that say what was found.

    Raises:
        CommandError: if the daemon could not serve with this Redis.
    """
    deployment = chosen.redis_url.deployment
    user = addresses(deployment)[-1].username or "default"  # the last is the master, if there are Sentinels
    channels = f"{chosen.channel_prefix}*"
    refused: list[bytes] = []
    source = make_source(
        deployment,
        pubsub=chosen.pubsub,
        prefix=chosen.channel_prefix,
        heartbeat=chosen.redis_heartbeat,
        metrics=Metrics(),
        events=Events(
            on_message=lambda channel, payload: None,
            on_confirmed=lambda channel, gap: None,
            on_refused=lambda channel, reason: refused.append(channel),
            on_lost=lambda channels: None,
        ),
    )
    source.subscribe(f"{chosen.channel_prefix}__wsd-check:{secrets.token_hex(8)}".encode())
    with _without_log():
        running = asyncio.create_task(source.run())
        try:
            async with asyncio.timeout(PATIENCE):
                problem = await _settled(source, running, refused)
        except TimeoutError:
            problem = source.problem or "; ".join(link.line for link in source.links) or "no answer in time"
        finally:
            running.cancel()
            await asyncio.wait([running])
    if refused:
        problem = f"Redis refuses the user {user} to subscribe {channels}; systemd/README.md says what to permit"
    if problem:
        named = "" if str(deployment) in problem else f" (redis_url names {deployment})"
        raise CommandError(f"connect: {problem}{named}")
    return [_found(link, user, channels) for link in source.links]


async def _settled(source: Source, running: asyncio.Task[None], refused: list[bytes]) -> str:
    """Wait until all is well or a channel is refused, and return ``""``; or return what else is wrong."""
    before = source.problem  # that it has not been tried yet
    while True:
        await asyncio.sleep(GLANCE)
        if running.done():
            running.result()  # a bug
        if refused:
            return ""
        if source.problem not in ("", before):
            return source.problem
        for link in source.links:
            if link.unprobed and link.server.get("server") != "fakeredis":
                return f"what is published can't be seen to arrive: {link.unprobed}"
        # The Redis of `wsd dev` can't be probed, but it confirms.
        if source.confirmed and all(link.probe_age is not None or link.unprobed for link in source.links):
            return ""


def _found(link: LinkStatus, user: str, channels: str) -> str:
    says = link.server
    what = ", ".join(says[name] for name in ("mode", "role") if name in says)
    delivery = "subscribed"
    if link.probe_age is not None:
        delivery = f"subscribed, published and received in {link.probe_round_trip * 1000:.1f} ms"
    software = f"{says.get('server', 'Redis')} {says.get('version', '')}".rstrip()
    return f"{link.name}: {software} ({what}); logged in as {user}; channels {channels}: {delivery}"


@contextmanager
def _without_log() -> Iterator[None]:
    """Keep the links' log back: what they say in it is said in one line."""
    logger = logging.getLogger("wsd")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
