"""The exposition is held to prometheus-client's parsers, and to Prometheus's rules for names."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields, replace

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.lib.metrics import COUNTED, GAUGES, alone, busy, report
from wsd import __version__
from wsd.admin.exposition import render
from wsd.admin.standing import Standing, State, WorkerView
from wsd.codes import HandshakeReason
from wsd.metrics import Across, Family, Gauges, Histogram, Metrics
from wsd.metrics import families as declared
from wsd.report import Report, Retired


def as_text(standing: Standing) -> Iterable[Metric]:
    return parse_text(render(standing))


def as_openmetrics(standing: Standing) -> Iterable[Metric]:
    families: Iterable[Metric] = parse_openmetrics(render(standing, openmetrics=True))  # type: ignore[no-untyped-call]
    return families


def families(shown: Metrics | Standing, parse: Callable[[Standing], Iterable[Metric]] = as_text) -> dict[str, Metric]:
    """What a scrape gives, by the names of the families."""
    found = list(parse(alone(shown) if isinstance(shown, Metrics) else shown))
    assert len({family.name for family in found}) == len(found), "a family comes twice"
    return {family.name: family for family in found}


def samples(family: Metric) -> dict[str, float]:
    """The samples of a family by what tells them apart: their name and labels."""
    return {
        " ".join([sample.name, *(f"{name}={value}" for name, value in sample.labels.items())]): sample.value
        for sample in family.samples
    }


# The exposition.


@pytest.mark.parametrize("parse", [as_text, as_openmetrics])
@pytest.mark.parametrize("metrics", [Metrics(), busy()], ids=["fresh", "busy"])
def test_both_formats_are_parsed(metrics: Metrics, parse: Callable[[Standing], Iterable[Metric]]) -> None:
    assert len(families(metrics, parse)) > 20


@pytest.mark.parametrize("attribute", COUNTED)
def test_every_counter_is_exposed(attribute: str) -> None:
    metrics = busy()
    value, family = getattr(metrics, attribute), families(metrics)[f"wsd_{attribute}"]
    found = samples(family)
    if isinstance(value, Histogram):
        assert family.type == "histogram"
        assert found[f"wsd_{attribute}_sum"] == value.sum > 0
        assert found[f"wsd_{attribute}_count"] == 1
    else:
        assert family.type == "counter"
        numbers = value.values() if isinstance(value, Counter) else [value]
        assert sorted(found.values()) == sorted(numbers) != [0]


OF_WORKERS = {
    "wsd_workers",
    "wsd_workers_up",
    "wsd_worker_connections",
    "wsd_worker_silence_seconds",
    "wsd_worker_cpu_seconds",
}


def test_nothing_else_is_exposed() -> None:
    exposed = {name for name in families(Metrics()) if not name.startswith("process_")}
    looked_up = [gauge.name for gauge in fields(Gauges)]
    assert exposed == {*(f"wsd_{name}" for name in (*COUNTED, *looked_up, "info")), *OF_WORKERS}


def test_what_can_be_looked_up_is_shown_without_a_worker_if_there_is_one() -> None:
    found = families(Metrics())
    assert samples(found.pop("wsd_sessions")) == {
        "wsd_sessions state=anonymous": 2,
        "wsd_sessions state=authenticated": 3,
    }
    assert samples(found.pop("wsd_info")) == {f"wsd_info version={__version__}": 1}
    gauges = {
        name: samples(family)
        for name, family in found.items()
        if family.type == "gauge" and "wsd" in name and name not in OF_WORKERS
    }
    assert gauges == {
        f"wsd_{name}": {f"wsd_{name}": float(value)} for name, value in asdict(GAUGES).items() if name != "sessions"
    }


def test_labels_are_escaped_and_in_order() -> None:
    metrics = Metrics()
    metrics.slow_consumers.update({"age": 1, 'a"\\\n': 3})
    found = families(metrics)
    assert list(samples(found["wsd_slow_consumers"]).items()) == [
        ('wsd_slow_consumers_total bound=a"\\\n', 3),
        ("wsd_slow_consumers_total bound=age", 1),
        ("wsd_slow_consumers_total bound=bytes", 0),
    ]


def test_refused_handshakes_are_counted_by_reason_with_the_status_from_the_start() -> None:
    metrics = Metrics()
    metrics.refused_handshakes["origin"] += 5
    found = samples(families(metrics)["wsd_refused_handshakes"])
    assert len(found) == len(HandshakeReason)
    assert found["wsd_refused_handshakes_total reason=origin status=403"] == 5
    assert found["wsd_refused_handshakes_total reason=tls status=none"] == 0


def test_the_process_is_watched_too() -> None:
    found = {name: family for name, family in families(Metrics()).items() if name.startswith("process_")}
    assert {name: list(samples(family).values()) for name, family in found.items()} == {
        "process_cpu_seconds": [1.5],
        "process_max_fds": [1024],
        "process_open_fds": [20],
        "process_resident_memory_bytes": [2_000_000],
        "process_start_time_seconds": [1_700_000_000],
        "process_virtual_memory_bytes": [4_000_000],
    }


def test_what_is_not_known_is_no_number() -> None:
    text = render(alone(gauges=replace(GAUGES, redis_probe_age_seconds=float("nan"))))
    assert "\nwsd_redis_probe_age_seconds NaN\n" in text
    text = render(Standing(workers=(WorkerView(number=0, report=Report()),)))
    assert "\nwsd_open_connections NaN\n" in text
    assert "\nwsd_messages_total 0.0\n" in text


@pytest.mark.parametrize("name", [name for name in COUNTED if name.endswith("_seconds")])
def test_the_buckets_of_the_exposition(name: str) -> None:
    metrics = Metrics()
    for value in (0.00001, 0.003, 0.2, 100.0):
        getattr(metrics, name).observe(value)
    buckets = [sample for sample in families(metrics)[f"wsd_{name}"].samples if sample.name.endswith("_bucket")]
    bounds = [float(sample.labels["le"]) for sample in buckets]
    assert bounds == sorted(set(bounds))
    assert bounds[-1] == float("inf")
    counts = [bisect_left([0.00001, 0.003, 0.2, 100.0], bound) for bound in bounds]
    assert [sample.value for sample in buckets] == counts


# Several workers.


def worker(number: int, report: Report | None, state: State = State.SERVING) -> WorkerView:
    return WorkerView(number=number, state=state, pid=number + 1, report=report)


def service(*workers: WorkerView, configured: int = 2, own: Report | None = None) -> Standing:
    return Standing(workers=workers, configured=configured, own=own)


TWO = service(worker(0, report(busy())), worker(1, report(busy())), own=report(busy(), process={"cpu_seconds": 0.25}))


@pytest.mark.parametrize("parse", [as_text, as_openmetrics])
def test_the_page_of_several_is_parsed_in_both_formats(parse: Callable[[Standing], Iterable[Metric]]) -> None:
    assert families(TWO, parse).keys() == families(Metrics(), parse).keys()


@pytest.mark.parametrize("attribute", COUNTED)
def test_counters_of_all_processes_are_added_up(attribute: str) -> None:
    one, three = (samples(families(shown)[f"wsd_{attribute}"]) for shown in (busy(), TWO))
    assert three == pytest.approx({name: 3 * value for name, value in one.items()})


@pytest.mark.parametrize("gauge", declared(Gauges), ids=lambda gauge: gauge.name)
def test_a_gauge_is_added_up_or_carries_the_worker(gauge: Family) -> None:
    name = f"wsd_{gauge.name}"
    one, two = (samples(families(shown)[name]) for shown in (Metrics(), TWO))
    if gauge.across is Across.EACH:
        assert two == {f"{name} worker={number}": one[name] for number in (0, 1)}
    else:
        assert two == {label: 2 * value for label, value in one.items()}


def test_each_workers_part_is_shown() -> None:
    few, many = report(gauges=replace(GAUGES, open_connections=3)), report(gauges=replace(GAUGES, open_connections=90))
    found = families(service(worker(0, few), worker(1, many)))
    assert samples(found["wsd_open_connections"]) == {"wsd_open_connections": 93}
    assert samples(found["wsd_worker_connections"]) == {
        "wsd_worker_connections worker=0": 3,
        "wsd_worker_connections worker=1": 90,
    }


def test_while_a_worker_is_replaced_its_clients_count_and_its_share_counts_once() -> None:
    old = worker(0, report(gauges=replace(GAUGES, open_connections=5, draining=True)), State.LEAVING)
    new = worker(0, report(gauges=replace(GAUGES, open_connections=7)))
    for workers in ((old, new), (new, old)):
        found = families(service(*workers, configured=1))
        assert samples(found["wsd_open_connections"]) == {"wsd_open_connections": 12}
        assert samples(found["wsd_worker_connections"]) == {"wsd_worker_connections worker=0": 12}
        assert samples(found["wsd_max_connections"]) == {"wsd_max_connections": GAUGES.max_connections}
        assert samples(found["wsd_draining"]) == {"wsd_draining": 0}
        assert samples(found["wsd_workers_up"]) == {"wsd_workers_up": 1}


def test_a_worker_that_is_gone_or_silent_or_missing_is_not_up() -> None:
    silent = replace(worker(1, report()), silence=11.0)
    standing = service(
        worker(0, report()), silent, worker(2, report(), State.LEAVING), worker(3, None, State.GONE), configured=5
    )
    found = families(standing)
    assert samples(found["wsd_workers"]) == {"wsd_workers": 5}
    assert samples(found["wsd_workers_up"]) == {"wsd_workers_up": 1}
    assert samples(found["wsd_worker_silence_seconds"])["wsd_worker_silence_seconds worker=1"] == 11
    assert "wsd_tasks worker=3" not in samples(found["wsd_tasks"])


def test_no_counter_falls_when_a_worker_dies_or_is_replaced() -> None:
    def counters(standing: Standing) -> dict[str, float]:
        return {
            label: value
            for family in families(standing).values()
            if family.type in ("counter", "histogram")
            for label, value in samples(family).items()
        }

    before = TWO
    dead = before.workers[1]
    gone = replace(before, workers=before.workers[:1], retired=Retired().adding(1, dead.report))
    again = replace(gone, workers=(*gone.workers, worker(1, report(process={"cpu_seconds": 0.1}))))
    assert counters(gone) == pytest.approx(counters(before))
    assert all(value >= counters(gone)[label] for label, value in counters(again).items())
    assert counters(again)["process_cpu_seconds_total"] == pytest.approx(1.5 + 1.5 + 0.25 + 0.1)
    assert counters(again)["wsd_worker_cpu_seconds_total worker=1"] == pytest.approx(1.6)


def test_of_processes_the_sums_and_the_oldest_start() -> None:
    own = report(process={"start_time_seconds": 1_600_000_000.0, "open_fds": 9, "cpu_seconds": 0.5})
    found = families(replace(TWO, own=own))
    assert samples(found["process_start_time_seconds"]) == {"process_start_time_seconds": 1_600_000_000}
    assert samples(found["process_open_fds"]) == {"process_open_fds": 49}
    assert samples(found["process_cpu_seconds"]) == {"process_cpu_seconds_total": 3.5}


def test_every_version_that_runs_is_shown() -> None:
    found = families(service(worker(0, report(version="1.0")), worker(1, report(version="2.0")), worker(1, Report())))
    assert samples(found["wsd_info"]) == {"wsd_info version=1.0": 1, "wsd_info version=2.0": 1}


@pytest.mark.parametrize("parse", [as_text, as_openmetrics])
def test_what_another_version_has_counted_is_shown_as_far_as_it_is_known(
    parse: Callable[[Standing], Iterable[Metric]],
) -> None:
    newer = Report.load(
        {
            "version": "9.0",
            "colour": "blue",
            "metrics": {
                "messages": 5,
                "marvels": 7,
                "reloads": {"done": 1, "perhaps": 2},
                "refused_handshakes": {"mood": 3},
                "pass_seconds": {"counts": {"0.0003": 2, "7.0": 1}, "sum": 7.0},
                "writes": {"by": 3},
                "close_codes": 9,
            },
            "gauges": {"open_connections": 4, "moons": 2},
        }
    )
    found = families(service(worker(0, report(busy())), worker(1, newer)), parse)
    old = families(busy())
    assert (
        samples(found["wsd_messages"])["wsd_messages_total"] == samples(old["wsd_messages"])["wsd_messages_total"] + 5
    )
    assert samples(found["wsd_reloads"])["wsd_reloads_total result=perhaps"] == 2
    assert samples(found["wsd_refused_handshakes"])["wsd_refused_handshakes_total reason=mood status=unknown"] == 3
    assert samples(found["wsd_pass_seconds"])["wsd_pass_seconds_bucket le=0.0005"] == 2
    assert samples(found["wsd_pass_seconds"])["wsd_pass_seconds_count"] == 4
    for unchanged in ("wsd_writes", "wsd_close_codes"):
        assert samples(found[unchanged]) == samples(old[unchanged])
    assert samples(found["wsd_open_connections"]) == {"wsd_open_connections": 5}


def test_a_page_travels_as_json() -> None:
    there = Standing.load(json.loads(json.dumps(TWO.dump(), allow_nan=False)))
    assert render(there) == render(TWO)


# Names (https://prometheus.io/docs/practices/naming/).


def test_every_family_has_a_help_text() -> None:
    for name, family in families(busy()).items():
        assert 10 < len(family.documentation) < 130, name
        assert "\n" not in family.documentation


def test_names_follow_the_conventions() -> None:
    for name, family in families(busy()).items():
        assert re.fullmatch(r"(wsd|process)(_[a-z]+)+", name)
        if family.type == "counter":
            assert all(sample.name == f"{name}_total" for sample in family.samples)
        if family.type == "histogram":
            assert name.endswith("_seconds")
        if family.type == "gauge":
            assert not name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert not re.search("milli|micro|kilo|percent", name)  # base units only
