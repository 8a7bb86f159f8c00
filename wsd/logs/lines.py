"""How a line of the log is written: as text, or as a JSON object."""

from __future__ import annotations

import json
import logging

__all__ = ["JSONFormatter", "TextFormatter", "fields", "printable"]

MAX_TEXT = 8192
"""Characters of a message, and of a traceback: a page or two. What is longer loses its middle."""

MAX_FIELD = 1024
"""Characters of another value of a line."""


class TextFormatter(logging.Formatter):
    """One line; a traceback stands below it, indented, so that nothing in it can pass for a line of the log.

    Args:
        timed: whether a line begins with the time. The journal has a time of its own for each entry.
        worker: the number of the worker that logs, where there are several.
    """

    def __init__(self, *, timed: bool = True, worker: int | None = None) -> None:
        super().__init__()
        self._timed = timed
        self._worker = "" if worker is None else f"worker {worker}: "

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as time, level, logger and message."""
        line = f"{record.levelname:7} {record.name}: {self._worker}{printable(_cut(record.getMessage()))}"
        if self._timed:
            line = f"{self.formatTime(record, '%Y-%m-%d %H:%M:%S')},{int(record.msecs):03d} {line}"
        if traceback := _traceback(self, record):
            line = "\n  ".join((line, *map(printable, traceback.split("\n"))))
        return line


class JSONFormatter(logging.Formatter):
    """One JSON object per line.

    Args:
        worker: the number of the worker that logs, where there are several.
    """

    def __init__(self, *, worker: int | None = None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as ``{"time", "level", "logger", "message"}``, its fields, and ``"traceback"`` if any."""
        entry: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage()),
        }
        if self._worker is not None:
            entry["worker"] = self._worker
        for name, value in getattr(record, "fields", {}).items():
            number = isinstance(value, bool | int | float) or value is None
            entry.setdefault(name, value if number else _cut(str(value), MAX_FIELD))
        if traceback := _traceback(self, record):
            entry["traceback"] = traceback
        # Not with orjson, which refuses lone surrogates.
        return json.dumps(entry)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """The traceback of a record: of the exception that it is about, or one that its caller has as text."""
    if record.exc_info:
        return _cut(formatter.formatException(record.exc_info))
    return _cut(getattr(record, "traceback", ""))


def _cut(text: str, most: int = MAX_TEXT) -> str:
    """Leave the middle of a text out that is too long: a traceback says at its end what happened."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]} [{len(text) - 2 * half} characters] {text[-half:]}"


def printable(text: str) -> str:
    """Escape what a terminal would take for a command, or for the end of the line."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def fields(**values: object) -> dict[str, dict[str, object]]:
    """What stands in a line, as values with names, for programs that read the log.

    Give it to a logger as ``extra=fields(topic=topic)``. A JSON line has them as members of its object; a text line
    leaves them out, because its message says the same. A traceback of another process stands beside them, as
    ``extra=fields(...) | {"traceback": text}``.
    """
    return {"fields": values}
