"""What the log says of the life of the daemon, in the same words wherever it runs: ``wsd serve`` and ``wsd dev``."""

from __future__ import annotations

import logging

from wsd import __version__

__all__ = ["draining", "listening", "stopped"]

logger = logging.getLogger("wsd")  # it is about the whole of it


def listening(clients: str, admin: str, redis: object) -> None:
    """Say where it listens, and where Redis is.

    Args:
        clients: where clients can connect, as URLs.
        admin: where health checks and metrics are, as URLs.
        redis: where Redis is, for people.
    """
    logger.info(
        "wsd %s listens on %s for clients and on %s for admin; Redis is at %s", __version__, clients, admin, redis
    )


def draining(connections: int, seconds: float) -> None:
    """Say that it sends all clients away.

    Args:
        connections: how many there are.
        seconds: that it takes.
    """
    logger.info(
        "draining: sending %d connections away within %g s; a second signal stops at once", connections, seconds
    )


def stopped() -> None:
    """Say that it has stopped, as the last line."""
    logger.info("stopped")
