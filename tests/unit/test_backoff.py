"""How long is waited before something is tried again."""

from __future__ import annotations

import ast
import math
from itertools import islice
from pathlib import Path

import pytest

import wsd
from wsd.backoff import Backoff, spread

ROOT = Path(wsd.__file__).parent


def test_waits_grow_to_a_bound_and_stay_there_however_many_there_are() -> None:
    bound = 0.1
    for wait in islice(Backoff(0.1, 2.0), 100_000):
        assert bound / 2 <= wait <= bound
        bound = min(bound * 2, 2.0)
    assert bound == 2.0


def test_a_success_begins_anew() -> None:
    waits = Backoff(0.1, 2.0)
    assert max(islice(waits, 2000)) > 1.0
    waits.reset()
    assert next(waits) <= 0.1
    assert next(waits) <= 0.2


@pytest.mark.parametrize(("first", "most"), [(0.0, 30.0), (5.0, 0.005), (1.0, 1.0), (1e300, 1.7e308)])
def test_no_bounds_make_a_wait_that_is_none(first: float, most: float) -> None:
    waits = list(islice(Backoff(first, most), 5000))
    assert all(math.isfinite(wait) and min(first, most) / 2 <= wait <= most for wait in waits)


def test_waits_differ() -> None:
    assert len({spread(1.0) for _ in range(100)}) > 90
    assert len(set(islice(Backoff(1.0, 1.0), 100))) > 90


def test_no_other_module_has_a_formula_of_its_own() -> None:
    """A power or a random time beside this one is how the daemon once ended."""
    for path in sorted(ROOT.rglob("*.py")):
        if path.name == "backoff.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            power = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)
            # A power of constants is written for the reader: 2**20 is a MiB.
            computed = power and not all(isinstance(side, ast.Constant) for side in (node.left, node.right))  # type: ignore[attr-defined]
            assert not computed, f"{path.name}:{node.lineno} raises to a power"  # type: ignore[attr-defined]
            drawn = isinstance(node, ast.Attribute) and node.attr in ("uniform", "expovariate")
            assert not drawn, f"{path.name}:{node.lineno} draws a time"  # type: ignore[attr-defined]
