"""Settings on their way to another process of the same service, which shall have exactly the same.

What travels is what was given, by name, so that a setting's default may change with a new version. The key travels as
its text: a worker that starts later, when the file may hold another key, verifies with the key of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Secret

from wsd.config.settings import Settings

__all__ = ["pack", "unpack"]


def pack(settings: Settings) -> dict[str, Any]:
    """Return values that JSON knows, secrets included: nothing for a log, an argument or the environment.

    Raises:
        SettingsError: if the key can't be read any more.
    """
    given: dict[str, object] = {name: _plain(getattr(settings, name)) for name in settings.model_fields_set}
    if settings.auth == "jwt":
        given.pop("jwt_key_file", None)
        # A binary key is no UTF-8. The settings undo this (see wsd.config.jwt_key).
        given["jwt_key"] = settings.key().decode(errors="surrogateescape")
    return given


def unpack(given: Mapping[str, Any]) -> Settings:
    """Return the settings that :func:`pack` was given.

    Raises:
        pydantic.ValidationError: if another version has packed them, whose settings allowed more.
    """
    return Settings.model_validate(dict(given))


def _plain(value: object) -> object:
    match value:
        case Secret():
            return value.get_secret_value()
        case Path():
            return str(value)
        case tuple():
            return list(value)
        case _:
            return value
