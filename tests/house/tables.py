"""The tables of the papers that are made from the code. `tests.house.papers` knows which stands where."""

from __future__ import annotations

import ast
import re
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

import wsd
from bench.rows.registry import ROWS
from tests import ROOT
from tests.house.test_layers import LAYERS, TO_COME
from tests.lib.metrics import alone
from tests.simulation.faults import FAULTS
from wsd.admin.exposition import collect
from wsd.codes import Close, ErrorCode, HandshakeReason, Move, Restart, TokenReason
from wsd.config import Settings, text
from wsd.metrics import Across, Gauges, families

__all__ = [
    "bench_rows",
    "close_codes",
    "errors",
    "explained_metrics",
    "handshakes",
    "make_targets",
    "metrics",
    "moves",
    "restarts",
    "rooms",
    "settings",
    "simulated_faults",
    "table",
    "token_reasons",
]

HOUSE = Path(wsd.__file__).parent


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
            "the network, a proxy, a process of wsd that was killed, or a 4008 that could not be delivered",
            "reconnect with jitter",
        ),
    ]
    return table("close code", "reason", "the client should", rows=rows)


def handshakes() -> str:
    """Why opening handshakes are refused."""
    rows = [(f"`{reason}`", str(reason.status or "none"), reason.cause) for reason in HandshakeReason]
    return table("reason", "status", "cause", rows=rows)


def settings() -> str:
    """The settings, as the operator may give them."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = text(field.default)
        rows.append((f"`{name}`", f"`{default}`" if default else "", field.description or ""))
    return table("setting", "default", "meaning", rows=rows)


def explained_metrics() -> dict[str, tuple[str, str]]:
    """The type and the meaning of each of wsd's own metrics, by its name."""
    return {
        f"{family.name}_total" if family.type == "counter" else family.name: (family.type, family.documentation)
        for family in collect(alone())
        if family.name.startswith("wsd_")
    }


def metrics() -> str:
    """The metrics of a scrape."""
    each = {f"wsd_{family.name}" for family in families(Gauges) if family.across is Across.EACH}
    rows = [
        (f"`{name}`", f"{kind}, each" if name in each else kind, meaning)
        for name, (kind, meaning) in explained_metrics().items()
    ]
    return table("metric", "type", "meaning", rows=rows)


def restarts() -> str:
    """Why workers are replaced that nobody has sent away."""
    return table("reason", "cause", rows=[(f"`{reason}`", reason.meaning) for reason in Restart])


def moves() -> str:
    """What becomes of connections that are to move."""
    return table("result", "what happened", rows=[(f"`{result}`", result.meaning) for result in Move])


def bench_rows() -> str:
    """What the bench measures."""
    return table("row", "load", rows=[(f"`{row.name}`", row.words) for row in ROWS.values()])


def make_targets() -> str:
    """What can be made."""
    found = re.findall(r"^([a-z-]+):.*## (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return table("command", "what it does", rows=[(f"`make {name}`", meaning) for name, meaning in found])


def simulated_faults() -> str:
    """The kinds of faults that happen in simulated worlds."""
    rows = [(name.replace("_", " "), (function.__doc__ or "").rstrip(".")) for name, function in FAULTS.items()]
    return table("fault", "what happens", rows=rows)


def rooms() -> str:
    """The house from the roof to the ground: the rooms of each layer, and the modules of each room."""
    return f"```text\n{''.join(_rooms())}```\n"


def _rooms() -> Iterator[str]:
    apart = {room for layer in LAYERS for room in layer if "." in room}  # modules that are rooms of their own
    for number, layer in reversed(list(enumerate(LAYERS))):
        for room in sorted(layer - TO_COME - {"__main__"}):
            path = HOUSE / room.replace(".", "/")
            yield from _room(path if path.is_dir() else path.with_suffix(".py"), f"{number}", apart - {room})


def _room(path: Path, number: str, apart: Container[str], depth: int = 0) -> Iterator[str]:
    """A room and those in it, without those that are apart."""
    if ".".join(path.relative_to(HOUSE).with_suffix("").parts) in apart:
        return
    folder = path.is_dir()
    docstring = ast.get_docstring(ast.parse((path / "__init__.py" if folder else path).read_text())) or ""
    words = re.sub(r":\w+:|`", "", docstring.splitlines()[0])
    name = path.name if depth else str(path.relative_to(HOUSE))
    yield f"{number:2} {'  ' * depth}{name + '/' * folder:{20 - 2 * depth}} {words}\n"
    if folder:
        for each in sorted(each for each in path.iterdir() if each.is_dir() or each.suffix == ".py"):
            if not each.name.startswith("__"):
                yield from _room(each, "", apart, depth + 1)
