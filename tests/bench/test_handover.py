"""What is measured of a reload, and that each thing that may go wrong is found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bench.__main__ import main
from bench.load.scan import Notes, Sequences, Stride
from bench.load.witness import Pauses, Witness
from bench.measure.handover import Handover
from bench.measure.work import Load
from bench.rows.handover import HANDOVER
from bench.servers.baselines import NaiveServer
from bench.servers.process import ServerError
from bench.servers.server import Server
from bench.servers.wsd import TwoWorkers, WsdServer
from tests.bench.made_up import NO_CORES, document, feed, made_up, stamped
from tests.bench.reloading import CLOSED, PAUSE, Fault
from tests.lib.waiting import PATIENCE

CLIENTS = 30


class Reloading(Server):
    """See tests.bench.reloading."""

    name = "reloading"
    title = "a server whose reload goes wrong"
    dialect = "raw"
    fault: ClassVar[Fault]

    @classmethod
    def absent(cls) -> str:
        """See :meth:`Server.absent`."""
        return ""

    def command(self) -> list[str]:
        """See :meth:`Process.command`."""
        numbers = (str(self.port), str(self.redis.port))
        return [sys.executable, "-m", "tests.bench.reloading", *numbers, self.fault.name]


def reload_with(fault: Fault) -> dict[str, Any]:
    """Measure a reload in which something goes wrong."""
    kind = type("Faulty", (Reloading,), {"fault": fault})
    load = Load(connections=CLIENTS, rate=300, seconds=0.3, warm_up=0.2, drain=3.0)
    return Handover(load).measure(kind, NO_CORES)


@pytest.mark.parametrize(
    ("fault", "lost", "doubled", "late"),
    [
        (Fault.NONE, 0, 0, 0),
        (Fault.PAUSE, 0, 0, 0),
        (Fault.LOSE, CLIENTS, 0, 0),
        (Fault.DOUBLE, 0, CLIENTS, 0),
        (Fault.SWAP, 0, 0, CLIENTS),
        (Fault.GAP, 0, 0, 0),
    ],
)
def test_every_fault_of_a_reload_is_found_on_every_client(fault: Fault, lost: int, doubled: int, late: int) -> None:
    result = reload_with(fault)
    checks = result["checks"]
    assert (checks["lost"], checks["duplicated"], checks["out_of_order"]) == (lost, doubled, late)
    assert checks["sampled"] == CLIENTS, "all are looked at"
    assert result["closed"] == 0 and result["moved"] == CLIENTS
    assert result["gaps"] == (CLIENTS if fault is Fault.GAP else 0)
    pauses = result["pauses"]
    assert pauses["beyond_us"] == pauses["reload_us"]["longest"] - pauses["calm_us"]["longest"]
    if fault is Fault.PAUSE:
        assert pauses["reload_us"]["p50"] > PAUSE * 1e6 * 0.9
        assert pauses["reload_us"]["longest"] >= pauses["reload_us"]["p99"] >= pauses["reload_us"]["p50"]
    assert result["seconds"] > 0 and result["cpu_alone"] > 0


@pytest.mark.parametrize("kind", [WsdServer, TwoWorkers])
def test_a_reload_of_wsd(kind: type[WsdServer]) -> None:
    load = Load(connections=CLIENTS, rate=100, seconds=0.3, warm_up=0.2, drain=PATIENCE)
    result = Handover(load).measure(kind, NO_CORES)
    checks = result["checks"]
    assert (checks["lost"], checks["duplicated"], checks["out_of_order"], result["closed"]) == (0, 0, 0, 0)
    assert checks["messages"] == checks["expected"] > 0
    assert result["moved"] >= CLIENTS


def test_connections_that_a_reload_closes_are_told() -> None:
    result = reload_with(Fault.CLOSE)
    assert result["closed"] == CLOSED
    assert result["checks"]["broken"] == {"end of stream": CLOSED}
    assert result["checks"]["lost"] > 0, "what was published after their end"


def test_a_server_without_workers_can_not_reload() -> None:
    with pytest.raises(ServerError, match="it has no workers"):
        Handover(Load(connections=1)).measure(NaiveServer, NO_CORES)


# What looks at all connections.


def witness() -> tuple[Witness, Sequences]:
    """A witness of a connection that was subscribed from the start."""
    sequences = Sequences(from_start=True)
    return Witness(Stride(), Notes(), sequences, 0), sequences


@pytest.mark.parametrize("pieces", [1, 2, 7, 64, 100, 151, 152, 153, 154, 160, 306, 1000, 1 << 16])
@pytest.mark.parametrize(
    ("numbers", "lost", "doubled"),
    [
        ([*range(40)], 0, 0),
        ([*range(17), *range(18, 40)], 1, 0),
        ([*range(17), *range(27, 40)], 10, 0),
        ([*range(1, 40)], 1, 0),
        ([*range(20), 19, *range(20, 40)], 0, 1),
        ([*range(20), *range(10, 40)], 0, 10),
    ],
)
def test_witness_finds_holes_and_doubles_however_the_stream_is_cut(
    numbers: list[int], lost: int, doubled: int, pieces: int
) -> None:
    for ping in (b"", b"\x89\x00"):
        looking, sequences = witness()
        data = b"".join(stamped(number) + (ping if number % 7 == 3 else b"") for number in numbers)
        assert feed(looking, data, pieces) == len(numbers)
        assert sequences.seen == len(numbers)
        assert (sequences.lost(40, 1, (0,)), sequences.duplicated, sequences.out_of_order) == (lost, doubled, 0)


@pytest.mark.parametrize("pieces", [1, 100, 153, 154, 306])
def test_witness_finds_what_is_late(pieces: int) -> None:
    looking, sequences = witness()
    feed(looking, b"".join(map(stamped, [*range(20), 21, 20, *range(22, 40)])), pieces)
    assert (sequences.lost(40, 1, (0,)), sequences.duplicated, sequences.out_of_order) == (0, 0, 1)


def test_two_faults_of_one_read_may_undo_each_other() -> None:
    looking, sequences = witness()
    feed(looking, stamped(0), 1 << 16)
    data = b"".join(map(stamped, [*range(1, 20), 21, 20, *range(22, 40)]))
    assert feed(looking, data, len(data)) == 39
    assert sequences.out_of_order == 0, "what the numbers at both ends can't tell; those that are sampled tell it"


def test_witness_walks_only_where_something_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    looking, sequences = witness()
    feed(looking, stamped(0), 1 << 16)
    monkeypatch.setattr(Witness, "walk", lambda *_: pytest.fail("walked"))
    many, length = b"".join(map(stamped, range(1, 1001))), len(stamped(0))
    for begin, end in ((0, 7 * length), (7 * length, 20 * length - 50), (20 * length - 50, 20 * length - 1)):
        feed(looking, many[begin:end], end - begin)
    feed(looking, many[20 * length - 1 :], 1 << 18)
    assert (sequences.next, sequences.seen) == ({0: 1001}, 1001)


def test_witness_of_a_late_comer_begins_with_what_it_gets() -> None:
    stride = Stride()
    feed(Witness(stride, Notes(), Sequences(from_start=True), 0), stamped(0), 1 << 16)
    for pieces in (60, 153, 1 << 16):
        sequences = Sequences(from_start=False)
        assert feed(Witness(stride, Notes(), sequences, 0), b"".join(map(stamped, range(70, 90))), pieces) == 20
        assert (sequences.lost(), sequences.duplicated, sequences.next) == (0, 0, {0: 90})


def test_pauses_count_where_they_end_and_where_they_go_on() -> None:
    pauses = Pauses(100)
    pauses.hear(150)
    pauses.hear(160)
    pauses.turn(170)
    pauses.hear(190)
    pauses.hear(195)
    pauses.turn(200)
    pauses.turn(300)
    assert pauses.windows == [50, 30, 105]


# What is said of it.


def handed_over(case: str, server: str, **changes: Any) -> dict[str, Any]:
    """A reload that nobody measured."""
    spread = {"p50": 60_000.0, "p99": 80_000.0, "longest": 100_000.0}
    more = {"p50": 0.0, "p99": 50_000.0, "longest": 120_000.0}
    pauses = {"calm_us": spread, "reload_us": spread | {"longest": 150_000.0}, "more_us": more, "beyond_us": 50_000.0}
    made = made_up(case, server, 1.0) | {"kind": "handover", "moved": 1000, "seconds": 2.0, "closed": 0, "gaps": 0}
    costs = {"cpu": 1.0, "cpu_alone": 0.7, "cpu_per_moved_us": 1000.0, "cpu_per_moved_more_us": 300.0}
    return made | costs | {"pauses": pauses} | changes


def test_goals_of_a_reload() -> None:
    results = [handed_over("handover-10000", "wsd"), handed_over("handover-10000", "wsd", closed=2, gaps=3)]
    results[1]["checks"] |= {"lost": 1, "duplicated": 2, "out_of_order": 3}
    goals = [goal for goal in HANDOVER.goals(results) if goal.value is not None]
    assert [goal.value for goal in goals] == [1.0, 2.0, 3.0, 2.0, 50.0]
    assert [goal.met for goal in goals] == [False, False, False, False, True]
    assert [goal.exact for goal in goals] == [True, True, True, True, False]
    for words in (
        "longest before 100 ms, longest 150 ms",
        "p99 80 ms",
        "1,000 µs CPU per moved connection, 300 without",
    ):
        assert words in goals[-1].note
    assert "3 gaps announced" in goals[-1].note
    assert len(HANDOVER.plots(results)) == 2
    assert HANDOVER.plots([]) == []


def test_report_of_a_reload(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(document([handed_over("handover-10000", "wsd"), handed_over("handover-1000", "wsd-2")])))
    assert main(["report", str(path)]) == 0
    page = path.with_suffix(".html").read_text()
    assert "CPU per moved connection" in page and "the longest pauses of clients" in page
    assert main(["check", str(path)]) == 0
    assert "longest pause of a client, beyond that before the reload: 50.00 ms" in capsys.readouterr().out
