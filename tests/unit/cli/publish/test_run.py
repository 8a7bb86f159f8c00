"""What of standard input is a payload."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsd.cli.publish import run as publish_module
from wsd.cli.publish.run import payloads


@given(st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=6), st.booleans())
def test_payloads_are_the_lines(lines: list[bytes], final_newline: bool) -> None:
    text = b"\n".join(lines) + (b"\n" if final_newline and lines else b"")
    if not final_newline and lines and not lines[-1]:
        lines = lines[:-1]  # nothing follows the last line end
    reading, writing = os.pipe()
    try:
        os.write(writing, text)
        os.close(writing)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(publish_module, "CHUNK", 5)
            assert [payload for batch in payloads(reading) for payload in batch] == lines
    finally:
        os.close(reading)
