"""What a test needs that not every machine has."""

from __future__ import annotations

import socket

import pytest

from tests.lib.servers import redis_version

__all__ = ["has_ipv6", "needs_ipv6", "needs_sharding"]

needs_sharding = pytest.mark.skipif(redis_version() < (7,), reason="sharded Pub/Sub came with Redis 7.0")


def has_ipv6() -> bool:
    """Whether this machine has ::1."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
