"""All the micro-benchmarks, in the order of a message's way and then a client's."""

from __future__ import annotations

from bench.micro import encode, handshakes, ingest, passes, requests, sockets
from bench.micro.work import Comparison
from bench.names import nearest

__all__ = ["COMPARISONS", "choose", "unknown"]

COMPARISONS = (
    *ingest.COMPARISONS,
    *encode.COMPARISONS,
    *passes.COMPARISONS,
    *sockets.COMPARISONS,
    *requests.COMPARISONS,
    *handshakes.COMPARISONS,
)


def choose(text: str) -> list[Comparison]:
    """Those whose names have all the words of a text, as a whole or in part. Commas and an s behind a word don't count.

    So "pass, fakes" finds "pass, 10 fakes" and "pass, 1,000 topics x 1 fake".
    """
    words = [word.strip(",").lower().removesuffix("s") for word in text.split()]
    return [comparison for comparison in COMPARISONS if all(word in comparison.name.lower() for word in words)]


def unknown(text: str) -> str:
    """Say that nothing is chosen by a text, and what could be."""
    words = [word for comparison in COMPARISONS for word in comparison.name.replace(",", "").split(" ")]
    known = [word for word in dict.fromkeys(words) if word.isalpha() and len(word) > 2]
    wrong = next((word for word in text.split() if not choose(word)), "")
    return f"no benchmark has {text!r} in its name; " + (
        nearest(wrong, known) if wrong else f"each word is in some name, but not all in one; words: {', '.join(known)}"
    )
