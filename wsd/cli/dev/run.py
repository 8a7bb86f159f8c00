"""``wsd dev``: the daemon with nothing around it, and what to type next."""

from __future__ import annotations

import logging
from argparse import Namespace
from contextlib import ExitStack
from typing import Any

from wsd.cli.dev.embedded import PORT, EmbeddedRedis
from wsd.cli.dev.hints import hints, program
from wsd.cli.output import write
from wsd.cli.settings import DEV_SETTINGS, settings
from wsd.config import RedisUrl, warnings
from wsd.errors import CommandError
from wsd.logs import setup
from wsd.sockets import is_taken
from wsd.worker.alone import LoneWorker
from wsd.worker.alone import run as run_worker

__all__ = ["run"]

logger = logging.getLogger(__name__)


def run(args: Namespace) -> int:
    """Serve without authentication until a signal comes.

    Raises:
        SettingsError: if the settings can't be used.
        StartupError: if it can't start on this machine.
    """
    chosen = settings(args, defaults=DEV_SETTINGS)
    setup(chosen.log_level, chosen.log_format)
    given = chosen.model_fields_set
    changes: dict[str, Any] = {}
    if "drain_seconds" not in given:
        changes["drain_seconds"] = 0.0
    for host, port in (("host", "port"), ("admin_host", "admin_port")):
        if port not in given and is_taken(getattr(chosen, host), getattr(chosen, port)):
            logger.warning(
                "port %d is taken; using a free one (choose one with --%s)",
                getattr(chosen, port),
                port.replace("_", "-"),
            )
            changes[port] = 0
    if chosen.workers != 1:
        logger.warning("wsd dev is one process; workers=%d is ignored", chosen.workers)
    for line in warnings(chosen):
        logger.warning("%s", line)
    with ExitStack() as stack:
        embedded = "redis_url" not in given
        if embedded:
            redis = stack.enter_context(EmbeddedRedis())
            changes["redis_url"] = url = RedisUrl(f"redis://127.0.0.1:{redis.port}/0")
            if redis.port != PORT:
                logger.warning(
                    "port %d is taken, perhaps by another Redis, which wsd dev leaves alone: its own is at %s. Publish"
                    " there, with --redis-url or WSD_REDIS_URL. To use the other one: wsd dev --redis-url"
                    " redis://127.0.0.1:%d",
                    PORT,
                    url.get_secret_value(),
                    PORT,
                )
        # Everything in `changes` is valid; a copy isn't validated again.
        chosen = chosen.model_copy(update=changes)

        def started(worker: LoneWorker) -> None:
            try:
                write(hints(chosen, worker.port, program(), embedded=embedded))
            except CommandError as exc:
                logger.warning("what to type next is not shown: %s", exc)

        run_worker(chosen, started)
    return 0
