"""Reloads, and the supervisor that executes itself: real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lib.clients import Client
from tests.lib.programs import is_alive
from tests.lib.servers import RedisServer
from tests.lib.waiting import PATIENCE, eventually, until
from tests.whole.handover.crowd import crowd, numbering
from tests.whole.supervisor.service import Service

Serve = Callable[..., Service]


async def reload(service: Service, **settings: object) -> str:
    return await asyncio.to_thread(service.reload, **settings)


async def test_clients_stay_through_reloads_that_change_the_number_of_workers(serve: Serve, redis: RedisServer) -> None:
    service = serve(workers=1, drain_seconds=10)
    async with crowd(service.port, [["stay", f"own-{number}"] for number in range(30)]) as heard:
        async with numbering(redis.url, "stay", pause=0.01):
            before = service.workers
            for workers in (2, 2, 3, 1):
                said = await reload(service, workers=workers)
                assert ("new are workers" in said) is (workers != len(before))
                now = service.workers
                assert len(now) == workers
                assert not set(now) & set(before)
                before = now
            seen = heard[0].numbers["stay"][-1]
            await eventually(lambda: all(each.numbers["stay"][-1] > seen for each in heard), "messages after all")
        for each in heard:
            each.check("stay")
        await eventually(lambda: sum(service.clients()) == 30)
    assert service.metrics("wsd_reloads_total") == {"done": 4, "failed": 0}
    assert service.metrics("wsd_worker_restarts_total") == dict.fromkeys(
        ("exited", "killed", "stopped", "stuck", "unstarted"), 0
    )
    assert service.metrics("wsd_handshakes_total")[""] >= 30, "counters don't fall"


def test_a_supervisor_is_the_same_process_with_the_same_descriptors_after_many_reloads(serve: Serve) -> None:
    service = serve(workers=2)
    names, command = service.names(), Path(f"/proc/{service.pid}/cmdline").read_bytes()
    assert names == ["wsd", "wsd worker 0", "wsd worker 1"]
    service.reload()
    assert (service.names(), Path(f"/proc/{service.pid}/cmdline").read_bytes()) == (names, command)
    descriptors = service.descriptors()
    for _ in range(3):
        service.reload()
    assert service.status is None
    assert service.descriptors() == descriptors
    assert service.resident() < 25 * 2**20
    assert service.readiness() == (200, "ready")
    service.signal(signal.SIGTERM)
    assert service.wait() == 0
    assert service.entries[-1]["message"] == "stopped"


async def test_wrong_settings_and_code_that_can_not_start_leave_everything_as_it_is(serve: Serve) -> None:
    service = serve(workers=2)
    async with crowd(service.port, [["same"]] * 10) as heard:
        workers = service.workers
        service.write(max_topics=0, ping_interval=-1)
        service.signal(signal.SIGHUP)
        await eventually(lambda: len(service.about("reload failed")) == 2, "a line for each mistake")
        assert {entry["message"].split(" ")[2] for entry in service.about("reload failed")} == {
            "max_topics:",
            "ping_interval:",
        }
        service.write(max_topics=7, ping_interval=5)
        service.broken.touch()
        service.signal(signal.SIGHUP)
        await eventually(lambda: service.about("ended with status 3 before it had read the settings"))
        await eventually(lambda: service.metrics("wsd_reloads_total") == {"done": 0, "failed": 2})
        await eventually(lambda: service.workers == workers, "the end of the candidates")
        assert all(each.closed is None for each in heard)
        service.broken.unlink()
        assert "new are ping_interval, max_topics" in await reload(service)
        assert all(each.closed is None for each in heard)


def test_reloads_that_come_while_one_runs_are_done_together(serve: Serve) -> None:
    service = serve()
    service.signal(signal.SIGHUP)
    until(lambda: len(service.workers) == 2, "the candidate")
    for _ in range(5):
        service.signal(signal.SIGHUP)
    until(lambda: len(service.about("the supervisor runs wsd")) == 2, "the second reload")
    assert service.metrics("wsd_reloads_total") == {"done": 2, "failed": 0}


@pytest.mark.parametrize("words", ["is ready", "reloaded: ", "the supervisor runs wsd"])
def test_a_signal_that_ends_the_service_ends_it_in_the_middle_of_a_reload_too(serve: Serve, words: str) -> None:
    service = serve(workers=2)
    service.signal(signal.SIGHUP)
    service.said(words)
    workers = service.workers
    service.signal(signal.SIGTERM)
    assert service.wait() == 0
    assert service.entries[-1]["message"] == "stopped"
    assert not any(map(is_alive, workers))


async def test_an_old_worker_that_dies_during_a_reload_is_replaced_by_the_one_that_comes(serve: Serve) -> None:
    service = serve(workers=2)
    old = service.worker(0)
    service.signal(signal.SIGHUP)
    until(lambda: len(service.workers) == 3, "the candidate")
    os.kill(old, signal.SIGKILL)
    service.said("the supervisor runs wsd")
    assert len(service.workers) == 2
    assert service.readiness()[0] == 200


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """Where systemd would listen to the service."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(PATIENCE)
        yield sock


async def test_who_does_not_take_what_was_sent_is_sent_away_and_everybody_is_told(
    serve: Serve, redis: RedisServer, systemd: socket.socket
) -> None:
    service = serve(notify=systemd.getsockname(), max_backlog_age=600)
    assert systemd.recv(4096) == b"READY=1\nSTATUS=1 worker, 0 clients, 0 deliveries/s; Redis is connected"
    async with crowd(service.port, [["stay"]] * 3) as heard, Client(service.port, receive_buffer=4096) as slow:
        await slow.subscribe("large")
        while not service.metrics("wsd_lagging_connections")[""]:
            redis.publish("large", '"' + "x" * 40_000 + '"')
        said = await reload(service)
        why = "1 could not be moved: what had been sent to them was not taken within 10 s"
        assert said == f"reloaded: no setting has changed; 3 clients went over; {why}"
        assert service.about("reloaded: ")[-1]["level"] == "warning"
        while f"the last reload closed clients: {why}\n" not in f"{systemd.recv(4096).decode()}\n":
            pass
        moves = service.metrics("wsd_moves_total")
        assert moves.pop("back") >= 1
        assert moves == {"out": 3, "in": 3, "gap": 0, "sent_away": 1, "lost": 0}
        assert service.metrics("wsd_open_connections")[""] == 3
        assert all(each.closed is None for each in heard)


async def test_load_is_evened_out_without_closing_anybody(serve: Serve, redis: RedisServer) -> None:
    service = serve(workers=1, drain_seconds=10)
    async with crowd(service.port, [["even"]] * 60) as heard, numbering(redis.url, "even", pause=0.01):
        await reload(service, workers=2)

        def is_even() -> bool:
            counts = service.clients()
            return sum(counts) == 60 and max(counts) <= 1.1 * 30

        await asyncio.to_thread(until, is_even, "even load")
        seen = heard[0].numbers["even"][-1]
        await eventually(lambda: all(each.numbers["even"][-1] > seen for each in heard), "messages after all")
        for each in heard:
            each.check("even")
