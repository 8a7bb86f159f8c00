"""The settings of a command: its flags, over the other places that ``wsd.config`` reads."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping

from wsd.config import Settings, flag_fields, load_with_places
from wsd.deployment import addresses
from wsd.errors import SettingsError

__all__ = ["DEV_SETTINGS", "TOKEN_VARIABLE", "settings", "settings_and_places"]

TOKEN_VARIABLE = "WSD_TOKEN"
"""Holds the token for ``wsd tail``. No setting, although it looks like one."""

DEV_SETTINGS = {"host": "127.0.0.1", "auth": "none", "log_format": "text"}
"""What stands for flags that ``wsd dev`` was not given. As strong as flags, so that nothing in the environment
makes a daemon without authentication listen to the network."""


def settings(args: Namespace, *, defaults: Mapping[str, str] | None = None) -> Settings:
    """Read the settings, with the flags that the command has.

    Args:
        args: what `parse` returned.
        defaults: stand for flags that are not given.

    Raises:
        SettingsError: with a line for every mistake.
    """
    return settings_and_places(args, defaults=defaults)[0]


def settings_and_places(
    args: Namespace, *, defaults: Mapping[str, str] | None = None
) -> tuple[Settings, dict[str, str]]:
    """Do what `settings` does; return also where each setting comes from, without those that have their default."""
    flags = dict(defaults or {})
    flags |= {name: value for name in flag_fields() if (value := getattr(args, name, None)) is not None}
    environ = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
    loaded, places = load_with_places(flags, environ=environ, config=args.config)
    if hasattr(args, "redis_url"):
        _load_certificates(loaded)
    return loaded, places


def _load_certificates(loaded: Settings) -> None:
    """Read the files that redis_url names.

    Raises:
        SettingsError: if one can't be used.
    """
    tls = addresses(loaded.redis_url.deployment)[0].tls  # all have the same
    try:
        if tls is not None:
            tls.load()
    except ValueError as exc:
        raise SettingsError([f"redis_url: {exc}"]) from None
