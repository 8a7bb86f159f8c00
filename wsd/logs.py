"""Logging: one line per event, as text or JSON.

Levels: DEBUG for the life of each client (connected, authorized, its topics, gone), INFO for what an operator expects
(start, ready, healed, reload, drain), WARNING for what somebody should look at (the link lost, clients refused, lines
lost), ERROR for bugs and a reload that failed, CRITICAL for a bug that ends the process. Nothing is logged per message.
The caller escapes (``%a``) what comes from clients, publishers or Redis; text lines escape once more what is not
printable.

No line waits for its reader, see :mod:`wsd.outlet`. A line costs the loop 9 µs of CPU as text and 20 as JSON, and the
thread 2 more. When the loop itself wrote to a file, that was 11 and 15; on a full pipe it waited without an end.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Any
from weakref import WeakSet

from wsd.outlet import Outlet

__all__ = ["BoundedLogger", "active", "catch_all", "fields", "flush", "lost", "say", "set_level", "setup", "tick"]

logger = logging.getLogger(__name__)


MAX_TEXT = 8192
"""Characters of a message, and of a traceback: a page or two. What is longer loses its middle."""

MAX_FIELD = 1024
"""Characters of another value of a line."""

EXIT_PATIENCE = 1.0
"""Seconds that the end of the process waits for somebody to read the last lines."""


class TextFormatter(logging.Formatter):
    """One line; a traceback stands below it, indented, so that nothing in it can pass for a line of the log."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as time, level, logger and message."""
        time = f"{self.formatTime(record, '%Y-%m-%d %H:%M:%S')},{int(record.msecs):03d}"
        line = f"{time} {record.levelname:7} {record.name}: {_printable(_cut(record.getMessage()))}"
        if record.exc_info:
            traceback = _cut(self.formatException(record.exc_info))
            line = "\n  ".join((line, *map(_printable, traceback.split("\n"))))
        return line


class JSONFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as ``{"time", "level", "logger", "message"}``, its fields, and ``"traceback"`` if any."""
        entry: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage()),
        }
        for name, value in getattr(record, "fields", {}).items():
            number = isinstance(value, bool | int | float) or value is None
            entry.setdefault(name, value if number else _cut(str(value), MAX_FIELD))
        if record.exc_info:
            entry["traceback"] = _cut(self.formatException(record.exc_info))
        # Not with orjson, which refuses lone surrogates.
        return json.dumps(entry)


def _cut(text: str, most: int = MAX_TEXT) -> str:
    """Leave the middle of a text out that is too long: a traceback says at its end what happened."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]} [{len(text) - 2 * half} characters] {text[-half:]}"


def _printable(text: str) -> str:
    """Escape what a terminal would take for a command, or for the end of the line."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def fields(**values: object) -> dict[str, dict[str, object]]:
    """What stands in a line, as values with names, for programs that read the log.

    Give it to a logger as ``extra=fields(topic=topic)``. A JSON line has them as members of its object; a text line
    leaves them out, because its message says the same.
    """
    return {"fields": values}


class _Handler(logging.Handler):
    """Formats a line where it is logged, because its arguments may change later, and lets a thread write it."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        formatter.converter = time.gmtime
        self.setFormatter(formatter)
        self.outlet = Outlet(_stderr(), self._loss)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._encode(record)
        except Exception as exc:  # the line is wrong; its caller must not fail for that
            line = self._encode(
                _record(logging.ERROR, f"a line can't be written ({type(exc).__name__}): {record.msg!a}")
            )
        self.outlet.put(line)

    def flush(self) -> None:
        """Wait a moment for what waits to be written. The library calls this at the end of the process."""
        self.outlet.drain(EXIT_PATIENCE)

    def close(self) -> None:
        super().close()
        self.outlet.close()

    def _encode(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode(errors="backslashreplace") + b"\n"

    def _loss(self, number: int, reason: str) -> bytes:
        record = _record(logging.WARNING, f"{number} lines of the log were lost here, because {reason}")
        record.fields = {"lost": number, "reason": reason}
        return self._encode(record)


def _record(level: int, message: str, exc_info: Any = None) -> logging.LogRecord:
    return logging.LogRecord(__name__, level, __file__, 0, message, None, exc_info)


def _stderr() -> int:
    """A descriptor for standard error that nobody else closes or reuses; where it was closed at the start, nowhere."""
    try:
        return os.dup(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):  # Python sets sys.stderr to None then
        return os.open(os.devnull, os.O_WRONLY)


_handler: _Handler | None = None  # the log of this process


def setup(level: str, format: str) -> None:
    """Log to standard error. No line waits for its reader; the last ones are written at the end of the process.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        format: ``text`` or ``json``.
    """
    global _handler  # noqa: PLW0603 - there is one log in a process, as in the library
    _handler = _Handler(JSONFormatter() if format == "json" else TextFormatter())
    logging.basicConfig(handlers=[_handler], force=True)
    # At INFO the library logs every open and close, at DEBUG paths, headers and payloads, tokens included.
    logging.getLogger("websockets").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    set_level(level)


def active() -> bool:
    """Whether this process has a log."""
    return _handler is not None


def lost() -> int:
    """How many lines of the log were lost, because they could not be written."""
    return 0 if _handler is None else _handler.outlet.lost


def say(line: str) -> bool:
    """Put a line that the command line says into the log, in its place; return False if there is no log.

    Text stays ``wsd: LINE``, as in commands that have no log.
    """
    if _handler is None:
        return False
    if isinstance(_handler.formatter, JSONFormatter):
        record = _record(logging.ERROR, line)
        record.name = "wsd"
        _handler.handle(record)
    else:
        _handler.outlet.put(f"wsd: {line}\n".encode(errors="backslashreplace"))
    return True


def catch_all() -> None:
    """Log exceptions and warnings that Python would print to standard error itself, and so wait for its reader."""
    sys.excepthook = _log_uncaught
    sys.unraisablehook = _log_unraisable
    threading.excepthook = _log_of_thread
    warnings.showwarning = _log_warning


def _log_uncaught(kind: type[BaseException], value: BaseException, traceback: TracebackType | None) -> None:
    logger.critical("the process ends with a %s, which is a bug", kind.__name__, exc_info=(kind, value, traceback))


def _log_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    value = unraisable.exc_value or unraisable.exc_type()
    where = f"{type(unraisable.object).__qualname__}"
    logger.error("%s, in a %s", unraisable.err_msg or "an exception was ignored", where, exc_info=value)


def _log_of_thread(args: threading.ExceptHookArgs) -> None:
    value = args.exc_value or args.exc_type()
    logger.error("the thread %a ended", args.thread.name if args.thread else "", exc_info=value)


def _log_warning(  # noqa: PLR0917 - the signature is that of warnings.showwarning
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: object = None,
) -> None:
    logging.getLogger("py.warnings").warning("%s: %s (%s, line %d)", category.__name__, message, filename, lineno)


def set_level(level: str) -> None:
    """Change the level of wsd's own loggers."""
    logging.getLogger("wsd").setLevel(level.upper())


def tick() -> None:
    """Say what the bounded loggers have left out, where nothing more of the kind came. Call it every second or so."""
    for bounded in list(_bounded):
        bounded.tick()


def flush() -> None:
    """Say at the end what the bounded loggers have left out."""
    for bounded in list(_bounded):
        bounded.flush()


_bounded: WeakSet[BoundedLogger] = WeakSet()  # rooms make their own, and the log is that of the process

LINES_PER_SECOND = 10.0
"""Lines a second of a :class:`BoundedLogger`, over all kinds and clients. 170 MB a day, and as fast as anyone reads."""

BURST = 20.0
"""Lines that a :class:`BoundedLogger` may write at once, after a quiet time."""

MAX_KINDS = 32
"""Kinds that a :class:`BoundedLogger` tells apart at a time. wsd has fewer; what a client sends may end up in one."""

SUMMARY_INTERVAL = 10.0
"""Seconds between two lines about what the bound on all lines has swallowed."""


@dataclass(slots=True)
class _Said:
    """A line that was logged a moment ago."""

    at: float  # when it was logged
    more: int = 0  # how many of the same kind and client were not logged since


class BoundedLogger:
    """Logs events that clients cause, at a bounded rate, and says how many it has left out.

    One line per kind and client in an interval; how many more there were stands in the next line, or in one of its own
    when no more come. All kinds and clients together have a bound too (a token bucket), because a client may have many
    addresses. Only a kind that has had no line in the interval gets one beyond that bound, so that a flood of one kind
    hides no other. What is remembered is the lines of two intervals, so it is as bounded as the lines are.

    :func:`tick` and :func:`flush` say what is left to say, for all of these loggers.

    Args:
        logger: where to.
        clock: monotonic, in seconds.
        rate: lines per second of the same kind and client.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic, rate: float = 1.0) -> None:
        self._logger = logger
        self._clock = clock
        self._interval = 1.0 / rate
        self._said: dict[tuple[str, str], _Said] = {}  # by kind and client: the last lines, oldest first
        self._kinds: Counter[str] = Counter()  # of the lines in _said
        self._allowance = BURST  # lines that may be written now
        self._earned_at = clock()  # when the allowance was last brought up to date
        self._left_out: Counter[str] = Counter()  # by kind: what the bound on all lines has swallowed
        self._summary_at = 0.0  # when to say so, if there is something
        _bounded.add(self)

    def warning(self, kind: str, message: str, *args: object, client: str = "", **values: object) -> None:
        """Log an event, unless one of its kind and client was logged a moment ago.

        Args:
            kind: what happened, and why: two events of the same kind have the same remedy.
            message: the line.
            args: what the message is formatted with.
            client: who caused it, without the port: an address, and the subject if there is one.
            values: what stands in the line, for a program that reads the log; see :func:`fields`.
        """
        self._log(logging.WARNING, kind, message, args, client=client, values=values)

    def exception(self, kind: str, message: str, *args: object, exc: BaseException | None = None) -> None:
        """Log a bug with the traceback of an exception, or else of the one being handled, under the same bound."""
        self._log(logging.ERROR, kind, message, args, exc_info=exc or True)

    def _log(
        self,
        level: int,
        kind: str,
        message: str,
        args: tuple[object, ...],
        *,
        client: str = "",
        values: Mapping[str, object] = MappingProxyType({}),
        exc_info: BaseException | bool = False,
    ) -> None:
        now = self._clock()
        said = self._said.get((kind, client))
        if said is not None and now - said.at < self._interval:
            said.more += 1
            return
        more = self._forget((kind, client)) if said is not None else 0
        self.tick()
        if not self._may_say(kind, now):
            self._leave_out(kind, more + 1, now)
            return
        self._said[kind, client] = _Said(now)
        self._kinds[kind] += 1
        values = dict(values)
        if more:
            message += f" (and {more} more of this kind since the last line)"
            values["more"] = more
        self._logger.log(level, message, *args, extra=fields(**values), exc_info=exc_info)

    def tick(self) -> None:
        """Say how many events were left out, once their time has come."""
        now = self._clock()
        while self._said:
            key = next(iter(self._said))
            if now - self._said[key].at < 2 * self._interval:
                break  # until then the next line may say it
            self._say_more(key, self._forget(key), now)
        if self._left_out and now >= self._summary_at:
            self._summarise()

    def flush(self) -> None:
        """Say what is left to say: the daemon ends."""
        now = self._clock()
        while self._said:
            key = next(iter(self._said))
            self._say_more(key, self._forget(key), now)
        if self._left_out:
            self._summarise()

    def _forget(self, key: tuple[str, str]) -> int:
        """Forget a line; return how many of the kind were not logged since."""
        self._kinds[key[0]] -= 1
        if not self._kinds[key[0]]:
            del self._kinds[key[0]]
        return self._said.pop(key).more

    def _may_say(self, kind: str, now: float) -> bool:
        self._allowance = min(self._allowance + (now - self._earned_at) * LINES_PER_SECOND, BURST)
        self._earned_at = now
        if self._allowance >= 1:
            self._allowance -= 1
            return True
        return kind not in self._kinds and len(self._kinds) < MAX_KINDS

    def _leave_out(self, kind: str, number: int, now: float) -> None:
        if not self._left_out:
            self._summary_at = now + SUMMARY_INTERVAL
        self._left_out[kind if kind in self._left_out or len(self._left_out) < MAX_KINDS else "other"] += number

    def _say_more(self, key: tuple[str, str], more: int, now: float) -> None:
        if not more:
            return
        kind, client = key
        if not self._may_say(kind, now):
            self._leave_out(kind, more, now)
            return
        self._logger.warning(
            "%d more of this kind since the last line of %s: %s",
            more,
            client or "its kind",
            kind,
            extra=fields(more=more, kind=kind, client=client),
        )

    def _summarise(self) -> None:
        left_out, self._left_out = self._left_out, Counter()
        self._logger.warning(
            "%d more were not logged, because they came faster than %g lines a second: %s",
            left_out.total(),
            LINES_PER_SECOND,
            ", ".join(f"{number} of the kind {kind}" for kind, number in left_out.most_common()),
            extra=fields(more=left_out.total()),
        )
