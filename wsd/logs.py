"""Logging: one line per event, as text or JSON.

Levels: INFO for what an operator expects (start, ready, healed, drain), WARNING for what somebody should look at (the
link lost, clients refused), ERROR for bugs. Nothing is logged per message. What comes from clients, publishers or
Redis is escaped by whoever logs it (``%a``).
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable

__all__ = ["BoundedLogger", "set_level", "setup"]


class JSONFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as ``{"time", "level", "logger", "message"}``, with ``"traceback"`` where there is one."""
        entry: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)  # orjson refuses lone surrogates, and speed is no matter here


def setup(level: str, format: str) -> None:
    """Log to standard error.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        format: ``text`` or ``json``.
    """
    handler = logging.StreamHandler(sys.stderr)
    formatter = (
        JSONFormatter() if format == "json" else logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], force=True)
    # At INFO the library logs every open and close, at DEBUG paths, headers and payloads, tokens included.
    logging.getLogger("websockets").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    set_level(level)


def set_level(level: str) -> None:
    """Change the level of wsd's own loggers."""
    logging.getLogger("wsd").setLevel(level.upper())


class BoundedLogger:
    """Logs events that clients cause, at a bounded rate.

    Args:
        logger: where to.
        clock: monotonic, in seconds.
        rate: lines per second and kind; what is more is counted and said in the next line.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic, rate: float = 1.0) -> None:
        self._logger = logger
        self._clock = clock
        self._interval = 1.0 / rate
        self._kinds: dict[str, tuple[float, int]] = {}  # when it was last logged; how many were not since

    def warning(self, kind: str, message: str, *args: object) -> None:
        """Log an event, unless its kind was logged a moment ago. ``kind`` is one of a few fixed words."""
        self._log(logging.WARNING, kind, message, args)

    def exception(self, kind: str, message: str, *args: object) -> None:
        """Log a bug with the traceback of the exception that is being handled, under the same bound."""
        self._log(logging.ERROR, kind, message, args, exc_info=True)

    def _log(self, level: int, kind: str, message: str, args: tuple[object, ...], *, exc_info: bool = False) -> None:
        now = self._clock()
        logged_at, unsaid = self._kinds.get(kind, (-self._interval, 0))
        if now - logged_at < self._interval:
            self._kinds[kind] = (logged_at, unsaid + 1)
            return
        self._kinds[kind] = (now, 0)
        if unsaid:
            message += f" (and {unsaid} more of this kind since the last line)"
        self._logger.log(level, message, *args, exc_info=exc_info)
