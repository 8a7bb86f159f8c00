"""Every code stands in its table of ``wsd/codes.py``, and is used; `make papers` shows it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable
from enum import Enum
from pathlib import Path

import pytest
import websockets.http11
import websockets.protocol

import wsd
from wsd.codes import MAX_HEADERS, MAX_LINE, Close, ErrorCode, HandshakeReason, Move, Reaction, Restart, TokenReason

HOUSE = Path(wsd.__file__).parent

# The table itself, and those who ask it about codes that others have raised.
READERS = {HOUSE / "codes.py", HOUSE / "metrics.py", *(HOUSE / "cli").rglob("*.py")}


def mentioned(table: str, modules: Iterable[ast.Module]) -> set[str]:
    """The names that stand behind the name of a table, as ``MALFORMED`` does in ``ErrorCode.MALFORMED``."""
    return {
        node.attr
        for module in modules
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == table
    }


def raised(table: type[Enum]) -> set[str]:
    """The rows of a table that wsd raises or sends."""
    modules = [ast.parse(path.read_text()) for path in sorted(HOUSE.rglob("*.py")) if path not in READERS]
    return mentioned(table.__name__, modules)


@pytest.mark.parametrize("table", [ErrorCode, TokenReason, HandshakeReason, Restart, Move])
def test_every_code_is_raised_and_every_code_that_is_raised_has_a_row(table: type[Enum]) -> None:
    assert raised(table) == {code.name for code in table}


def test_every_close_code_is_sent_by_wsd_or_by_the_library_and_every_one_that_is_sent_has_a_row() -> None:
    module = ast.parse(inspect.getsource(websockets.protocol))
    calls = [node for node in ast.walk(module) if isinstance(node, ast.Call)]
    fails = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "fail"]
    sent = {
        # 1006 says that there was no close frame; the library doesn't send it.
        websockets.frames.CloseCode[name].value
        for name in mentioned("CloseCode", [ast.Module([ast.Expr(call) for call in fails], [])]) - {"ABNORMAL_CLOSURE"}
    }
    assert sent | {Close[name].value for name in raised(Close)} == set(Close)


def test_the_limits_of_a_handshake_are_those_of_the_library() -> None:
    assert (MAX_LINE, MAX_HEADERS) == (websockets.http11.MAX_LINE_LENGTH, websockets.http11.MAX_NUM_HEADERS)


def test_the_two_clients_in_the_papers_stop_where_a_client_should() -> None:
    stop = ", ".join(str(close) for close in Close if close.reaction is Reaction.STOP)
    assert (HOUSE / "PROTOCOL.md").read_text().count(stop) == 2
