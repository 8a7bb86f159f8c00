"""All servers that can be measured."""

from __future__ import annotations

from bench.servers.baselines import (
    LINKS,
    FloorServer,
    JoinedFloorServer,
    NaiveServer,
    NodeServer,
    TransportFloorServer,
)
from bench.servers.brokers import NatsServer, NchanServer
from bench.servers.server import Server
from bench.servers.wsd import FourWorkers, TwoWorkers, WsdServer

__all__ = ["SERVERS"]

_KINDS: tuple[type[Server], ...] = (
    WsdServer,
    FloorServer,
    JoinedFloorServer,
    TransportFloorServer,
    NaiveServer,
    NodeServer,
    NatsServer,
    NchanServer,
    TwoWorkers,
    FourWorkers,
    *LINKS,
)

SERVERS: dict[str, type[Server]] = {kind.name: kind for kind in _KINDS}
"""By name, in the order of the report."""
