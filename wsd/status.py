"""How a worker stands: whether clients should come, and what holds now. For the admin port."""

from __future__ import annotations

import asyncio
import math
import os
from collections import Counter
from typing import Any

from wsd import __version__, descriptors, logs, process
from wsd.clients.gateway import Gateway
from wsd.clients.session import State
from wsd.delivery.topics import TopicTable
from wsd.metrics import Gauges, Metrics
from wsd.report import Report
from wsd.source import Source

__all__ = ["Status"]


class Status:
    """Looks at the parts of a worker.

    Args:
        gateway: knows the connections.
        topics: knows the topics.
        source: knows how Redis stands.
        metrics: what has been counted.
    """

    def __init__(self, gateway: Gateway, topics: TopicTable, source: Source, metrics: Metrics) -> None:
        self._gateway = gateway
        self._topics = topics
        self._source = source
        self._metrics = metrics

    def unready(self) -> str:
        """Why clients should be sent elsewhere, or ``""`` if they should come."""
        if self._gateway.draining:
            return "draining"
        if shortage := descriptors.shortage():
            return shortage
        if not self._source.up:
            return self._source.problem
        if not self._source.healed:
            return "resubscribing channels at Redis"
        return f"full: {self._gateway.max_connections} connections" if self._gateway.full else ""

    def links(self) -> list[str]:
        """How each connection to Redis stands, a line for each."""
        return [link.line for link in self._source.links]

    def report(self, whole: bool = True) -> Report:
        """Tell what has been counted, and what is so now.

        Args:
            whole: whether every connection is looked at too. With 20,000 of them that is 15 ms.
        """
        self._metrics.log_lines_lost = logs.lost()
        known = self._known()
        return Report(
            version=__version__,
            pid=os.getpid(),
            unready=self.unready(),
            links=tuple(self.links()),
            metrics=self._metrics.dump(),
            gauges=Gauges(**known, **self._counted_now()).dump() if whole else known,
            process=process.figures(whole=whole),
        )

    def _known(self) -> dict[str, Any]:
        """The gauges that need no counting."""
        links = self._source.links
        probed = [link for link in links if link.probe_age is not None]
        return {
            "open_connections": len(self._gateway.connections),
            "max_connections": self._gateway.max_connections,
            "topics": len(self._topics),
            "redis_link_up": self._source.up,
            "redis_links": sum(link.up for link in links),
            "redis_links_unprobed": sum(link.unprobed != "" for link in links),
            "redis_probe_age_seconds": max((link.probe_age or 0.0 for link in probed), default=math.nan),
            "redis_probe_round_trip_seconds": max((link.probe_round_trip for link in probed), default=math.nan),
            "redis_channels_wanted": self._source.wanted,
            "redis_channels_confirmed": self._source.confirmed,
            "tasks": len(asyncio.all_tasks()),
            "draining": self._gateway.draining,
        }

    def _counted_now(self) -> dict[str, Any]:
        """The gauges for which every connection is looked at."""
        connections = self._gateway.connections
        states = Counter(connection.session.state for connection in connections if connection.session is not None)
        return {
            "sessions": {state.value: states[state] for state in (State.ANONYMOUS, State.AUTHENTICATED)},
            "lagging_connections": sum(connection.lagging for connection in connections),
            "backlog_bytes": sum(connection.backlog_bytes for connection in connections),
        }
