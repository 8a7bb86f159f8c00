"""``wsd dev``: the daemon with nothing around it, and what to type next."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import sys
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from wsd.cli.arguments import DEV_SETTINGS, settings
from wsd.cli.embedded import PORT, EmbeddedRedis
from wsd.cli.output import write
from wsd.cli.tail import server_url
from wsd.cli.token import signs_with_shared_secret
from wsd.config import RedisUrl, Settings, warnings
from wsd.deployment import Cluster, Deployment, Sentinel, Standalone, addresses, is_sharded
from wsd.errors import CommandError
from wsd.logs import setup
from wsd.sockets import is_taken
from wsd.worker import Worker
from wsd.worker import run as run_worker

__all__ = ["hints", "run"]

TOPIC, PAYLOAD = "chat", '{"hello":"world"}'  # of the commands that are printed

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
                    *(PORT, url.get_secret_value(), PORT),
                )
        # Everything in `changes` is valid; a copy isn't validated again.
        chosen = chosen.model_copy(update=changes)

        def started(worker: Worker) -> None:
            try:
                write(hints(chosen, worker.port, program(), embedded=embedded))
            except CommandError as exc:
                logger.warning("what to type next is not shown: %s", exc)

        run_worker(chosen, lambda: _hang_up(chosen), started)
    return 0


def _hang_up(chosen: Settings) -> Settings:
    # Here SIGHUP is a terminal that was closed, not an operator; and there is no key to read anew.
    signal.raise_signal(signal.SIGTERM)
    return chosen


# What to type next


def hints(chosen: Settings, port: int, program: str, *, embedded: bool) -> str:
    """Build the text that says what to type in other terminals. Its commands work there as they stand.

    Args:
        chosen: the settings of the daemon.
        port: where it listens for clients.
        program: how ``wsd`` is run in this directory.
        embedded: whether Redis is our own.
    """
    defaults = Settings.model_fields
    tail = [TOPIC]
    if chosen.auth != "none":
        own = signs_with_shared_secret(chosen) and chosen.jwt_key_file is not None
        tail += ["--jwt-key-file", str(chosen.jwt_key_file)] if own else ["--token-file", "FILE"]
    if (server := server_url(chosen.host, port)) != server_url(defaults["host"].default, defaults["port"].default):
        tail += ["--url", server]
    publish = [TOPIC, PAYLOAD]
    if chosen.channel_prefix:
        publish += ["--channel-prefix", chosen.channel_prefix]
    deployment = chosen.redis_url.deployment
    if chosen.pubsub != defaults["pubsub"].default:
        publish += ["--pubsub", chosen.pubsub]
    # A password can't be a flag, and options of TLS are many.
    private = any(server.password or server.username or server.tls for server in addresses(deployment))
    if not private and deployment != defaults["redis_url"].default.deployment:
        publish += ["--redis-url", chosen.redis_url.get_secret_value()]
    note = " (with the same settings for redis_url)" if private else ""
    if embedded and "--redis-url" in publish:
        note = f" (without --redis-url it would publish at port {PORT}, which is another server's)"
    command = None if private else _redis_cli(deployment, chosen, embedded=embedded)
    return "\n".join(
        (
            "",
            f"wsd listens on {server}, with {'a Redis of its own' if embedded else 'Redis'} at {deployment}.",
            "In a second terminal, a client:",
            "",
            f"    {program} tail {shlex.join(tail)}",
            "",
            f"In a third, a publisher{note}:",
            "",
            f"    {program} publish {shlex.join(publish)}",
            *((f"    {command}",) if command else ()),
            "",
            "Ctrl-C stops it.",
            "",
        )
    )


def _redis_cli(deployment: Deployment, chosen: Settings, *, embedded: bool) -> str | None:
    sharded = is_sharded(deployment, chosen.pubsub)
    match deployment:
        case Standalone(server):
            flags = []
        case Cluster((server, *_)):
            flags = ["-c"] * sharded  # follow the redirection to the node that has the channel's slot
        case Sentinel():
            return None  # it can't ask for the master
    flags += ["-s", server.path] if server.path else ["-h", server.host] * (not embedded) + ["-p", str(server.port)]
    command = "SPUBLISH" if sharded else "PUBLISH"
    return shlex.join(["redis-cli", *flags, command, chosen.channel_prefix + TOPIC, PAYLOAD])


def program() -> str:
    """Return how this program is run from here: ``wsd`` if PATH finds it, else its path, or ``python -m wsd``."""
    started = Path(sys.argv[0])
    found = shutil.which("wsd")
    if found is not None and started.exists() and os.path.samefile(found, started):
        return "wsd"
    if started.name != "__main__.py":
        return shlex.quote(_relative(started))
    return f"{shlex.quote(_relative(Path(sys.executable)))} -m wsd"


def _relative(path: Path) -> str:
    # Not resolved: the interpreter of a virtual environment is a link to one that doesn't know of it.
    path = Path(os.path.abspath(path))
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
