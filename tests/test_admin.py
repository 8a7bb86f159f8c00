"""The admin port, asked by aiohttp."""

from __future__ import annotations

import asyncio
import re

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.clients import Client
from tests.servers import RedisServer, eventually, serving
from wsd.worker import Worker


async def ask(worker: Worker, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{worker.admin_port}{path}") as response,
    ):
        return response.status, await response.text()


async def test_health_and_readiness(own_redis: RedisServer) -> None:
    async with serving(own_redis, redis_heartbeat=0.4) as worker:
        assert await ask(worker, "/healthz") == (200, "ok\n")
        code, text = await ask(worker, "/readyz")
        assert code == 200
        first, link, end = text.split("\n")
        assert (first, end) == ("ready", "")
        assert re.fullmatch(
            rf"Redis at {own_redis.url}: 0 of 0 channels; probe came back in [0-9.]+ ms, [0-9.]+ s ago", link
        )
        own_redis.stop()
        await eventually(lambda: not worker.source.up)
        assert (await ask(worker, "/healthz"))[0] == 200
        code, reason = await ask(worker, "/readyz")
        assert code == 503
        assert "not ready: " in reason
        assert str(own_redis.port) in reason
        own_redis.start()
        await eventually(lambda: worker.source.healed)
        assert (await ask(worker, "/readyz"))[0] == 200
        worker.stop()
        code, text = await ask(worker, "/readyz")
        assert code == 503
        assert text.startswith("not ready: draining\n")
        assert (await ask(worker, "/nonsense"))[0] == 404


async def test_metrics_count_what_happened(redis: RedisServer) -> None:
    async with serving(redis) as worker, Client(worker.port) as one, Client(worker.port) as other:
        await one.subscribe("metrics")
        await other.subscribe("metrics")
        redis.publish("metrics", "1")
        await one.receive()
        await other.receive()
        code, text = await ask(worker, "/metrics")
        assert code == 200
        values = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert values["wsd_messages_total",] == 1
        assert values["wsd_deliveries_total",] == 2
        assert values["wsd_writes_total",] == 2
        assert values["wsd_open_connections",] == 2
        assert values["wsd_sessions", "authenticated"] == 2
        assert values["wsd_topics",] == values["wsd_redis_channels_confirmed",] == 1
        assert values["wsd_redis_link_up",] == 1
        assert values["wsd_pass_seconds_count",] == 1
        assert values["process_resident_memory_bytes",] > 1e6


async def test_a_rude_scraper_harms_nobody(redis: RedisServer) -> None:
    async with serving(redis) as worker:
        for rude in (
            b"\x00\xff\r\n\r\n",
            b"POST /metrics HTTP/1.1\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 500,
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", worker.admin_port)
            writer.write(rude)
            await Client.within(reader.read())
            writer.close()
        assert (await ask(worker, "/healthz"))[0] == 200
