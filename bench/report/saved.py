"""Results in files: read, and held to the form that the other rooms rely on.

A file may be missing, damaged, or of another version of the suite. Each is said in one line, with the place in the
file, before anybody looks for what isn't there. A result of a kind that is not known here is held to what all have.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, StringConstraints, Tag, TypeAdapter, ValidationError

from bench.names import nearest

__all__ = ["UnusableFile", "load", "save"]


class UnusableFile(Exception):
    """A file can't be read or written, or holds no result. The text names it."""


def load(path: Path) -> dict[str, Any]:
    """Read a result.

    Raises:
        UnusableFile: if that can't be.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        beside = sorted(each.name for each in path.parent.glob("*.json")) if path.parent.is_dir() else []
        raise UnusableFile(f"{path}: no such file; results there: {nearest(path.name, beside[-8:])}") from None
    except OSError as exc:
        raise UnusableFile(f"{path}: {exc.strerror}") from None
    except (ValueError, RecursionError) as exc:
        raise UnusableFile(f"{path}: not JSON, so no result of this suite, or a damaged one: {exc}") from None
    try:
        _DOCUMENT.validate_python(document)
    except ValidationError as exc:
        raise UnusableFile(
            f"{path}: {_first(exc)}: it is damaged, or another version of this suite made it; measure again, or read it"
            " with that version"
        ) from None
    return dict(document)


def save(path: Path, text: str) -> None:
    """Write a file.

    Raises:
        UnusableFile: if that can't be.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise UnusableFile(f"{path}: can't be written: {exc.strerror}") from None


def _first(error: ValidationError) -> str:
    """What is wrong first, and where, without its value: that may be the whole file."""
    problem = error.errors(include_url=False, include_input=False)[0]
    place = ""
    for part in problem["loc"]:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part not in _KINDS:
            place += f".{part}"
    what = "is missing" if problem["type"] == "missing" else problem["msg"][0].lower() + problem["msg"][1:]
    return f"{place.removeprefix('.') or 'its content'}: {what}"


# The form of a result, as far as it is read.


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


_Buckets = dict[Annotated[str, StringConstraints(pattern=r"^\d{1,6}$")], int]
"""Counts by the number of the bucket."""


class _Latency(_Part):
    p50: float | None
    p99: float | None


class _Shape(_Part):
    connections: int
    topics: int
    topics_each: int
    rate: float
    size: int


class _Setup(_Part):
    cpu_per_session_us: float | None
    latency_us: _Latency
    histogram: _Buckets


class _Memory(_Part):
    empty: float
    per_connection: float


class _Checks(_Part):
    expected: int | None
    messages: int
    lost: int
    duplicated: int
    out_of_order: int


class _Shares(_Part):
    generator: float


class _Result(_Part):
    row: str
    server: str
    kind: str
    load: _Shape
    verdicts: list[str]


class _Window(_Result):
    rate: float
    offered: float
    cpu_per_delivery_us: float | None
    server_share: float
    joined: float | None
    latency_us: _Latency
    histogram: _Buckets
    shares: _Shares
    checks: _Checks


class _FanOut(_Window):
    setup: _Setup
    memory: _Memory


class _Storm(_Result):
    setup: _Setup
    memory: _Memory | None = None


class _Standing(_Result):
    setup: _Setup
    calm_us: _Latency
    storm_us: _Latency


class _Sample(_Part):
    at: float
    memory: float
    descriptors: float
    threads: float | None = None
    tasks: float | None = None


class _Soak(_Window):
    samples: list[_Sample]


class _Found(_Part):
    longest: float


class _Burst(_Result):
    messages: int
    stalled: int
    stops: _Found
    memory_growth: float
    seconds: float
    checks: _Checks


class _Restart(_Result):
    seconds: float
    returned: int
    away: int
    cpu_per_return_us: float


class _Feeding(_Result):
    subscribers: float
    cpu_per_message_us: float
    shares: _Shares


class _Spread(_Part):
    p50: float
    p99: float
    longest: float


class _Pauses(_Part):
    calm_us: _Spread
    reload_us: _Spread
    more_us: _Spread
    beyond_us: float


class _Handover(_Result):
    setup: _Setup
    moved: int
    seconds: float
    cpu_per_moved_us: float
    cpu_per_moved_more_us: float
    pauses: _Pauses
    closed: int
    gaps: int
    checks: _Checks


class _Goal(_Part):
    work: str
    measure: str
    value: float | None
    limit: float
    unit: str
    at_least: bool
    met: bool | None
    note: str


class _Machine(_Part):
    cpu: str
    cores: int
    memory: int
    kernel: str
    system: str
    python: str
    libraries: dict[str, str]
    redis: str
    node: str
    nginx: str
    revision: str
    load: float


class _Cores(_Part):
    server: list[int]
    load: list[int]


_KINDS = {"fan-out", "storm", "standing", "restart", "soak", "burst", "feeding", "handover", "other"}


def _kind(result: Any) -> str:
    kind = result.get("kind") if isinstance(result, dict) else None
    return kind if kind in _KINDS else "other"


class _Document(_Part):
    suite: str
    began: str
    command: str
    machine: _Machine
    cores: _Cores
    absent: dict[str, str]
    results: list[
        Annotated[
            Annotated[_FanOut, Tag("fan-out")]
            | Annotated[_Storm, Tag("storm")]
            | Annotated[_Standing, Tag("standing")]
            | Annotated[_Restart, Tag("restart")]
            | Annotated[_Soak, Tag("soak")]
            | Annotated[_Burst, Tag("burst")]
            | Annotated[_Feeding, Tag("feeding")]
            | Annotated[_Handover, Tag("handover")]
            | Annotated[_Result, Tag("other")],
            Discriminator(_kind),
        ]
    ]
    goals: list[_Goal]


_DOCUMENT = TypeAdapter(_Document)
