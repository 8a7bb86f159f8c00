"""Names that users give: what they may have meant."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

__all__ = ["nearest"]


def nearest(name: str, known: Collection[str]) -> str:
    """The rest of a sentence that says that a name is not known: what may have been meant, or all that is known."""
    lower = {each.lower(): each for each in known}
    if close := get_close_matches(name.lower(), lower, n=3):
        return f"did you mean {' or '.join(lower[each] for each in close)}?"
    return f"known: {', '.join(known)}" if known else "there is none"
