"""What a reader must know before believing a result.

A run is *disturbed* when others used more than 15 % of a core, be they other processes or other machines of the same
host (steal). It is *generator-bound*, and its rates and latencies are no statement about the server, when the generator
used more than 85 % of its core or the cores of the load were more than 95 % busy. It is *machine-bound* when server and
load shared cores that were more than 95 % busy together: what either did, the other could not.
"""

from __future__ import annotations

import os

from bench.measure.cores import Cores
from bench.measure.work import Result

__all__ = ["GENERATOR_LIMIT", "HELD", "UNRELIABLE", "verdicts"]

GENERATOR_LIMIT = 0.85
"""Share of its core above which the generator's numbers are its own limits."""

LOAD_LIMIT = 0.95
"""Share of the cores of the load above which its processes wait for each other."""

DISTURBED = 0.15
"""Share of a core that others may use: the system's own housekeeping is some per cent of it."""

HELD = 0.98
"""Share of the offered rate from which on it counts as held: starting and draining cost a little."""

UNRELIABLE = frozenset({"disturbed", "generator-bound", "profiled"})
"""Verdicts on results that count only where there are no others."""


def verdicts(result: Result, cores: Cores) -> list[str]:
    """What a reader must know before believing a result; empty if nothing."""
    said = []
    if shares := result.get("shares"):
        cores_of_load = len(cores.load) or os.cpu_count() or 1
        if shares["generator"] > GENERATOR_LIMIT or sum(shares.values()) > LOAD_LIMIT * cores_of_load:
            said.append("generator-bound")
        together = sum(shares.values()) + result.get("server_share", 0.0)
        if cores.shared and cores.server and together > LOAD_LIMIT * len(cores.server):
            said.append("machine-bound")
    if result.get("setup", {}).get("generator_share", 0.0) > GENERATOR_LIMIT and result["kind"] == "storm":
        said.append("generator-bound")
    if result.get("disturbance", 0.0) > DISTURBED:
        said.append("disturbed")
    if checks := result.get("checks"):
        if checks["duplicated"] or checks["out_of_order"]:
            said.append("out of sequence")
        if checks["lost"] and checks["complete"]:
            said.append("a sampled connection lost messages")
        if not checks["complete"]:
            lost = (checks["expected"] or 0) - checks["messages"]
            said.append(f"{lost} not delivered in time" if lost > 0 else f"{-lost} delivered twice")
        if checks["broken"]:
            said.append("connections broke")
    if result.get("setup", {}).get("failures"):
        said.append("clients could not subscribe")
    if result.get("held") is False:
        said.append("rate not held")
    return said
