"""A worker that does nothing but count, tell and make pages: ``python -m tests.whole.admin.counting NUMBER``.

Its standard input is its end of the pipe.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from dataclasses import replace
from typing import Any

import uvloop

from tests.lib.metrics import GAUGES, report
from wsd import process
from wsd.admin.exposition import render
from wsd.admin.standing import Standing
from wsd.metrics import Metrics
from wsd.pipe import Pipe

BEAT = 0.05
"""Seconds between two reports that nobody has asked for."""


async def work(number: int) -> None:
    """Do what the other side says, until it is gone."""
    metrics, gone = Metrics(), asyncio.Event()

    def tell(asked: int | None) -> None:
        metrics.messages += 1
        metrics.close_codes["1012"] += 2
        metrics.pass_seconds.observe(metrics.messages / 100)
        gauges = replace(GAUGES, open_connections=10 * (number + 1))
        told = report(metrics, gauges, pid=os.getpid(), process=process.figures(), links=(f"Redis of {number}",))
        pipe.send({"say": "report", "id": asked, "report": told.dump()})

    def do(message: dict[str, Any], descriptors: list[int]) -> None:
        if message["do"] == "report":
            tell(message["id"])
        else:
            text = render(Standing.load(message["standing"]), openmetrics=message["openmetrics"])
            pipe.send({"say": "page", "id": message["id"], "text": text})

    pipe = Pipe(socket.socket(fileno=os.dup(0)), do, gone.set)
    while not gone.is_set():
        tell(None)
        await asyncio.wait([waiting := asyncio.ensure_future(gone.wait())], timeout=BEAT)
        waiting.cancel()


if __name__ == "__main__":
    uvloop.run(work(int(sys.argv[1])))
