"""All servers that can be measured."""

from __future__ import annotations

from bench.servers.baselines import FloorServer, JoinedFloorServer, NaiveServer, NodeServer, TransportFloorServer
from bench.servers.brokers import NatsServer, NchanServer
from bench.servers.server import Server
from bench.servers.wsd import WsdServer

__all__ = ["SERVERS"]

SERVERS: dict[str, type[Server]] = {
    kind.name: kind
    for kind in (
        WsdServer,
        FloorServer,
        JoinedFloorServer,
        TransportFloorServer,
        NaiveServer,
        NodeServer,
        NatsServer,
        NchanServer,
    )
}
"""By name, in the order of the report."""
