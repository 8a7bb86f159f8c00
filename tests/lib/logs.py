"""Reads a log whose lines are JSON."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["entries"]


def entries(text: str) -> list[dict[str, Any]]:
    """Parse JSON lines, strictly."""
    assert text.endswith("\n")
    return [json.loads(line) for line in text[:-1].split("\n")]
