"""The admin port's pages of a worker without a supervisor, as ``wsd dev`` runs it."""

from __future__ import annotations

from collections.abc import Callable

from wsd.admin.exposition import render
from wsd.admin.service import Service
from wsd.admin.standing import Standing, WorkerView
from wsd.report import Report

__all__ = ["alone"]


def alone(report: Callable[[bool], Report]) -> Service:
    """Make the pages of one worker, which answers for itself.

    Args:
        report: looks up what the worker tells of itself; its argument says whether what takes long is wanted too.
    """
    last: Report | None = None

    def look() -> Standing:
        return Standing(workers=(WorkerView(number=0, report=last),))

    async def ask(whole: bool) -> None:
        nonlocal last
        last = report(whole)

    async def make(worker: WorkerView, standing: Standing, openmetrics: bool) -> str:
        return render(standing, openmetrics=openmetrics)

    return Service(look, ask, make)
