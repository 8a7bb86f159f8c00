"""What the tests of the commands are made with."""

from __future__ import annotations

import pytest

from tests.lib.here import Here


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    """Runs commands in this process."""
    return Here(capsys, monkeypatch)
