"""A standing travels as JSON, also between two versions."""

from __future__ import annotations

import json

from tests.lib.metrics import busy, report
from wsd.admin.standing import Standing, State, WorkerView
from wsd.report import Report, Retired

STANDING = Standing(
    workers=(
        WorkerView(number=0, pid=5, report=report(busy())),
        WorkerView(number=1, state=State.GONE, silence=3.5, problem="killed"),
    ),
    configured=3,
    worker_timeout=4.0,
    own=report(),
    retired=Retired().adding(1, report(busy())),
)


def test_a_standing_travels_as_json() -> None:
    assert Standing.load(json.loads(json.dumps(STANDING.dump(), allow_nan=False))) == STANDING


def test_another_version_may_say_more_or_less() -> None:
    dump = STANDING.dump() | {"mood": "good"}
    dump["workers"][0] |= {"state": "dreaming", "mood": "good"}
    assert Standing.load(dump) == STANDING
    assert Standing.load({"workers": [{"number": 2}]}) == Standing(workers=(WorkerView(number=2),))
    assert Standing.load({"workers": [{"number": 2, "report": 7}]}).workers[0].report == Report()


def test_a_worker_stands_for_each_number() -> None:
    chosen = STANDING.by_number()
    assert [(number, worker.state) for number, worker in chosen.items()] == [
        (0, State.SERVING),
        (1, State.GONE),
        (2, State.GONE),
    ]
    # What it has become is told in this order, and the first of these stands for the number.
    workers = [WorkerView(number=0, state=state, pid=pid) for pid, state in enumerate(State)]
    while workers:
        for ordered in (workers, workers[::-1]):
            assert Standing(workers=tuple(ordered)).by_number()[0] == workers[0]
        del workers[0]


def test_a_worker_is_named_if_there_is_another() -> None:
    one = WorkerView(number=0)
    assert not Standing(workers=(one, one)).several
    assert Standing(workers=(one,), configured=2).several
    assert Standing(workers=(one, WorkerView(number=1))).several
