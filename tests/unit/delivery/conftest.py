"""What the tests of delivery share."""

from __future__ import annotations

import pytest

from tests.unit.delivery.house import House, cut_into_slices


@pytest.fixture
def house() -> House:
    """A fan-out with everything around it."""
    return House()


@pytest.fixture
def slices_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop turns after every two writes."""
    cut_into_slices(monkeypatch, 2)
