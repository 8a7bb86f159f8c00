"""What the admin port shows of the team: the supervisor asks the workers, and one of them makes the page."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping

from wsd import __version__, logs, process
from wsd.admin.service import Service
from wsd.admin.standing import Standing, State, WorkerView
from wsd.report import Report
from wsd.supervisor.child import Child, Stage
from wsd.supervisor.team import Team

__all__ = ["service", "standing"]

_STATES = {
    Stage.LAUNCHED: State.STARTING,
    Stage.STARTED: State.STARTING,
    Stage.READY: State.SERVING,
    Stage.LEAVING: State.LEAVING,
    Stage.GONE: State.GONE,
}


def service(team: Team) -> Service:
    """Make the pages that speak for all workers."""

    async def render(worker: WorkerView, standing: Standing, openmetrics: bool) -> str:
        child = next((child for child in team.children if child.pid == worker.pid), None)
        if child is None:
            raise OSError("it has ended")
        return await team.page(child, standing=standing.dump(), openmetrics=openmetrics)

    return Service(lambda: standing(team), team.ask_all, render)


def standing(team: Team) -> Standing:
    """How the service stands."""
    now = asyncio.get_running_loop().time()
    # Of one that does not serve yet the silence is its place's, so that a row of those that die young is noticed.
    silences = {seat.number: now - seat.served for seat in team.seats}
    views = [_view(child, now, silences) for child in team.children if child.number >= 0]
    views += [
        WorkerView(number=seat.number, state=State.GONE, silence=silences[seat.number])
        for seat in team.seats
        if seat.child is None
    ]
    team.metrics.log_lines_lost = team.lost_lines + logs.lost()
    own = Report(
        version=__version__,
        pid=os.getpid(),
        unready="",
        metrics=team.metrics.dump(),
        process=process.figures(),
    )
    return Standing(
        workers=tuple(views),
        configured=len(team.seats),
        worker_timeout=team.chosen.worker_timeout if team.chosen is not None else 0.0,
        own=own,
        retired=team.retired,
    )


def _view(child: Child, now: float, silences: Mapping[int, float]) -> WorkerView:
    silence = now - child.heard
    if child.stage < Stage.READY:
        silence = silences.get(child.number, silence)
    return WorkerView(
        number=child.number,
        state=_STATES[child.stage],
        pid=child.pid,
        silence=silence,
        report=child.report,
    )
