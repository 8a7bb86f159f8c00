"""What ``wsd dev`` says to type next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from wsd.cli.dev.embedded import PORT
from wsd.cli.tail.uri import server_url
from wsd.cli.token import signs_with_shared_secret
from wsd.config import Settings
from wsd.deployment import Cluster, Deployment, Sentinel, addresses, is_sharded

__all__ = ["hints", "program"]

TOPIC, PAYLOAD = "chat", '{"hello":"world"}'  # of the commands that are printed


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
    publishers = [f"{program} publish {shlex.join(publish)}"]
    if not private and (command := _redis_cli(deployment, chosen, embedded=embedded)):
        publishers.append(command)
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
            *(f"    {publisher}" for publisher in publishers),
            "",
            "Ctrl-C stops it.",
            "",
        )
    )


def _redis_cli(deployment: Deployment, chosen: Settings, *, embedded: bool) -> str | None:
    if isinstance(deployment, Sentinel):
        return None  # redis-cli can't ask a Sentinel for the master
    sharded = is_sharded(deployment, chosen.pubsub)
    server = addresses(deployment)[0]
    command = ["redis-cli"]
    if sharded and isinstance(deployment, Cluster):
        command.append("-c")  # follow the redirection to the node that has the channel's slot
    if server.path:
        command += ["-s", server.path]
    else:
        if not embedded:
            command += ["-h", server.host]
        command += ["-p", str(server.port)]
    command += ["SPUBLISH" if sharded else "PUBLISH", chosen.channel_prefix + TOPIC, PAYLOAD]
    return shlex.join(command)


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
