"""A process has the name that it gives itself, and the figures that Prometheus's own client finds."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import CollectorRegistry

from wsd.process import figures, set_name


def test_the_figures_are_those_of_prometheus_client() -> None:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    theirs = {
        sample.name.removeprefix("process_").removesuffix("_total"): sample.value
        for family in registry.collect()
        for sample in family.samples
    }
    ours = figures()
    assert ours.keys() == theirs.keys()
    assert ours["start_time_seconds"] == theirs["start_time_seconds"]
    assert ours["max_fds"] == theirs["max_fds"]
    # They count the descriptor with which they look.
    assert ours["open_fds"] == theirs["open_fds"] - 1
    assert ours["cpu_seconds"] == pytest.approx(theirs["cpu_seconds"], abs=0.5)
    for size in ("resident_memory_bytes", "virtual_memory_bytes"):
        assert ours[size] == pytest.approx(theirs[size], rel=0.1)


def test_descriptors_are_counted_only_if_wanted() -> None:
    assert figures(whole=False).keys() == figures().keys() - {"open_fds"}


def test_a_name_with_a_blank_and_a_bracket_is_a_name() -> None:
    comm = Path("/proc/self/comm")
    before = comm.read_text().removesuffix("\n")
    try:
        set_name("wsd worker) 1")
        assert comm.read_text() == "wsd worker) 1\n"
        assert figures()["start_time_seconds"] > 0
    finally:
        set_name(before)
