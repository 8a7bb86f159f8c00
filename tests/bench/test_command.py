"""The command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main
from bench.load.control import GeneratorError
from bench.measure.cores import Cores
from bench.measure.fan_out import FanOut
from bench.processes import ROOT
from bench.report.saved import load
from bench.rows.case import Cell
from bench.rows.registry import ROWS
from bench.servers.baselines import NaiveServer
from bench.servers.profiler import py_spy
from tests.bench.made_up import NO_CORES, SMALL, document, made_up


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["quick", "--rows", "nosuch"], "--rows: there is no 'nosuch' in this suite; known: single, joined,"),
        (["quick", "--rows", "single,strom"], "--rows: there is no 'strom' in this suite; did you mean storm"),
        (["quick", "--rows", "rate"], "--rows: there is no 'rate' in this suite"),  # of the full one
        (["full", "--servers", "wds"], "--servers: there is no 'wds' in this suite; did you mean wsd"),
        (["quick", "--servers", "WSD"], "did you mean wsd"),
        (["quick", "--servers", "naive", "--rows", "soak"], "they are in: joined, single, topics"),
        (["quick", "--rows", ","], "argument --rows: ',' names nothing"),
        (["quick", "--servers", ""], "argument --servers: '' names nothing"),
        (["quick", "--repeat", "-1"], "argument --repeat: '-1' is not a number from 0"),
        (["quick", "--threshold", "-1"], "argument --threshold: '-1' is no percentage from 0"),
        (["quick", "--threshold", "nan"], "argument --threshold: 'nan' is no percentage from 0"),
        (["quick", "--against", "/nowhere"], "--against: /nowhere is no checkout of wsd"),
        (["quick", "--against", ".", "--servers", "naive"], "it is wsd that is measured against wsd"),
        (["quick", "--again", "x"], "argument --again: 'x' is not a number from 0"),
        (["quikc"], "invalid choice"),
        ([], "command"),
    ],
)
def test_names_that_are_not_known_are_refused(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, *(["--output", str(tmp_path)] if words[:1] in (["quick"], ["full"]) else [])])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "no result"


def test_a_server_that_is_asked_for_and_not_installed_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(NaiveServer, "absent", classmethod(lambda cls: "no program of it"))
    with pytest.raises(SystemExit):
        main(["quick", "--servers", "wsd,naive"])
    assert "--servers: naive can't be measured here: no program of it" in capsys.readouterr().err


def _without(place: str) -> Callable[[dict[str, Any]], None]:
    """Takes something out of a document."""

    def damage(found: dict[str, Any]) -> None:
        *way, last = place.split(".")
        at: Any = found
        for part in way:
            at = at[int(part)] if part.isdigit() else at[part]
        del at[last]

    return damage


BROKEN: dict[str, tuple[bytes | Callable[[dict[str, Any]], object], str]] = {
    "empty": (b"", "not JSON"),
    "half": (b'{"suite": "quick", "results": [', "not JSON"),
    "not UTF-8": (b"\xff\xfe", "not JSON"),
    "deep": (b"[" * 100_000, "not JSON"),
    "a list": (b"[]", "its content: input should be a valid dictionary"),
    "another's": (b'{"suite": "x"}', "began: is missing"),
    "no machine": (_without("machine"), "machine: is missing"),
    "no kernel": (_without("machine.kernel"), "machine.kernel: is missing"),
    "no load": (_without("results.0.load"), "results[0].load: is missing"),
    "no share": (_without("results.0.server_share"), "results[0].server_share: is missing"),
    "no row": (_without("results.0.row"), "results[0].row: is missing"),
    "no setup": (_without("results.0.setup.latency_us"), "results[0].setup.latency_us: is missing"),
    "text for a rate": (lambda found: found["results"][0].update(rate="fast"), "results[0].rate: input should be a"),
    "no number": (lambda found: found["results"][0].update(rate=float("nan")), "results[0].rate: input should be a"),
    "no buckets": (lambda found: found["results"][0].update(histogram={"x": 1}), "results[0].histogram.x"),
    "null": (lambda found: found["results"].append(None), "results[1]: input should be a valid dictionary"),
}


@pytest.mark.parametrize("damage", BROKEN)
@pytest.mark.parametrize("command", ["report", "check", "compare", "size", "headline"])
def test_a_file_that_is_no_result_is_said(
    command: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    found = document([made_up("single", "wsd", 5.0), made_up("joined-2000", "wsd", 0.5)])
    good.write_text(json.dumps(found))
    content, says = BROKEN[damage]
    if callable(content):
        found["results"][1:] = []
        content(found)
        content = json.dumps(found).encode()
    bad.write_bytes(content)
    more = {"compare": [str(good)], "headline": [str(tmp_path / "plot.svg")]}.get(command, [])
    assert main([command, str(bad), *more]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"bench: {bad}: ") and says in said.err and said.err.count("\n") == 1
    assert said.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.json", "good.json"]


def test_a_file_that_is_not_there_is_said_with_those_that_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "quick-20260101-000000.json").write_text("{}")
    assert main(["report", str(tmp_path / "quick-20260101-00000.json")]) == 1
    assert "no such file; results there: did you mean quick-20260101-000000.json?" in capsys.readouterr().err
    assert main(["size", str(tmp_path / "nowhere" / "x.json")]) == 1
    assert "no such file; results there: there is none" in capsys.readouterr().err
    assert main(["size", str(tmp_path)]) == 1
    assert "Is a directory" in capsys.readouterr().err
    good = tmp_path / "good.json"
    good.write_text(json.dumps(document([made_up("single", "wsd", 5.0)])))
    assert main(["headline", str(good), str(tmp_path / "nowhere" / "x.svg")]) == 1
    assert "x.svg: can't be written: No such file or directory" in capsys.readouterr().err


def test_a_directory_that_can_not_be_made_is_said_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["quick", "--output", str(tmp_path / "file" / "results")]) == 1
    assert "no directory for results: Not a directory" in capsys.readouterr().err


def test_a_partial_run_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = tmp_path / "part.json"
    storm_alone = made_up("storm", "wsd", 5.0) | {"kind": "storm"}
    new_kind = made_up("single", "wsd", 5.0) | {"kind": "later", "row": "later", "case": "later"}
    for results in ([], [storm_alone], [new_kind]):
        part.write_text(json.dumps(document(results)))
        assert main(["report", str(part)]) == 0
        assert main(["compare", str(part), str(part)]) == 2, "once is too few to tell"
        assert main(["size", str(part)]) == 1
        assert main(["headline", str(part), str(tmp_path / "plot.svg")]) == 1
        said = capsys.readouterr().err
        assert "sized from a run that measured wsd" in said and "nothing to draw" in said and "Traceback" not in said


def test_a_run_in_which_something_failed_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = Cell.measure

    def fail(cell: Cell, cores: Cores, **more: Any) -> Any:
        if cell.server == "wsd":
            raise GeneratorError("it broke")
        return measure(replace(cell, work=FanOut(SMALL)), cores, **more)

    monkeypatch.setattr(Cell, "measure", fail)
    arguments = ["quick", "--output", str(tmp_path), "--rows", "single", "--repeat", "1", "--servers"]
    assert main([*arguments, "wsd"]) == 1
    assert "nothing could be measured" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main([*arguments, "wsd,floor"]) == 1
    assert "1 of 2 measurements failed" in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 2


def test_smoke_measures_and_leaves_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Cores, "split", lambda: NO_CORES)
    rows = ("single", "burst", "stalled", "storm", "standing", "soak")
    arguments = ["--rows", ",".join(rows), "--servers", "wsd", "--check", "--csv", "--hdr"]
    assert main(["smoke", "--output", str(tmp_path), *arguments]) == 0
    (made,) = tmp_path.glob("*.json")
    found = load(made)
    assert {goal["met"] for goal in found["goals"] if goal["row"] in rows} == {True}
    said = capsys.readouterr().out
    assert re.search(r"check: \d\d goals met, 0 fall short, [1-9]\d not measured", said)
    page = made.with_suffix(".html").read_text()
    for words in ("Memory while clients come and go", "Tasks and threads meanwhile", "longest stop", "to subscribed"):
        assert words in page
    assert len(made.with_suffix(".csv").read_text().splitlines()) == 1 + len(found["results"])
    assert (tmp_path / f"{made.stem}-hdr" / "storm-wsd.hlog").exists()


@pytest.mark.skipif(py_spy() is None, reason="py-spy is not installed")
def test_smoke_against_another_checkout_and_with_flame_graphs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Cores, "split", lambda: NO_CORES)
    arguments = ["smoke", "--output", str(tmp_path), "--rows", "storm", "--against", str(ROOT), "--profile"]
    status = main([*arguments, "--repeat", "2"])
    said = capsys.readouterr().out
    if "Operation not permitted" in said or "Permission denied" in said:
        pytest.skip("this user may not look into processes")
    assert status == 2, said  # two repetitions are too few to tell
    assert "too few repetitions to tell" in said and said.count("(against)") == 2
    (flames,) = tmp_path.glob("*-profile")
    (flame,) = flames.iterdir()
    assert flame.name == "storm-wsd.svg"
    assert "<svg" in flame.read_text() and "wsd/clients/" in flame.read_text(), "what its workers do"
    before, after = sorted(tmp_path.glob("*.json"))
    assert [load(path)["results"][0]["verdicts"][-1] for path in (before, after)] == ["profiled", "profiled"]


def test_list_names_rows_loads_servers_and_limits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--list"])
    assert not ended.value.code
    said = capsys.readouterr().out
    for row in ROWS.values():
        assert f"\n{row.name}: {row.words}" in said
        assert all(f"load  {case.name}: {case.work}" in said for case in row.cases)
    assert "goal  <= 1.35 x    CPU per delivery over the floor's" in said
    assert "naive: 10,000 clients, 28,000/s" in said and "floor-transport" in said


@pytest.mark.parametrize(
    ("costs", "status"),
    [([5.0], 0), ([9.0], 1), ([], 2)],
    ids=["all are met", "one falls short", "nothing was measured"],
)
def test_check_tells_by_its_status(
    costs: list[float], status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "result.json"
    floor = [made_up("single", "floor", 4.0) | {"verdicts": ["disturbed"]}] if costs else []
    result.write_text(json.dumps(document([*(made_up("single", "wsd", cost) for cost in costs), *floor])))
    assert main(["check", str(result)]) == status
    said = capsys.readouterr().out
    assert ("FALLS SHORT" in said) is (status == 1)
    assert ("1 of 2 measurements can't be relied on" in said) is bool(costs)
    assert said.count("\n-   ") > 20 and "not measured" in said


def test_the_other_checkout_runs_its_own_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other" / "wsd"
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    (other / "__main__.py").write_text("raise SystemExit('the wsd of another checkout')")
    arguments = [
        "smoke",
        "--output",
        str(tmp_path),
        "--rows",
        "single",
        "--against",
        str(other.parent),
        "--repeat",
        "1",
    ]
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert "(against): FAILED: WsdServer did not start: the wsd of another checkout" in said.out
    assert "nothing could be measured" in said.err
