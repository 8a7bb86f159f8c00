"""Workers that live, die, and stand still: real processes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

from tests.lib.clients import Client
from tests.lib.programs import is_alive
from tests.lib.servers import RedisServer
from tests.lib.waiting import eventually, until
from tests.whole.handover.crowd import Heard, crowd, numbering
from tests.whole.supervisor.service import SPIN, Service

Serve = Callable[..., Service]


async def survivors(heard: list[Heard], lost: int) -> list[Heard]:
    """Wait until so many clients have lost their connection; return the others."""
    await eventually(lambda: sum(each.closed is not None for each in heard) == lost, "the end of some connections")
    return [each for each in heard if each.closed is None]


async def test_workers_share_the_clients_and_each_gets_every_message(serve: Serve, redis: RedisServer) -> None:
    service = serve(workers=2)
    async with crowd(service.port, [["shared"]] * 40) as heard:
        assert redis.publish("shared", "1") == 2, "one subscription for each worker"
        await eventually(lambda: all(each.numbers["shared"] == [1] for each in heard), "the message")
        counts = service.clients()
        assert sum(counts) == 40
        assert min(counts) >= 5  # less happens once in 10**6 runs
    assert service.metrics("wsd_workers_up") == {"": 2}
    assert {entry.get("worker") for entry in service.about("connected to Redis")} == {0, 1}
    assert service.resident() < 25 * 2**20


def test_one_worker_is_served_by_a_small_supervisor_too(serve: Serve) -> None:
    service = serve()
    assert service.resident() < 25 * 2**20
    assert "worker" not in service.about("connected to Redis")[0]


async def test_a_worker_that_is_killed_is_replaced_and_nobody_else_notices(serve: Serve, redis: RedisServer) -> None:
    service = serve(workers=2)
    async with crowd(service.port, [["killed"]] * 30) as heard, numbering(redis.url, "killed"):
        pid = service.worker(0)
        lost = service.clients()[0]
        os.kill(pid, signal.SIGKILL)
        # Who comes now waits in a queue, until the new worker is there, if it is that worker's.
        newcomers = await asyncio.gather(*(Client(service.port).__aenter__() for _ in range(30)))
        for client in newcomers:
            client.writer.close()
        left = await survivors(heard, lost)
        assert len(left) == 30 - lost
        seen = left[0].numbers["killed"][-1]
        await eventually(lambda: all(each.numbers["killed"][-1] > seen for each in left), "messages for the others")
        for each in left:
            each.check("killed")
    entry = service.said("was killed by SIGKILL; another is started at once")
    assert (entry["worker"], entry["pid"], entry["reason"], entry["level"]) == (0, pid, "killed", "warning")
    until(lambda: service.metrics("wsd_workers_up") == {"": 2}, "both workers are up")
    assert service.metrics("wsd_worker_restarts_total")["killed"] == 1
    assert service.metrics("wsd_handshakes_total")[""] >= 60, "what the dead one had counted is kept"


async def test_a_worker_that_is_stopped_is_replaced(serve: Serve) -> None:
    service = serve(workers=2, worker_timeout=2)
    pid = service.worker(1)
    os.kill(pid, signal.SIGSTOP)
    entry = service.said("is stuck")
    assert (entry["worker"], entry["pid"], entry["level"]) == (1, pid, "error")
    assert "traceback" not in entry and "the process is stopped" in entry["message"]
    until(lambda: service.metrics("wsd_workers_up") == {"": 2}, "both workers are up")
    assert service.metrics("wsd_worker_restarts_total")["stuck"] == 1
    assert not is_alive(pid)


def test_a_worker_whose_loop_stands_still_shows_its_stacks_and_is_replaced(serve: Serve) -> None:
    service = serve(worker_timeout=2)
    (pid,) = service.workers
    os.kill(pid, SPIN)
    entry = service.said("is stuck")
    assert "its stacks follow" in entry["message"]
    assert "spin_for_ever" in entry["traceback"]
    service.wait_until_ready()
    assert service.workers != [pid]


def test_the_waits_grow_when_workers_end_soon_and_are_over_when_one_can_start(serve: Serve) -> None:
    service = serve(workers=2)
    service.broken.touch()
    os.kill(service.worker(0), signal.SIGKILL)
    until(lambda: len(service.about("ended with status 3; another is started in")) >= 2, "several attempts")
    waits = [entry["wait"] for entry in service.about("another is started")]
    assert waits[0] == 0.0
    assert all(bound / 2 <= wait <= bound for wait, bound in zip(waits[1:], (0.5, 1.0, 2.0, 4.0), strict=False))
    assert service.readiness()[0] == 503
    assert service.readiness()[1].startswith("not ready: worker 0: ")
    service.broken.unlink()
    service.wait_until_ready()
    assert service.metrics("wsd_worker_restarts_total")["unstarted"] >= 2


def test_a_worker_that_is_told_to_end_drains_and_is_replaced(serve: Serve) -> None:
    service = serve()
    (pid,) = service.workers
    os.kill(pid, signal.SIGTERM)
    assert service.said("ended with status 0; another is started at once")["level"] == "info"
    service.wait_until_ready()
    assert service.metrics("wsd_worker_restarts_total")["stopped"] == 1


def test_a_worker_pays_no_heed_to_the_signals_of_a_terminal(serve: Serve) -> None:
    service = serve(workers=2)
    before = service.workers
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        for pid in before:
            os.kill(pid, number)
    service.signal(signal.SIGUSR2)
    service.said("SIGUSR2 means nothing")
    assert service.readiness()[0] == 200
    assert service.workers == before


async def test_without_their_supervisor_workers_send_their_clients_away_and_end(serve: Serve) -> None:
    service = serve(workers=2)
    async with crowd(service.port, [["orphan"]] * 10) as heard:
        workers = service.workers
        service.signal(signal.SIGKILL)
        await survivors(heard, 10)
        assert {each.closed.code for each in heard if each.closed is not None} == {1012}
        until(lambda: not any(map(is_alive, workers)), "the end of the workers")
    assert service.about("the supervisor is gone")


async def test_all_workers_drain_at_the_same_pace(serve: Serve) -> None:
    service = serve(workers=2, drain_seconds=1)
    async with crowd(service.port, [["drain"]] * 20) as heard:
        assert sum(service.clients()) == 20  # and the last reports know of them
        service.signal(signal.SIGTERM)
        await survivors(heard, 20)
        assert {each.closed.code for each in heard if each.closed is not None} == {1012}
    assert service.wait() == 0
    assert "sending 20 connections away within 1 s" in service.about("draining")[0]["message"]
    assert service.entries[-1]["message"] == "stopped"


def test_the_bound_on_connections_is_for_all_workers_together(serve: Serve) -> None:
    async def come() -> list[str]:
        clients = [await Client(service.port, greet=False).__aenter__() for _ in range(30)]
        answers = [client.response.split(" ")[1] for client in clients]
        for client in clients:
            client.writer.close()
        return answers

    service = serve(workers=2, max_connections=10)
    assert sorted(asyncio.run(come())) == ["101"] * 10 + ["503"] * 20
    until(lambda: sum(service.clients()) == 0, "the end of all connections")
    # A worker that dies takes the places of its clients with it.
    os.kill(service.worker(1), signal.SIGKILL)
    service.said("was killed by SIGKILL")
    service.wait_until_ready()
    assert sorted(asyncio.run(come())) == ["101"] * 10 + ["503"] * 20
