"""What the tests of the commands are made with."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lib.programs import SECRET
from tests.lib.servers import RedisServer, Sentinel, redis_version
from tests.lib.topologies import ClusterOfThree


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(SECRET + "\n")
    return path


@pytest.fixture
def topic() -> str:
    """A topic that no other test uses."""
    return f"topic-{secrets.token_hex(4)}"


@pytest.fixture
def watch() -> Iterator[Callable[..., Sentinel]]:
    """Makes Sentinels."""
    with ExitStack() as stack:

        def make(server: RedisServer, *lines: str) -> Sentinel:
            watcher = Sentinel.watching(server, *lines)
            stack.callback(watcher.remove)
            return watcher

        yield make


@pytest.fixture(scope="session")
def nodes() -> Iterator[ClusterOfThree]:
    """A cluster, which tests may let move slots."""
    if redis_version() < (7,):
        pytest.skip("sharded Pub/Sub came with Redis 7.0")
    cluster = ClusterOfThree()
    yield cluster
    cluster.remove()
