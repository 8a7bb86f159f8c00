"""Encode and frame: a payload to the bytes on the wire."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterator
from functools import partial

from websockets.frames import Frame, Opcode

from bench.micro.work import Comparison, Work
from wsd.protocol.frames import text_frame
from wsd.protocol.messages import message_head
from wsd.protocol.payload import embed

__all__ = ["COMPARISONS", "PAYLOADS", "Encode", "Naive"]

TOPIC = "room.42"
SIZES = (100, 1024, 16384)  # bytes
MANY = 100
"""Connections in the reference that frames for each of them. wsd frames once, however many there are."""


def _json(size: int) -> bytes:
    """Small objects of strings and numbers, filled up with a string."""
    items: list[dict[str, object]] = []
    item = {"id": 4711, "name": "the item", "price": 17.25, "open": True}
    while len(json.dumps({"items": [*items, item], "fill": ""})) <= size:
        items.append(item)
    room = size - len(json.dumps({"items": items, "fill": ""}))
    return json.dumps({"items": items, "fill": "x" * room}).encode()


def _text(size: int) -> bytes:
    """Words with a letter beyond ASCII here and there."""
    line = "Der Zug fährt um zehn, and stops at every station. "
    return (line * size)[: size // 2].encode().ljust(size, b".")[:size]


def _binary(size: int) -> bytes:
    """Random bytes behind one that no UTF-8 begins with."""
    return b"\xff" + random.Random(0).randbytes(size - 1)


PAYLOADS: dict[str, Callable[[int], bytes]] = {"JSON": _json, "text": _text, "binary": _binary}


class Encode(Work):
    """wsd: embed() and text_frame()."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.head = message_head(TOPIC)
        self.frame = b""  # the last one

    def run(self) -> None:
        """Encode and frame."""
        self.frame = text_frame(embed(self.head, self.payload))


class Naive(Work):
    """The json module, and the library's frame for each connection."""

    def __init__(self, payload: bytes, connections: int) -> None:
        self.payload = payload
        self.connections = range(connections)
        self.frame = b""  # the last one

    def run(self) -> None:
        """Encode once, and frame for each connection."""
        message = json.dumps(_message(self.payload)).encode()
        for _ in self.connections:
            self.frame = Frame(Opcode.TEXT, message).serialize(mask=False)


def _message(payload: bytes) -> dict[str, object]:
    message: dict[str, object] = {"action": "message", "topic": TOPIC}
    try:
        return {**message, "snapshot": json.loads(payload)}
    except ValueError:  # JSONDecodeError and UnicodeDecodeError
        pass
    try:
        return {**message, "snapshot": payload.decode()}
    except UnicodeDecodeError:
        return {**message, "snapshot": base64.b64encode(payload).decode(), "encoding": "base64"}


def _comparisons() -> Iterator[Comparison]:
    for kind, make in PAYLOADS.items():
        for size in SIZES:
            payload = make(size)
            references: dict[str, Callable[[], Work]] = {"json + Frame": partial(Naive, payload, 1)}
            if kind == "JSON":
                references[f"json + {MANY} Frames"] = partial(Naive, payload, MANY)
            yield Comparison(
                f"encode {kind}, {size:,} bytes",
                "message",
                1,
                f"a {kind} payload of {size:,} bytes to the frame that goes to all connections",
                partial(Encode, payload),
                references,
            )


COMPARISONS = tuple(_comparisons())
