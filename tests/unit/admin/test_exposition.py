"""The exposition is held to prometheus-client's parsers, and to Prometheus's rules for names."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields, replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.lib.metrics import COUNTED, GAUGES, busy
from wsd import __version__
from wsd.admin.exposition import registry
from wsd.codes import HandshakeReason
from wsd.metrics import Gauges, Histogram, Metrics


def as_text(registry: CollectorRegistry) -> Iterable[Metric]:
    return parse_text(generate_latest(registry).decode())


def as_openmetrics(registry: CollectorRegistry) -> Iterable[Metric]:
    families: Iterable[Metric] = parse_openmetrics(generate_openmetrics(registry).decode())  # type: ignore[no-untyped-call]
    return families


def families(metrics: Metrics, parse: Callable[[CollectorRegistry], Iterable[Metric]] = as_text) -> dict[str, Metric]:
    """What a scrape gives, by the names of the families."""
    found = list(parse(registry(lambda: (metrics, GAUGES))))
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
def test_both_formats_are_parsed(metrics: Metrics, parse: Callable[[CollectorRegistry], Iterable[Metric]]) -> None:
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


def test_nothing_else_is_exposed() -> None:
    exposed = {name for name in families(Metrics()) if not name.startswith("process_")}
    looked_up = [gauge.name for gauge in fields(Gauges)]
    assert exposed == {f"wsd_{name}" for name in (*COUNTED, *looked_up, "info")}


def test_what_can_be_looked_up_is_looked_up_at_each_scrape() -> None:
    found = families(Metrics())
    assert samples(found.pop("wsd_sessions")) == {
        "wsd_sessions state=anonymous": 2,
        "wsd_sessions state=authenticated": 3,
    }
    assert samples(found.pop("wsd_info")) == {f"wsd_info version={__version__}": 1}
    gauges = {name: samples(family) for name, family in found.items() if family.type == "gauge" and "wsd" in name}
    assert gauges == {
        f"wsd_{name}": {f"wsd_{name}": float(value)} for name, value in asdict(GAUGES).items() if name != "sessions"
    }


def test_a_scrape_asks_anew() -> None:
    metrics = Metrics()
    gauges = iter([replace(GAUGES, topics=1), replace(GAUGES, topics=2)])
    scraped = registry(lambda: (metrics, next(gauges)))
    for topics in (b"1.0", b"2.0"):
        assert b"\nwsd_topics %b\n" % topics in generate_latest(scraped)


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
    assert {"process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds"} <= families(Metrics()).keys()


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
