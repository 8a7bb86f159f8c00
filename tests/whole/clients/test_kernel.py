"""What the kernel does for us: accepted sockets inherit options, and the accept queue is as long as we ask."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from tests.lib.clients import Client
from tests.lib.servers import RedisServer, serving
from wsd.clients.gateway import BACKLOG, RECEIVE_BUFFER

SOMAXCONN = int(Path("/proc/sys/net/core/somaxconn").read_text())
"""The most that the kernel allows."""

TCPI_SACKED = slice(28, 32)
"""Where ``struct tcp_info`` has ``tcpi_sacked``: of a listening socket, the length of its accept queue."""


async def test_the_kernel_holds_clients_to_the_options_of_the_listening_socket(redis: RedisServer) -> None:
    async with serving(redis, ping_interval=7, ping_timeout=5) as worker, Client(worker.port):
        (connection,) = worker.gateway.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 12_000
        # Linux doubles it (socket(7)).
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * RECEIVE_BUFFER


async def test_the_accept_queue_is_as_long_as_we_ask_whatever_libuv_does(redis: RedisServer) -> None:
    async with serving(redis) as worker:
        (server,) = worker.gateway._servers
        (listening,) = server.sockets
        state = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64)
        assert int.from_bytes(state[TCPI_SACKED], sys.byteorder) == min(BACKLOG, SOMAXCONN)
