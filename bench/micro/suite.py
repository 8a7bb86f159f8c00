"""All the micro-benchmarks, in the order of a message's way and then a client's."""

from __future__ import annotations

from bench.micro import encode, handshakes, ingest, passes, requests, sockets
from bench.micro.work import Comparison

__all__ = ["COMPARISONS", "choose"]

COMPARISONS = (
    *ingest.COMPARISONS,
    *encode.COMPARISONS,
    *passes.COMPARISONS,
    *sockets.COMPARISONS,
    *requests.COMPARISONS,
    *handshakes.COMPARISONS,
)


def choose(text: str) -> list[Comparison]:
    """Those with a text in their name."""
    return [comparison for comparison in COMPARISONS if text in comparison.name]
