"""Results that nobody measured, messages that nobody sent, and loads that are small."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from bench.load.histogram import Histogram
from bench.load.scan import Scanner
from bench.load.wire import pad, payload
from bench.measure.cores import Cores
from bench.measure.work import Load
from bench.rows.registry import CASES, ROWS, SUITES, evaluate
from bench.servers.floor import frame

__all__ = ["NO_CORES", "SMALL", "document", "fed", "feed", "made_up", "stamped"]

NO_CORES = Cores((), ())
"""The tests share the machine with others, so nothing is pinned."""

SMALL = Load(connections=50, rate=200, seconds=0.5, warm_up=0.1)


def made_up(case: str, server: str, cost: float, **load: object) -> dict[str, Any]:
    """A result that nobody measured.

    Args:
        case: whose result it is.
        server: the server.
        cost: CPU per delivery, in microseconds.
        load: fields of the load that differ from the case's.
    """
    (row,) = (row.name for row in ROWS.values() if CASES[case] in row.cases)
    shape = asdict(CASES[case].work_of(server).load)
    histogram = Histogram({100: 50, 200: 1}).dump()
    latency = {"p50": 100.0, "p90": 150.0, "p99": 2000.0, "p99.9": None, "max": 2200.0}
    return {
        "row": row,
        "case": case,
        "server": server,
        "kind": "fan-out",
        "load": shape | load,
        "setup": {"cpu_per_session_us": 150.0, "latency_us": latency, "histogram": histogram, "failures": {}},
        "memory": {"empty": 50.0 * 2**20, "per_connection": 5000.0},
        "rate": 100_000.0,
        "offered": 100_000.0,
        "cpu_per_delivery_us": cost,
        "joined": 1.0,
        "server_share": 0.5,
        "latency_us": latency,
        "histogram": histogram,
        "shares": {"generator": 0.5, "publisher": 0.1, "redis": 0.1},
        "checks": {"expected": 100, "messages": 100, "lost": 0, "duplicated": 0, "out_of_order": 0},
        "verdicts": [],
    }


def fed(case: str, server: str, subscribers: float, cost: float) -> dict[str, Any]:
    """What nobody measured of Redis.

    Args:
        case: whose result it is.
        server: the server.
        subscribers: of each topic.
        cost: CPU of Redis per message, in microseconds.
    """
    return {
        "row": "redis",
        "case": case,
        "server": server,
        "kind": "feeding",
        "load": asdict(CASES[case].work.load),
        "messages": 5000,
        "subscribers": subscribers,
        "cpu_per_message_us": cost,
        "cpu_per_copy_us": cost / subscribers,
        "shares": {"generator": 0.1, "publisher": 0.1, "redis": 0.1},
        "verdicts": [],
    }


def document(results: list[dict[str, Any]]) -> dict[str, Any]:
    """What a run leaves."""
    machine = {
        "cpu": "<fast>",
        "cores": 2,
        "memory": 2**33,
        "kernel": "6",
        "system": "Linux",
        "python": "3.11",
        "libraries": {"websockets": "17"},
        "redis": "Redis 7",
        "node": "v18",
        "nats-server": "",
        "nginx": "",
        "revision": "abc",
        "load": 0.5,
    }
    return {
        "suite": "quick",
        "began": "2026-01-01T00:00:00+00:00",
        "command": "python -m bench quick",
        "machine": machine,
        "cores": {"server": [0], "load": [1]},
        "absent": {"node": "no node on PATH"},
        "results": results,
        "goals": evaluate(results, SUITES["quick"]),
    }


def stamped(number: int, topic: int = 0, due: int = 0, size: int = 100) -> bytes:
    """A frame as the floor sends it."""
    return frame(b"t%05d" % topic, payload(topic, number, due, pad(size)))


def feed(scanner: Scanner, data: bytes, pieces: int) -> int:
    """Give a scanner data in pieces of a size, as a socket would."""
    count = 0
    for begin in range(0, len(data), pieces):
        piece = data[begin : begin + pieces]
        count += scanner.feed(bytearray(piece), len(piece))
    return count
