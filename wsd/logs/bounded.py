"""Lines that clients can cause, at a bounded rate."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from weakref import WeakSet

from wsd.logs.lines import fields

__all__ = ["BoundedLogger", "flush", "tick"]

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


_bounded: WeakSet[BoundedLogger] = WeakSet()  # rooms make their own, and the log is that of the process


def tick() -> None:
    """Say what the bounded loggers have left out, where nothing more of the kind came. Call it every second or so."""
    for bounded in list(_bounded):
        bounded.tick()


def flush() -> None:
    """Say at the end what the bounded loggers have left out."""
    for bounded in list(_bounded):
        bounded.flush()
