"""The pages speak for all workers, and name those at fault."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.lib.metrics import alone, report
from wsd.admin import service as service_module
from wsd.admin.server import OPENMETRICS, TEXT, Answer
from wsd.admin.service import DOWN_TIMEOUT, Service
from wsd.admin.standing import Standing, State, WorkerView


def worker(number: int, unready: str = "", **more: Any) -> WorkerView:
    """A worker; it is serving and ready if nothing else is said."""
    told = report(unready=unready, links=(f"Redis of {number}",))
    fields: dict[str, Any] = {"number": number, "pid": 100 + number, "report": told}
    return WorkerView(**(fields | more))


def service(*workers: WorkerView, configured: int = 2) -> Standing:
    return Standing(workers=workers, configured=configured)


class Fake:
    """Workers that answer and make pages as they are told to."""

    def __init__(self, *standings: Standing) -> None:
        self.standings = list(standings)  # one for each look, the last one for ever
        self.asked: list[bool] = []
        self.silent = False  # whether reports don't come
        self.rendered: list[int] = []  # who was asked to make the page
        self.fates: dict[int, BaseException | None] = {}  # what becomes of it; None: nothing, for ever
        self.service = Service(self.look, self.ask, self.render)

    def look(self) -> Standing:
        return self.standings.pop(0) if len(self.standings) > 1 else self.standings[0]

    async def ask(self, whole: bool) -> None:
        self.asked.append(whole)
        if self.silent:
            await asyncio.Event().wait()

    async def render(self, worker: WorkerView, standing: Standing, openmetrics: bool) -> str:
        self.rendered.append(worker.pid)
        if worker.pid in self.fates:
            fate = self.fates[worker.pid]
            if fate is None:
                await asyncio.Event().wait()
            else:
                raise fate
        return f"page of {len(standing.workers)}"


def lines(answer: Answer) -> list[str]:
    return answer.body.decode().splitlines()


async def readyz(standing: Standing) -> tuple[int, list[str]]:
    answer = await Fake(standing).service.readyz()
    return answer.status, lines(answer)


# /readyz


async def test_one_worker_speaks_for_itself() -> None:
    assert await readyz(alone(links=("Redis",))) == (200, ["ready", "Redis"])
    assert await readyz(alone(unready="full", links=("Redis",))) == (503, ["not ready: full", "Redis"])


async def test_several_are_ready_if_each_is() -> None:
    links = ["worker 0: Redis of 0", "worker 1: Redis of 1"]
    assert await readyz(service(worker(0), worker(1))) == (200, ["ready", *links])
    assert await readyz(service(worker(0), worker(1, "full"))) == (503, ["not ready: worker 1: full", *links])


async def test_workers_with_the_same_reason_are_named_together_and_not_at_all_if_it_is_all_of_them() -> None:
    four = [worker(0, "away"), worker(1, "full"), worker(2, "away"), worker(3)]
    _, found = await readyz(service(*four, configured=4))
    assert found[0] == "not ready: workers 0 and 2: away; worker 1: full"
    _, found = await readyz(service(*(worker(number, "away") for number in range(4)), configured=4))
    assert found[0] == "not ready: away"
    _, found = await readyz(service(worker(0, "away"), worker(1, "away"), worker(2, "away"), worker(3), configured=4))
    assert found[0] == "not ready: workers 0, 1 and 2: away"


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (None, "it does not run; the supervisor will start it"),
        (worker(1, state=State.GONE, report=None, problem="killed by SIGKILL"), "killed by SIGKILL"),
        (worker(1, state=State.GONE, report=None), "it does not run; the supervisor will start it"),
        (worker(1, state=State.STARTING, report=None), "it is starting"),
        (worker(1, state=State.LEAVING), "draining"),
        (worker(1, silence=5.1), "it has not been heard of for 5.1 s"),
        (worker(1, report=None), "it has told nothing yet"),
        (worker(1, problem="stopping"), "stopping"),
    ],
)
async def test_a_worker_that_does_not_serve_is_a_fault(other: WorkerView | None, problem: str) -> None:
    code, found = await readyz(service(*filter(None, [worker(0), other])))
    assert (code, found[0]) == (503, f"not ready: worker 1: {problem}")
    if other is None:
        code, found = await readyz(Standing(workers=()))
        assert (code, found) == (503, [f"not ready: {problem}"])


async def test_a_worker_that_is_late_for_a_moment_is_none() -> None:
    assert (await readyz(service(worker(0), worker(1, silence=4.9))))[0] == 200


@pytest.mark.parametrize(
    "other",
    [
        worker(1, state=State.STARTING, report=None),
        worker(1, state=State.LEAVING),
        worker(1, "draining", state=State.LEAVING),
    ],
)
async def test_a_worker_that_is_being_replaced_is_none(other: WorkerView) -> None:
    for workers in ((worker(0), worker(1), other), (worker(0), other, worker(1))):
        assert await readyz(service(*workers)) == (200, ["ready", "worker 0: Redis of 0", "worker 1: Redis of 1"])


async def test_workers_are_asked_first_and_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(alone())
    await fake.service.readyz()
    assert fake.asked == [False]  # balancers ask often: nothing that takes long
    monkeypatch.setattr(service_module, "ASK_TIMEOUT", 0.0)
    fake.silent = True
    assert (await fake.service.readyz()).status == 200
    assert fake.asked == [False, False]


# /healthz


async def healthz(standing: Standing) -> tuple[int, list[str]]:
    fake = Fake(standing)
    answer = await fake.service.healthz()
    assert fake.asked == []
    return answer.status, lines(answer)


async def test_healthy_while_the_loops_turn() -> None:
    assert await healthz(Standing(workers=(WorkerView(number=0),))) == (200, ["ok"])
    assert await healthz(service(worker(0), worker(1, "full"))) == (200, ["ok"])
    assert await healthz(service(worker(0), worker(1, silence=10.0))) == (200, ["ok"])


@pytest.mark.parametrize("state", [State.SERVING, State.LEAVING])
async def test_a_loop_that_stands_still_is_named(state: State) -> None:
    stuck = worker(1, silence=10.1, state=state)
    assert await healthz(service(worker(0), worker(1), stuck)) == (
        503,
        ["worker 1: its event loop has stood still for 10.1 s"],
    )
    assert await healthz(replace(service(worker(0), stuck), worker_timeout=20.0)) == (200, ["ok"])


@pytest.mark.parametrize("state", [State.GONE, State.STARTING])
async def test_a_worker_that_will_be_back_does_not_cost_the_others_their_lives(state: State) -> None:
    back = worker(1, state=state, report=None, silence=1_000.0)
    assert await healthz(service(worker(0), back)) == (200, ["ok"])
    assert await healthz(service(worker(0))) == (200, ["ok"])


async def test_nobody_for_a_minute_is_a_fault() -> None:
    def gone(silence: float) -> Standing:
        return service(
            worker(0, state=State.GONE, report=None, silence=silence),
            worker(1, state=State.STARTING, report=None, silence=silence + 1),
        )

    assert await healthz(gone(DOWN_TIMEOUT)) == (200, ["ok"])
    assert await healthz(gone(DOWN_TIMEOUT + 0.1)) == (503, ["no worker has served for 60.1 s"])


# /metrics


@pytest.mark.parametrize(("openmetrics", "kind"), [(False, TEXT), (True, OPENMETRICS)])
async def test_a_worker_makes_the_page(openmetrics: bool, kind: str) -> None:
    fake = Fake(service(worker(0, silence=0.2), worker(1, silence=0.1)))
    answer = await fake.service.metrics(openmetrics)
    assert (answer.status, lines(answer), answer.content_type) == (200, ["page of 2"], kind)
    assert fake.asked == [True]
    assert fake.rendered == [101], "the one that was heard of last"


@pytest.mark.parametrize("fate", [None, ConnectionResetError(), BrokenPipeError()])
async def test_another_worker_makes_the_page_if_the_first_can_not(
    fate: BaseException | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "RENDER_TIMEOUT", 0.0)
    fake = Fake(service(worker(0), worker(1)))
    fake.fates = {100: fate}
    assert (await fake.service.metrics()).status == 200
    assert fake.rendered == [100, 101]


async def test_a_silent_worker_does_not_take_the_metrics_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "ASK_TIMEOUT", 0.0)
    fake = Fake(service(worker(0, silence=8.0), worker(1)))
    fake.silent = True
    assert lines(await fake.service.metrics()) == ["page of 2"]
    assert fake.rendered == [101]


async def test_if_no_worker_makes_the_page_it_says_who_is_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "RENDER_TIMEOUT", 0.0)
    workers = (worker(0), worker(1, silence=7.0), worker(2, state=State.GONE, report=None))
    fake = Fake(service(*workers, configured=3))
    fake.fates = {100: None, 101: OSError()}
    answer = await fake.service.metrics()
    assert answer.status == 503
    assert lines(answer) == [
        "no worker has made this page",
        "worker 1: it has not been heard of for 7.0 s",
        "worker 2: it does not run; the supervisor will start it",
        "worker 0: did not make this page within 0 s",
        "worker 1: did not make this page within 0 s",
    ]


@pytest.mark.parametrize("asked", ["readyz", "metrics"])
async def test_a_page_is_made_of_what_is_known_after_the_question(asked: str) -> None:
    before, after = service(worker(0, "full"), worker(1)), service(worker(0), worker(1))
    fake = Fake(before, after)
    fake.look()
    page: Callable[[], Any] = getattr(fake.service, asked)
    assert (await page()).status == 200


def test_the_pages_have_paths() -> None:
    assert Fake(alone()).service.pages.keys() == {"/", "/readyz", "/healthz", "/metrics"}
