"""The settings in force, as the supervisor has them: it hands them on, and needs some of them itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Chosen"]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What a worker has read.

    The supervisor does not validate settings: that takes libraries, which only workers import.
    """

    given: Mapping[str, Any]  # for wsd.config.unpack(), secrets included: nothing for a log
    host: tuple[str, ...]
    port: int
    admin_host: tuple[str, ...]
    admin_port: int
    workers: int  # how many there shall be
    worker_timeout: float  # seconds that an event loop may stand still
    drain_seconds: float
    log_level: str
    log_format: str
    redis: str  # where it is, for people

    @classmethod
    def of_message(cls, message: Mapping[str, Any]) -> Chosen:
        """Take what a worker says that it has read."""
        return cls.load({"given": message["settings"], **message["plain"]})

    @classmethod
    def load(cls, value: Mapping[str, Any]) -> Chosen:
        """Make it of what :meth:`dump` has returned."""
        known = {name: value[name] for name in cls.__dataclass_fields__}
        return cls(**known | {name: tuple(known[name]) for name in ("host", "admin_host")})

    def dump(self) -> dict[str, Any]:
        """Return this in values that JSON knows, secrets included."""
        return asdict(self)
