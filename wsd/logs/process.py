"""The log of this process: one handler, whose lines a thread writes to standard error."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import warnings
from types import TracebackType
from typing import Any

from wsd.logs.journal import is_journal, with_priority
from wsd.logs.lines import JSONFormatter, TextFormatter
from wsd.logs.outlet import Outlet

__all__ = ["active", "catch_all", "drain", "lost", "say", "set_level", "setup"]

NAME = "wsd.logs"
"""Names the log itself in its lines."""

logger = logging.getLogger(NAME)


EXIT_PATIENCE = 1.0
"""Seconds that the end of the process waits for somebody to read the last lines."""


class _Handler(logging.Handler):
    """Formats a line where it is logged, because its arguments may change later, and lets a thread write it.

    Args:
        format: ``text`` or ``json``.
        worker: the number of the worker that logs, where there are several.
    """

    def __init__(self, format: str, worker: int | None = None) -> None:
        super().__init__()
        stderr = _stderr()
        self._journal = is_journal(stderr)  # whether the journal reads it
        self._json = format == "json"
        formatter = (
            JSONFormatter(worker=worker) if self._json else TextFormatter(timed=not self._journal, worker=worker)
        )
        formatter.converter = time.gmtime
        self.setFormatter(formatter)
        self.outlet = Outlet(stderr, self._loss)

    def say(self, line: str) -> None:
        """Write a line of the command line. Text stays as it is in commands that have no log."""
        if self._json:
            record = _record(logging.ERROR, line)
            record.name = "wsd"
            self.handle(record)
        else:
            self.outlet.put(self._finish(f"wsd: {line}", logging.ERROR))

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
        return self._finish(self.format(record), record.levelno)

    def _finish(self, text: str, level: int) -> bytes:
        if self._journal:
            text = with_priority(text, level)
        return text.encode(errors="backslashreplace") + b"\n"

    def _loss(self, number: int, reason: str) -> bytes:
        record = _record(logging.WARNING, f"{number} lines of the log were lost here, because {reason}")
        record.fields = {"lost": number, "reason": reason}
        return self._encode(record)


def _record(level: int, message: str, exc_info: Any = None) -> logging.LogRecord:
    return logging.LogRecord(NAME, level, __file__, 0, message, None, exc_info)


def _stderr() -> int:
    """A descriptor for standard error that nobody else closes or reuses; where it was closed at the start, nowhere."""
    try:
        return os.dup(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):  # Python sets sys.stderr to None then
        return os.open(os.devnull, os.O_WRONLY)


_handler: _Handler | None = None  # the log of this process


def setup(level: str, format: str, worker: int | None = None) -> None:
    """Log to standard error. No line waits for its reader; the last ones are written at the end of the process.

    Where standard error is systemd's journal, each line has its priority in front, JSON objects too: the journal takes
    it off again, and `journalctl -p warning` finds what somebody should look at.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        format: ``text`` or ``json``.
        worker: the number of the worker that logs, where there are several: it stands in each line.
    """
    global _handler  # noqa: PLW0603 - there is one log in a process, as in the library
    _handler = _Handler(format, worker)
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


def drain() -> None:
    """Wait a moment until everything is written, because this process is about to execute another program."""
    if _handler is not None:
        _handler.flush()


def say(line: str) -> bool:
    """Put a line that the command line says into the log, in its place; return False if there is no log.

    Text stays ``wsd: LINE``, as in commands that have no log.
    """
    if _handler is None:
        return False
    _handler.say(line)
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
