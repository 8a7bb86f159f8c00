"""Processes that die at each step of a reload: the others go on. `tests.handover.kills` looks closer, and longer."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from tests.handover import holders
from tests.lib.programs import is_alive
from tests.lib.servers import RedisServer
from tests.lib.waiting import eventually, until
from tests.whole.handover.crowd import crowd, numbering
from tests.whole.supervisor.service import Service
from wsd.supervisor.steps import Step

Serve = Callable[..., Service]

CLIENTS = 20

BEFORE_SETTINGS = (Step.BEGINS, Step.CANDIDATE_LAUNCHED)

OF_WORKERS = (
    Step.WORKER_STARTED,
    Step.WORKER_READY,
    Step.OLD_CLOSED,
    Step.MOVING,
    Step.MOVED,
    Step.OLD_DRAINS,
)


async def halted(service: Service, step: Step) -> None:
    """Begin a reload, and wait until the supervisor has stopped at a step."""
    service.halt_at(step)
    service.signal(signal.SIGHUP)
    await asyncio.to_thread(until, lambda: service.is_halted, f"the supervisor stops at {step}")


@pytest.mark.parametrize("step", list(Step))
async def test_when_the_supervisor_dies_clients_are_sent_away_and_all_end(serve: Serve, step: Step) -> None:
    service = serve(workers=2, drain_seconds=1)
    async with crowd(service.port, [["dies"]] * CLIENTS) as heard:
        await halted(service, step)
        workers = service.workers
        service.signal(signal.SIGKILL)
        await eventually(lambda: all(each.closed is not None for each in heard), "the end of the connections")
        assert {each.closed.code for each in heard if each.closed is not None} == {1012}
        until(lambda: not any(map(is_alive, workers)), "the end of the workers")


@pytest.mark.parametrize("step", OF_WORKERS)
async def test_when_a_new_worker_dies_another_takes_its_place(serve: Serve, redis: RedisServer, step: Step) -> None:
    service = serve(workers=2, drain_seconds=1)
    async with crowd(service.port, [["new"]] * CLIENTS) as heard, numbering(redis.url, "new", pause=0.01):
        before = service.workers
        await halted(service, step)
        (new,) = set(service.workers) - set(before)
        os.kill(new, signal.SIGKILL)
        service.let_go()
        await asyncio.to_thread(until, lambda: sum(service.metrics("wsd_reloads_total").values()) == 1, "the end")
        await asyncio.to_thread(service.wait_until_ready)
        assert "did not answer" not in service.lines.text, "the giver sees at once that the taker has died"
        if step not in (Step.MOVED, Step.OLD_DRAINS):  # nobody was there yet
            assert all(each.closed is None for each in heard)
        if step is Step.WORKER_STARTED:
            assert service.metrics("wsd_reloads_total") == {"done": 0, "failed": 1}
        left = [each for each in heard if each.closed is None]
        for each in left:
            each.check("new", gaps=True)
        assert len(service.workers) == 2
        await asyncio.to_thread(service.reload)
        assert all(each.closed is None for each in left)


async def test_a_new_worker_that_dies_as_soon_as_it_is_ready_gets_no_place(serve: Serve) -> None:
    """A supervisor that has stood still hears at once that it is ready and that it is gone."""
    service = serve(workers=2, drain_seconds=1)
    async with crowd(service.port, [["brief"]] * CLIENTS) as heard:
        before = service.workers
        await halted(service, Step.WORKER_STARTED)
        (new,) = set(service.workers) - set(before)
        await asyncio.to_thread(until, lambda: "ready" in said_to(service.pid), "a worker that is ready")
        os.kill(new, signal.SIGKILL)
        await asyncio.to_thread(until, lambda: not is_alive(new), "its end")
        service.let_go()
        await asyncio.to_thread(until, lambda: sum(service.metrics("wsd_reloads_total").values()) == 1, "the end")
        assert service.metrics("wsd_reloads_total") == {"done": 0, "failed": 1}
        service.said("the new worker 0 was killed by SIGKILL as soon as it was ready")
        assert service.workers == before
        await asyncio.to_thread(service.reload)
        assert all(each.closed is None for each in heard)


def said_to(pid: int) -> list[str]:
    """What waits for a process in its pipes."""
    return [str(message.get("say")) for message in holders.unheard(pid)]


@pytest.mark.parametrize("step", OF_WORKERS)
async def test_when_an_old_worker_dies_the_new_one_serves(serve: Serve, redis: RedisServer, step: Step) -> None:
    service = serve(workers=2, drain_seconds=1)
    async with crowd(service.port, [["old"]] * CLIENTS) as heard, numbering(redis.url, "old", pause=0.01):
        old = service.workers[0]
        await halted(service, step)
        os.kill(old, signal.SIGKILL)
        service.let_go()
        await asyncio.to_thread(service.said, "the supervisor runs wsd")
        assert service.metrics("wsd_reloads_total") == {"done": 1, "failed": 0}
        assert len(service.workers) == 2
        left = [each for each in heard if each.closed is None]
        assert left, "those of the other worker have stayed"
        seen = left[0].numbers["old"][-1]
        await eventually(lambda: all(each.numbers["old"][-1] > seen for each in left), "messages")
        for each in left:
            each.check("old", gaps=True)
        assert service.readiness()[0] == 200
