"""The admin port in front of workers that are processes of their own: they die, they are replaced, they stand still."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from bench.processes import Program
from tests.lib.waiting import PATIENCE, eventually
from wsd import process, sockets
from wsd.admin import server as server_module
from wsd.admin import service as service_module
from wsd.admin.server import Admin
from wsd.admin.service import Service
from wsd.admin.standing import Standing, State, WorkerView
from wsd.metrics import Metrics
from wsd.pipe import Pipe, pair
from wsd.report import Report, Retired


@pytest.fixture
def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """A supervisor does without uvloop."""
    return asyncio.new_event_loop


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a worker may need long for a page."""
    monkeypatch.setattr(server_module, "PAGE_TIMEOUT", 2 * PATIENCE)
    monkeypatch.setattr(service_module, "RENDER_TIMEOUT", PATIENCE)


class Worker:
    """A worker, as a supervisor holds it."""

    def __init__(self, number: int, ended: Any) -> None:
        self.number = number
        self.report: Report | None = None
        self.heard = time.monotonic()
        self.waiting: dict[int, asyncio.Future[Any]] = {}
        ours, theirs = pair()
        with theirs:
            self.program = Program(
                [sys.executable, "-m", "tests.whole.admin.counting", str(number)], stdin=theirs.fileno()
            )
        self.pipe = Pipe(ours, self.said, partial(ended, self))

    def said(self, message: dict[str, Any], descriptors: list[int]) -> None:
        self.heard = time.monotonic()
        if message["say"] == "report":
            self.report = Report.load(message["report"]).after(self.report)
        waited = self.waiting.pop(message["id"], None)
        if waited is not None and not waited.done():
            waited.set_result(message.get("text"))

    async def asked(self, number: int, **message: Any) -> Any:
        self.waiting[number] = asyncio.get_running_loop().create_future()
        self.pipe.send({**message, "id": number})
        return await self.waiting[number]


class Supervisor:
    """Workers, and the admin port in front of them."""

    def __init__(self, configured: int, worker_timeout: float) -> None:
        self.configured, self.worker_timeout = configured, worker_timeout
        self.numbers = count()
        self.retired = Retired()
        self.workers: list[Worker] = []
        self.metrics = Metrics()
        self.admin = Admin(Service(self.look, self.ask, self.render).pages)
        self.port = 0

    def start(self, number: int) -> Worker:
        worker = Worker(number, self.ended)
        self.workers.append(worker)
        return worker

    def ended(self, worker: Worker) -> None:
        self.workers.remove(worker)
        self.retired = self.retired.adding(worker.number, worker.report)
        self.metrics.worker_restarts["killed"] += 1
        worker.program.kill()
        for waiting in worker.waiting.values():
            waiting.set_exception(ConnectionResetError())

    def look(self) -> Standing:
        now = time.monotonic()
        return Standing(
            workers=tuple(
                WorkerView(
                    number=worker.number,
                    state=State.STARTING if worker.report is None else State.SERVING,
                    pid=worker.program.pid,
                    silence=now - worker.heard,
                    report=worker.report,
                )
                for worker in self.workers
            ),
            configured=self.configured,
            worker_timeout=self.worker_timeout,
            own=Report(metrics=self.metrics.dump(), process=process.figures()),
            retired=self.retired,
        )

    async def ask(self, whole: bool) -> None:
        asking = [worker.asked(next(self.numbers), do="report") for worker in self.workers]
        await asyncio.gather(*asking, return_exceptions=True)

    async def render(self, view: WorkerView, standing: Standing, openmetrics: bool) -> str:
        (worker,) = (worker for worker in self.workers if worker.program.pid == view.pid)
        page = {"do": "page", "standing": standing.dump(), "openmetrics": openmetrics}
        return str(await worker.asked(next(self.numbers), **page))

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        return await asyncio.to_thread(fetch, self.port, path, headers)

    async def get_until(self, code: int, path: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while (await self.get(path))[0] != code:
                pass

    async def counters(self) -> dict[str, float]:
        code, text = await self.get("/metrics")
        assert code == 200, text
        return {
            f"{sample.name} {sample.labels}": sample.value
            for family in parse_text(text)
            for sample in family.samples
            if family.type in ("counter", "histogram")
        }


def fetch(port: int, path: str, headers: dict[str, str]) -> tuple[int, str]:
    """Ask with the standard library's client."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2 * PATIENCE)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@asynccontextmanager
async def supervising(workers: int, worker_timeout: float = 60.0) -> AsyncIterator[Supervisor]:
    """Workers that have told something, and the admin port."""
    supervisor = Supervisor(workers, worker_timeout)
    listening = sockets.listen(("127.0.0.1",), 0, ("admin_host", "admin_port"))
    supervisor.port = sockets.port_of(listening)
    await supervisor.admin.serve(listening)
    try:
        for number in range(workers):
            supervisor.start(number)
        await eventually(lambda: all(worker.report for worker in supervisor.workers), "the first reports")
        yield supervisor
    finally:
        await supervisor.admin.close()
        for worker in supervisor.workers:
            worker.pipe.close()
            worker.program.kill()


@pytest.mark.usefixtures("patient")
async def test_the_pages_are_those_of_all_workers() -> None:
    async with supervising(3) as supervisor:
        lines = "".join(f"worker {number}: Redis of {number}\n" for number in range(3))
        assert await supervisor.get("/readyz") == await supervisor.get("/") == (200, f"ready\n{lines}")
        assert await supervisor.get("/healthz") == (200, "ok\n")
        code, text = await supervisor.get("/metrics")
        assert code == 200
        for line in (
            "wsd_workers 3.0",
            "wsd_workers_up 3.0",
            "wsd_open_connections 60.0",
            'wsd_worker_connections{worker="1"} 20.0',
            'wsd_redis_link_up{worker="2"} 1.0',
        ):
            assert f"\n{line}\n" in text
        code, text = await supervisor.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
        openmetrics = list(parse_openmetrics(text))  # type: ignore[no-untyped-call]
        assert len(openmetrics) == len(list(parse_text((await supervisor.get("/metrics"))[1])))


@pytest.mark.usefixtures("patient")
async def test_no_counter_falls_whatever_dies() -> None:
    async with supervising(2) as supervisor:
        before = await supervisor.counters()
        for number in (0, 1, 0):
            (victim,) = (worker for worker in supervisor.workers if worker.number == number)
            os.kill(victim.program.pid, signal.SIGKILL)
            # Scrapes come at any time, also while nobody has noticed it.
            while victim in supervisor.workers:
                after = await supervisor.counters()
                assert not {name: after.get(name) for name in before if after.get(name, -1) < before[name]}
                before = after
            code, text = await supervisor.get("/readyz")
            assert (code, text.split("\n")[0]) == (
                503,
                f"not ready: worker {number}: it does not run; the supervisor will start it",
            )
            assert (await supervisor.get("/healthz"))[0] == 200
            fresh = supervisor.start(number)
            while fresh.report is None:
                after = await supervisor.counters()
                assert not {name: after.get(name) for name in before if after.get(name, -1) < before[name]}
                before = after
            assert (await supervisor.get("/readyz"))[0] == 200
        after = await supervisor.counters()
        assert after["wsd_worker_restarts_total {'reason': 'killed'}"] == 3
        assert after["wsd_close_codes_total {'code': '1012'}"] == 2 * after["wsd_messages_total {}"]
        assert after["wsd_pass_seconds_count {}"] == after["wsd_messages_total {}"]


@pytest.mark.usefixtures("patient")
async def test_a_worker_that_stands_still_is_named_and_costs_no_metrics() -> None:
    async with supervising(2, worker_timeout=3.0) as supervisor:
        before = await supervisor.counters()
        stuck = supervisor.workers[1]
        os.kill(stuck.program.pid, signal.SIGSTOP)
        try:
            after = await supervisor.counters()
            assert all(after[name] >= value for name, value in before.items())
            await eventually(lambda: supervisor.look().workers[1].silence > 3.0, "silence", patience=600)
            code, text = await supervisor.get("/readyz")
            assert code == 503
            assert "worker 1: it has not been heard of for " in text.split("\n")[0]
            code, text = await supervisor.get("/healthz")
            assert code == 503
            assert "worker 1: its event loop has stood still for " in text
            assert "\nwsd_workers_up 1.0\n" in (await supervisor.get("/metrics"))[1]
        finally:
            os.kill(stuck.program.pid, signal.SIGCONT)
        await supervisor.get_until(200, "/healthz")


async def test_if_every_worker_stands_still_the_pages_say_so() -> None:
    async with supervising(2) as supervisor:
        for worker in supervisor.workers:
            os.kill(worker.program.pid, signal.SIGSTOP)
        code, text = await supervisor.get("/metrics")
        assert code == 503
        assert text.startswith("no worker has made this page\n")
        assert "worker 0: did not make this page within 1.5 s\n" in text
        assert (await supervisor.get("/healthz"))[0] == 200  # not for long enough
        for worker in supervisor.workers:
            os.kill(worker.program.pid, signal.SIGCONT)
        await supervisor.get_until(200, "/metrics")


@pytest.mark.usefixtures("patient")
async def test_many_scrapers_at_once_are_answered() -> None:
    async with supervising(2) as supervisor:
        answers = await asyncio.gather(*(supervisor.get(path) for path in ("/metrics", "/readyz", "/healthz") * 8))
        assert {code for code, _ in answers} == {200}
