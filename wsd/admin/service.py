"""The pages of the admin port, which speak for all workers.

A page about the present asks the workers first, and waits for a moment at the most. Who has not answered by then stands
with what it had told last, which is a second old or, if its event loop stands still, older: then the page says so.

**Ready** is the service if every worker is. While a worker is being replaced by another, clients are served all the
time, so that is no reason to send them elsewhere. A worker that has died is one: who waits in its accept queue waits
until another is in its place.

**Healthy** is the service as long as a restart of all of it would mend nothing. Whoever asks ``/healthz`` will end the
service, all clients included, if it isn't. So a worker that is gone or starting is no fault, because the supervisor
starts it again and its clients are lost already. A worker whose event loop stands still is one, but the supervisor, who
sees it at the same time, ends that worker and so the fault: it lasts only where the supervisor can't help. And it is a
fault if for a minute no worker has served anybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import TypeAlias

from wsd.admin.server import OPENMETRICS, TEXT, Answer, Page
from wsd.admin.standing import Standing, State, WorkerView

__all__ = ["ASK_TIMEOUT", "DOWN_TIMEOUT", "RENDER_TIMEOUT", "Ask", "Look", "Render", "Service"]

ASK_TIMEOUT = 1.0
"""Seconds in which workers may tell how they stand. Balancers wait for two seconds for a page."""

RENDER_TIMEOUT = 1.5
"""Seconds in which a worker may make the page of the metrics; then another one is asked to."""

RENDER_ATTEMPTS = 2
"""Workers that are asked to make the page. With them a scrape takes less than the server's PAGE_TIMEOUT."""

DOWN_TIMEOUT = 60.0
"""Seconds without any worker that serves, after which a restart of the whole service may help."""

Look: TypeAlias = "Callable[[], Standing]"
Ask: TypeAlias = "Callable[[bool], Awaitable[object]]"
Render: TypeAlias = "Callable[[WorkerView, Standing, bool], Awaitable[str]]"


class Service:
    """Makes the pages.

    Args:
        look: returns how the service stands, as far as is known now.
        ask: asks every worker for a report, and returns when all of them have come; is cancelled if that takes longer
            than ASK_TIMEOUT. Its argument says whether the gauges that take long to look up are wanted too.
        render: has a worker make the page of the metrics, in OpenMetrics if the last argument says so. May raise
            OSError if the worker goes away meanwhile; is cancelled if that takes longer than RENDER_TIMEOUT.
    """

    def __init__(self, look: Look, ask: Ask, render: Render) -> None:
        self._look = look
        self._ask = ask
        self._render = render
        self.pages: Mapping[str, Page] = MappingProxyType(
            {"/": self.readyz, "/readyz": self.readyz, "/healthz": self.healthz, "/metrics": self.metrics}
        )

    async def readyz(self, openmetrics: bool = False) -> Answer:
        """Whether clients should come; in the first line why not, and below it how each link to Redis stands."""
        standing = await self._asked(whole=False)
        reason = unready(standing)
        lines = [f"not ready: {reason}" if reason else "ready", *_details(standing)]
        return _answer(HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK, lines)

    async def healthz(self, openmetrics: bool = False) -> Answer:
        """Whether the event loops turn. Nobody is asked: workers tell it each second by themselves."""
        standing = self._look()
        if faults := unhealthy(standing):
            return _answer(HTTPStatus.SERVICE_UNAVAILABLE, faults)
        return _answer(HTTPStatus.OK, ["ok"])

    async def metrics(self, openmetrics: bool = False) -> Answer:
        """What has been counted, and what is so now."""
        standing = await self._asked(whole=True)
        silent = [f"{_name(worker, standing)}: {problem}" for worker, problem in _problems(standing) if problem]
        able = [worker for worker in standing.workers if worker.report is not None and worker.state is not State.GONE]
        for worker in sorted(able, key=lambda worker: worker.silence)[:RENDER_ATTEMPTS]:
            try:
                async with asyncio.timeout(RENDER_TIMEOUT):
                    text = await self._render(worker, standing, openmetrics)
            except (TimeoutError, OSError):
                silent.append(f"{_name(worker, standing)}: did not make this page within {RENDER_TIMEOUT:g} s")
            else:
                return Answer(HTTPStatus.OK, text.encode(), OPENMETRICS if openmetrics else TEXT)
        return _answer(HTTPStatus.SERVICE_UNAVAILABLE, ["no worker has made this page", *silent])

    async def _asked(self, *, whole: bool) -> Standing:
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                await self._ask(whole)
        except TimeoutError:
            pass  # how long a worker has been silent says who has not answered
        return self._look()


def unready(standing: Standing) -> str:
    """Why clients should be sent elsewhere, with the workers at fault, or ``""`` if they should come."""
    problems = _problems(standing)
    workers: dict[str, list[int]] = {}  # at fault, by the reason
    for worker, problem in problems:
        if problem:
            workers.setdefault(problem, []).append(worker.number)
    if not standing.several or (len(workers) == 1 and len(problems) == len(next(iter(workers.values())))):
        return next(iter(workers), "")
    return "; ".join(f"{_names(numbers)}: {problem}" for problem, numbers in workers.items())


def unhealthy(standing: Standing) -> list[str]:
    """What a restart of the whole service may mend, a line for each fault."""
    faults = [
        f"{_name(worker, standing)}: its event loop has stood still for {worker.silence:.1f} s"
        for worker in standing.workers
        if worker.state in (State.SERVING, State.LEAVING) and worker.silence > standing.worker_timeout
    ]
    down = [worker.silence for worker in standing.by_number().values() if worker.state in (State.STARTING, State.GONE)]
    if len(down) == len(standing.by_number()) and min(down) > DOWN_TIMEOUT:
        faults.append(f"no worker has served for {min(down):.1f} s")
    return faults


def _problems(standing: Standing) -> list[tuple[WorkerView, str]]:
    """Why each worker is not ready; ``""`` if it is."""
    return [(worker, _problem(worker, standing)) for worker in standing.by_number().values()]


def _problem(worker: WorkerView, standing: Standing) -> str:
    if worker.problem:
        return worker.problem
    match worker.state:
        case State.GONE:
            return "it does not run; the supervisor will start it"
        case State.STARTING:
            return "it is starting"
        case State.LEAVING:
            return "draining"
    if worker.silence > standing.worker_timeout / 2:
        return f"it has not been heard of for {worker.silence:.1f} s"
    return "it has told nothing yet" if worker.report is None else worker.report.unready


def _details(standing: Standing) -> list[str]:
    """Lines for people."""
    return [
        f"{_name(worker, standing)}: {line}" if standing.several else line
        for worker in standing.by_number().values()
        if worker.report is not None and worker.state in (State.SERVING, State.LEAVING)
        for line in worker.report.links
    ]


def _name(worker: WorkerView, standing: Standing) -> str:
    return f"worker {worker.number}" if standing.several else "the worker"


def _names(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"worker {numbers[0]}"
    return f"workers {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def _answer(status: HTTPStatus, lines: list[str]) -> Answer:
    return Answer(status, "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace"))
