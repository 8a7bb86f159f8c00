"""The tables of the papers that are made from the code. ``python -m tests.house.tables`` prints all of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from wsd.protocol.codes import Close, ErrorCode, HandshakeReason, TokenReason

__all__ = ["close_codes", "errors", "handshakes", "table", "token_reasons"]


def table(*heads: str, rows: Iterable[Iterable[str]]) -> str:
    """Write a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def errors() -> str:
    """The codes of ``error`` messages."""
    rows = [(f"`{code}`", code.meaning, code.remedy.value) for code in ErrorCode]
    return table("error code", "what happened", "the client should", rows=rows)


def token_reasons() -> str:
    """The ``reason`` of ``session unauthorized``."""
    return table("reason", "the client should", rows=[(f"`{reason}`", reason.advice) for reason in TokenReason])


def close_codes() -> str:
    """The close codes that a client may see."""
    rows = [
        *((str(close), close.meaning, "; ".join(filter(None, (close.reaction.value, close.note)))) for close in Close),
        ("1000, 1001", "the client's own close code comes back to the client", "do as it likes"),
        (
            "any other, or none (1006)",
            "the network, a proxy, or a 4008 that could not be delivered",
            "reconnect with jitter",
        ),
    ]
    return table("close code", "reason", "the client should", rows=rows)


def handshakes() -> str:
    """Why opening handshakes are refused."""
    rows = [(f"`{reason}`", str(reason.status or "none"), reason.cause) for reason in HandshakeReason]
    return table("reason", "status", "cause", rows=rows)


if __name__ == "__main__":
    sys.stdout.write("\n".join((errors(), token_reasons(), close_codes(), handshakes())))
