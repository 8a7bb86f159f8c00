"""What the tests of the supervisor are made with: a service whose workers can be made to go wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lib.servers import RedisServer
from tests.whole.supervisor.service import Service


@pytest.fixture
def serve(redis: RedisServer, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts services, with a shared Redis."""
    started: list[Service] = []

    def serve(*, notify: str = "", **settings: object) -> Service:
        config = tmp_path / f"wsd-{len(started)}.toml"
        started.append(Service(config, notify=notify, redis_url=redis.url, **settings))
        return started[-1]

    yield serve
    for service in started:
        service.kill()
