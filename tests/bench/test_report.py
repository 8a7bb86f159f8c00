"""What becomes of results."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.load.histogram import Histogram
from bench.report.compare import Comparison, chance
from bench.report.export import save_csv, save_hdr
from bench.report.page import headline, render
from bench.report.plots import PERCENTILES, WIDTH, Axis, Bar, Bars, Chart, Scale, Series
from bench.report.saved import load
from bench.report.sizing import Feed, Model, table
from tests.bench.made_up import document, fed, made_up


def test_report_is_one_page_without_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = [made_up("single", server, cost) for server, cost in (("wsd", 5.0), ("floor", 4.0))]
    results += [made_up("joined-2000", "wsd", 0.5), made_up("joined-2000", "naive", 9.0)]
    path = tmp_path / "result.json"
    path.write_text(json.dumps(document(results)))
    assert main(["report", str(path)]) == 0
    page = path.with_suffix(".html").read_text()
    assert "<script" not in page and "http://" not in page and "https://" not in page
    assert "&lt;fast&gt;" in page and "no node on PATH" in page
    assert "server on core 0, load on core 1" in page and "Redis 7; node v18" in page
    assert 'content="width=device-width, initial-scale=1"' in page and "minmax(min(360px, 100%), 1fr)" in page
    assert page.count('<div class="wide"><table>') == page.count("<table>") == 1
    assert "✓ met" in page and "not measured" in page
    assert "✗ falls short" in page and "<b>Tried:</b> one joined write" in page
    assert page.count("<svg") >= 4
    assert "CPU per delivery against rate" in page
    assert str(path.with_suffix(".html")) in capsys.readouterr().out


def test_report_begins_with_the_headline_and_has_goals_beside_the_plots() -> None:
    results = [made_up(f"joined-{rate}", "wsd", 0.5) for rate in (2000, 5000)] + [made_up("joined-2000", "naive", 9.0)]
    page = render(document(results))
    places = [page.index(words) for words in ("Share of a core that", "<section>", "<b>Tried:</b>", "All measurements")]
    assert places == sorted(places)
    section = page[page.index('<h2 id="joined">') :]
    assert "falls short" in section[: section.index("</section>")]


def test_report_says_once_what_was_tried() -> None:
    results = [made_up(f"joined-{rate}", server, 0.5) for rate in (2000, 5000) for server in ("wsd", "naive")]
    page = render(document(results))
    assert page.count("✗ falls short") == 2 and page.count("<b>Tried:</b>") == 1


def test_report_of_fewer_clients_says_so() -> None:
    found = document([made_up("single", "wsd", 5.0)])
    assert "With 1/" not in render(found)
    assert "With 1/20 of the clients" in render(found | {"suite": "smoke"})


def test_report_shows_what_was_not_measured_as_absent() -> None:
    page = render(document([made_up("single", "wsd", 5.0) | {"joined": None}]))
    assert page.count('<td class="number">\N{EN DASH}</td>') == 3, "p99.9, per read, and what others took"


def compared(before: Sequence[float], after: Sequence[float]) -> Comparison:
    """Two results in which a delivery of wsd costs these."""
    sides = (document([made_up("single", "wsd", cost) for cost in costs]) for costs in (before, after))
    return Comparison(*sides)


def test_compare_tells_what_is_more_than_noise() -> None:
    comparison = compared([5.0, 5.1, 5.2, 5.05], [6.0, 6.09, 6.2, 6.09])
    text = comparison.text(0.05)
    assert "+20.0 %  WORSE, more than noise (chance 2.9%)" in text and "4%" in text, "and the spread"
    assert "others took" not in text and "0 of 4 measurements disturbed" in text
    assert comparison.status(0.05) == 1 and comparison.status(0.25) == 0, "beyond the threshold only"
    assert [each.measure.title for each in comparison.worse(0.05)] == ["CPU/delivery µs"]
    better = compared([6.0, 6.1, 6.3, 6.2], [5.0, 5.1, 5.2, 5.05])
    assert "better, more than noise" in better.text(0.05) and better.status(0.05) == 0


def test_compare_takes_noise_for_noise() -> None:
    comparison = compared([5.0, 7.0, 6.0, 5.5], [6.5, 5.2, 7.5, 6.2])
    assert "within noise (chance" in comparison.text(0.0) and comparison.status(0.0) == 0


def test_compare_of_few_repetitions_says_that_nothing_can_be_told() -> None:
    comparison = compared([5.0], [9.0])
    text = comparison.text(0.05)
    assert "+80.0 %  too few repetitions to tell" in text and "once" in text and "(--repeat 4)" in text
    assert comparison.status(0.05) == 2
    assert compared([], []).status(0.05) == 2


def test_compare_says_how_busy_the_machine_was_and_what_differs() -> None:
    before, after = (document([made_up("single", "wsd", 5.0)]) for _ in range(2))
    assert "NOT THE SAME" not in Comparison(before, after).text(0.05)
    after["machine"]["cpu"] = "another"
    after["results"][0] |= {"disturbance": 0.31, "stolen": 0.12, "verdicts": ["disturbed"]}
    text = Comparison(before, after).text(0.05)
    assert "NOT THE SAME CPU" in text
    assert "1 of 1 measurements disturbed; others took 31% of a core, at most 31%" in text
    assert "of which other machines of the host 12%" in text


def test_result_of_before_rows_had_cases_can_be_compared(tmp_path: Path) -> None:
    old = document([made_up("single", "wsd", 5.0)])
    for result in old["results"]:
        del result["case"]
    for goal in old["goals"]:
        del goal["row"], goal["exact"]
    (tmp_path / "old.json").write_text(json.dumps(old))
    found = load(tmp_path / "old.json")
    assert Comparison(found, document([made_up("single", "wsd", 6.0)])).differences
    assert "All measurements" in render(found)


def test_more_deliveries_are_better() -> None:
    before, after = ([made_up("single", "wsd", 5.0) | {"rate": rate + n} for n in range(4)] for rate in (1000, 500))
    (worse,) = Comparison(document(before), document(after)).worse(0.05)
    assert worse.measure.title == "deliveries/s"


def test_chance_is_counted_exactly() -> None:
    assert chance([1, 2, 3], [4, 5, 6]) == pytest.approx(2 / 20)
    assert chance([1, 2, 3, 4], [5, 6, 7, 8]) == chance([5, 6, 7, 8], [1, 2, 3, 4]) == pytest.approx(2 / 70)
    assert chance([1, 4], [2, 3]) == 1
    assert chance([1, 1, 1], [1, 1, 1]) == 1
    # Of 184,756 ways some are drawn; as far apart as may be is hardly ever among them.
    assert chance(range(10), range(10, 20)) < 0.001
    assert chance(range(0, 20, 2), range(1, 20, 2)) > 0.5


def test_csv_has_a_line_for_each_measurement_and_a_column_for_each_number(tmp_path: Path) -> None:
    results = [made_up("single", "wsd", 5.0), made_up("single", "floor", 4.0) | {"verdicts": ["disturbed", "profiled"]}]
    results[0]["setup"]["failures"] = {"ECONNREFUSED": 2, "503": 1}
    results[1]["more"] = 1
    save_csv(tmp_path / "x.csv", results)
    first, second = csv.DictReader((tmp_path / "x.csv").read_text().splitlines())
    assert (first["server"], first["cpu_per_delivery_us"], first["load.connections"]) == ("wsd", "5.0", "1000")
    assert (first["latency_us.p99.9"], first["setup.failures"], first["more"]) == ("", "3", "")
    assert (second["verdicts"], second["more"]) == ("disturbed; profiled", "1")
    assert not any("histogram" in name for name in first)


def test_log_of_latencies_can_be_read_by_hdrhistogram(tmp_path: Path) -> None:
    hdrh = pytest.importorskip("hdrh.histogram"), pytest.importorskip("hdrh.log")
    histogram = Histogram()
    for value in (0, 10, 20, 1000, 500_000):
        histogram.add(value)
    result = made_up("single", "wsd", 5.0) | {"histogram": histogram.dump(), "began": 1000.0, "took": 2.0}
    save_hdr(tmp_path / "logs", [result, result | {"began": 1002.0}])
    (log,) = (tmp_path / "logs").iterdir()
    assert log.name == "single-wsd.hlog"
    reader = hdrh[1].HistogramLogReader(str(log), hdrh[0].HdrHistogram(1, 3_600_000_000, 2))
    read = [reader.get_next_interval_histogram() for _ in range(2)]
    assert reader.get_next_interval_histogram() is None
    reader.close()
    for each, begin in zip(read, (1000, 1002), strict=True):
        assert each.get_total_count() == 5
        assert each.get_value_at_percentile(60) == pytest.approx(20, rel=0.04)
        assert each.get_max_value() == pytest.approx(500_000, rel=0.04)
        assert (each.get_start_time_stamp(), each.get_end_time_stamp()) == (begin * 1000, (begin + 2) * 1000)


def test_sizing_interpolates_and_checks_itself() -> None:
    results = [made_up("rate-10", "wsd", cost, rate=rate) for rate, cost in ((10.0, 8.0), (1000.0, 2.0))]
    results += [made_up("payload-10000", "wsd", 16.0, rate=10.0)]
    results += [made_up("clients-5000", "wsd", 8.0, rate=10.0)]
    for result in results:
        result["memory"]["empty"] = 50 * 2**20
    model = Model.fit(results)
    assert model.cores(1000, 100.0, 100) == pytest.approx(1000 * 100 * 4e-6)  # the geometric mean of 8 and 2
    assert model.cores(1000, 10.0, 1000) == pytest.approx(1000 * 10 * 8e-6 * 2**0.5)
    assert model.workers(100_000, 10.0, 100) == 16
    assert model.memory(1000, 2) == 100 * 2**20 + 5_000_000
    (check,) = model.checks(results)
    assert check.predicted == check.measured == pytest.approx(0.4)
    assert "| 5,000 connections, 10/s of 100 B | 0.40 | 0.40 | +0% |" in table(results)
    with pytest.raises(ValueError, match="two rates"):
        Model.fit(results[:1])


def test_sizing_of_redis_is_a_line_through_bare_subscribers_for_each_rate() -> None:
    results = [fed("redis-1000", f"links-{count}", count, 10.0 + 4.0 * count) for count in (1, 2, 4, 8)]
    results += [fed("redis-1", "links-8", 8, 46.0), fed("redis-1", "links-8", 8, 38.0)]  # the median is as before
    results += [fed("redis-1", "links-1", 1, 99.0) | {"verdicts": ["disturbed"]}]
    results += [fed("redis-fast", f"links-{count}", count, 2.5 + 1.0 * count) for count in (1, 8)]
    feed = Feed.fit(results)
    assert feed is not None
    assert feed.cost(100, 5000) == pytest.approx(410.0) == feed.cost(100, 500), "beyond the ends, it stays"
    assert feed.cost(10, 20_000) == pytest.approx(12.5)
    assert feed.cost(1, 10_000) == pytest.approx(5.0 + 2.0), "the geometric mean, halfway"
    assert feed.workers(1000.0) == 122, "(500 - 10) / 4"
    assert feed.workers(1000.0, share=1.0) == 247
    assert feed.workers(1_000_000.0) == 0, "not even what a message costs once"
    plain = [made_up("rate-10", "wsd", cost, rate=rate) for rate, cost in ((10.0, 8.0), (1000.0, 2.0))]
    said = table([*plain, *results, fed("redis-1000", "wsd-2", 2, 20.0)])
    assert "| 1,000 | 10.0 | 4.0 | 122 | 247 |" in said
    assert "| wsd-2, 1,000 topics, 5,000/s | 18.0 | 20.0 | -10% |" in said
    assert "not in this result" in table(plain)
    assert Feed.fit(results[:1]) is None, "no line through one point"


def test_headline_shows_shares_of_a_core_and_latencies_beside_each_other() -> None:
    results = [made_up(f"rate-{rate}", server, 5.0) for server in ("wsd", "naive") for rate in (10, 100)]
    results += [made_up("rate-100", "floor", 5.0)]
    drawn = headline(document(results))
    assert "Share of a core" in drawn and "p99" in drawn and "100 %" in drawn
    assert drawn.count("<polyline") == 4 and drawn.count('<rect x="') == 2, "the floors are left out"
    assert headline(document([])) == ""


def test_nothing_runs_through_a_value_and_no_label_is_cut_off() -> None:
    drawn = Bars("t", "ms", [Bar("a", 9.0), Bar("b", 1.0)], limit=8.0).figure()
    words = {float(y) for y in re.findall(r'<text x="[\d.]+" y="([\d.]+)"', drawn)}
    lines = [(float(top), float(low)) for top, low in re.findall(r'y1="([\d.]+)" y2="([\d.]+)" class="limit"', drawn)]
    assert len(words) == 2 and len(lines) == 2
    assert not any(top < word < low + 9 for word in words for top, low in lines), "letters are nine units high"
    drawn = Chart("t", PERCENTILES, Axis("y"), [Series("s", [(2, 1), (1000, 2)])]).figure()
    found = re.search(r'<text x="([\d.]+)"[^>]*>p99\.9<', drawn)
    assert found and float(found[1]) + len("p99.9") * 7 / 2 <= WIDTH


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("low", [0.001, 1.0, 9.0, 95.0, 1234.0])
@pytest.mark.parametrize("times", [1.0, 1.001, 1.4, 2.0, 7.0, 30.0, 1000.0, 1e6])
def test_axis_has_at_least_three_ticks_and_not_too_many(low: float, times: float, log: bool) -> None:
    ticks = Scale(Axis("x", log=log), [low, low * times], 0, 300).ticks
    assert 3 <= len(ticks) <= 10
    assert len({label for _, label in ticks}) == len(ticks)
    scale = Scale(Axis("x", log=log), [low, low * times], 0, 300)
    assert all(-1 <= scale(value) <= 301 for value, _ in ticks)


def test_named_ticks_are_all_inside_whatever_the_values() -> None:
    scale = Scale(PERCENTILES, [2.0, 10.0], 0, 300)
    assert [round(scale(value)) for value, _ in scale.ticks][-1] == 300


def test_plots_draw_what_they_are_given_and_nothing_for_nothing() -> None:
    drawn = Chart("A & B", Axis("x", log=True), Axis("y"), [Series("one", [(1, 1), (10, 2), (100, 3)])]).figure()
    assert drawn.count("<circle") == 3 and "A &amp; B" in drawn
    zero = Chart("t", Axis("x", log=True), Axis("y"), [Series("zero", [(0, 1)])])
    assert not zero and zero.figure() == ""
    nothing = Bars("t", "ms", [])
    assert not nothing and nothing.figure() == ""
    assert Bars("t", "ms", [Bar("a", 1.0), Bar("b", 0.0)], limit=2.0).figure().count("<rect") == 2
    assert "<polyline" in Chart("one point", Axis("x", log=True), Axis("y"), [Series("one", [(5, 0)])]).figure()
