"""Descriptors: how many this process may have, and whether some are left.

Each connection is one. When none is left, uvloop accepts a connection and closes it in silence, so the daemon has to
look by itself whether some are left.
"""

from __future__ import annotations

import os
import resource
from contextlib import ExitStack, suppress

from wsd.errors import StartupError

__all__ = ["SPARE", "are_short", "limit", "room"]

SPARE = 16
"""Descriptors that should be free at any time, for health checks and a new link to Redis."""

ENOUGH = 1_048_576
"""Descriptors, where the system sets no limit."""


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


def are_short() -> bool:
    """Whether fewer than :data:`SPARE` descriptors are free.

    To know, it opens so many and closes them again, which takes some microseconds.
    """
    with ExitStack() as stack:
        try:
            for _ in range(SPARE):
                stack.callback(os.close, os.dup(0))
        except OSError:
            return True
    return False
