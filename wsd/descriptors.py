"""Descriptors: how many this process may have, and whether some are left.

Each connection is one. When none is left, uvloop accepts a connection and closes it in silence, so the daemon has to
look by itself whether some are left.
"""

from __future__ import annotations

import logging
import os
import resource
from contextlib import ExitStack, suppress

from wsd.errors import StartupError

__all__ = ["FEW_CONNECTIONS", "SPARE", "Watch", "limit", "room", "shortage", "warn_of_little_room"]

SPARE = 16
"""Descriptors that should be free at any time, for health checks and a new link to Redis."""

ENOUGH = 1_048_576
"""Descriptors, where the system sets no limit."""

FEW_CONNECTIONS = 1000
"""So few clients are hardly what somebody wants who set no max_connections; the usual limit of 1024 open files gives
less."""

logger = logging.getLogger(__name__)


def limit() -> int:
    """How many descriptors this process may have now."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return ENOUGH if soft == resource.RLIM_INFINITY else soft


def _raise_limit() -> None:
    """Ask the system for as many descriptors as it gives."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        hard = ENOUGH
    with suppress(OSError, ValueError):  # a sandbox may forbid it; then the soft limit stays
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def room(reserved: int) -> int:
    """How many connections there is room for, after asking the system for as many descriptors as it gives.

    Args:
        reserved: descriptors that are kept for other things. Those that are open now are counted besides.

    Raises:
        StartupError: if there is room for none.
    """
    _raise_limit()
    most = limit()
    try:
        taken = len(os.listdir("/dev/fd"))
    except OSError:  # there is no descriptor to look with, or no such directory
        taken = 0
    if most - taken - reserved < 1:
        raise StartupError(
            f"the limit of open files is {most}, of which {taken} are open and {reserved} are needed besides the"
            f" clients: raise the hard limit to {taken + reserved} and one for each client (ulimit -Hn, LimitNOFILE= in"
            " systemd, --ulimit nofile= in Docker)"
        )
    return most - taken - reserved


def warn_of_little_room(most: int, wanted: int) -> None:
    """Warn if the limit of open files allows few connections.

    Args:
        most: connections that there is room for.
        wanted: the setting max_connections; 0 for as many as there is room for.
    """
    remedy = "raise the hard limit (ulimit -Hn, LimitNOFILE= in systemd, --ulimit nofile= in Docker)"
    if wanted > most:
        logger.warning(
            "max_connections is %d, but the limit of %d open files allows only %d connections: %s",
            wanted,
            limit(),
            most,
            remedy,
        )
    elif not wanted and most < FEW_CONNECTIONS:
        logger.warning(
            "the limit of %d open files allows only %d connections: %s, or set max_connections to what you expect",
            limit(),
            most,
            remedy,
        )


def shortage() -> str:
    """Say that fewer than :data:`SPARE` descriptors are free; ``""`` if there are enough."""
    return f"out of descriptors: fewer than {SPARE} of {limit()} are free" if _are_short() else ""


def _are_short() -> bool:
    # Opening so many and closing them again takes some microseconds.
    with ExitStack() as stack:
        try:
            for _ in range(SPARE):
                stack.callback(os.close, os.dup(0))
        except OSError:
            return True
    return False


class Watch:
    """Says in the log when descriptors run out, and when there are enough again."""

    def __init__(self) -> None:
        self._short = False  # whether the log has said that they run out, and not yet that it is over

    def look(self, connections: int) -> None:
        """Look whether there are enough. Call this every second or so.

        Args:
            connections: how many there are now, for the log.
        """
        short = shortage() != ""
        if short and not self._short:
            logger.warning(
                "out of descriptors: fewer than %d of %d are free, with %d connections; what is accepted now may be"
                " closed in silence, and Redis may be out of reach",
                SPARE,
                limit(),
                connections,
            )
        elif self._short and not short:
            logger.info("there are enough free descriptors again")
        self._short = short
