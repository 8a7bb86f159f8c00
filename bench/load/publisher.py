"""Publishes at a fixed rate, whatever the server does: an open loop.

Start it as ``python -m bench.load.publisher``; :class:`bench.load.control.Publisher` does. It reads one JSON object
(:class:`Order`), connects, says ``{"ready": true}``, publishes from the next line on until its time is over or a third
line comes, and tells what it did.

Every message carries the time at which it was *due*, not the one at which it was sent. A publisher that falls behind,
or a server that makes it wait, therefore shows up as latency instead of as fewer messages: no coordinated omission.
What is due is sent in one write, and replies are read but not waited for.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.load.histogram import Histogram
from bench.load.wire import pad, payload, topic_name

__all__ = ["ENCODERS", "Order"]

_STDIN = 0

LAST_REPLIES = 0.05
"""Seconds without a reply after which there are no more: by then everything that was published has been received."""

LONGEST_SLEEP = 0.05
"""Seconds between looks at the standard input."""

PACE = 250e-6
"""Seconds between two writes at least. Above 4,000 messages a second some therefore leave together, up to this much
after they were due; without a pace the publisher would keep a core busy with waiting."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to publish, and where."""

    kind: str  # redis, nats or nchan: see ENCODERS
    port: int
    rate: float  # messages per second
    topics: int  # they take turns
    size: int  # bytes of a payload
    seconds: float
    host: str = "127.0.0.1"


def redis_command(topic: int, data: bytes) -> bytes:
    """PUBLISH, in RESP2."""
    return b"*3\r\n$7\r\nPUBLISH\r\n$6\r\n%b\r\n$%d\r\n%b\r\n" % (topic_name(topic).encode(), len(data), data)


def nats_command(topic: int, data: bytes) -> bytes:
    """PUB, of the NATS client protocol."""
    return b"PUB %b %d\r\n%b\r\n" % (topic_name(topic).encode(), len(data), data)


def nchan_request(topic: int, data: bytes) -> bytes:
    """A POST to nchan's publisher location."""
    return b"POST /pub/%b HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n%b" % (
        topic_name(topic).encode(),
        len(data),
        data,
    )


ENCODERS: dict[str, Callable[[int, bytes], bytes]] = {
    "redis": redis_command,
    "nats": nats_command,
    "nchan": nchan_request,
}
"""By the kind of server: what publishes one message."""


def _connect(order: Order) -> socket.socket:
    connection = socket.create_connection((order.host, order.port), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if order.kind == "nats":
        connection.recv(65536)  # INFO
        connection.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\nPING\r\n')
        while b"PONG" not in connection.recv(65536):
            pass
    connection.settimeout(None)  # else Python would wait before each recv()
    return connection


def publish(order: Order, connection: socket.socket, stopped: Callable[[], bool]) -> dict[str, Any]:
    """Publish until the time is over or ``stopped()``.

    Returns:
        What was done: ``published`` messages, ``behind`` (a histogram of how late they were sent), ``cpu`` and
        ``seconds``.
    """
    encode, padding, topics = ENCODERS[order.kind], pad(order.size), order.topics
    behind = Histogram()
    cpu = time.process_time_ns()
    begin = time.monotonic_ns()
    interval = 1e9 / order.rate
    total = int(order.rate * order.seconds)
    number, looked = 0, begin
    while number < total:
        now = time.monotonic_ns()
        due = min(int((now - begin) / interval) + 1, total)
        if due > number:
            burst = []
            for each in range(number, due):
                at = begin + int(each * interval)
                burst.append(encode(each % topics, payload(each % topics, each // topics, at, padding)))
                behind.add((now - at) // 1000)
            _send(connection, b"".join(burst))
            number = due
        if now - looked > LONGEST_SLEEP * 1e9:
            looked = now
            if stopped():
                break
        pause = (begin + number * interval - time.monotonic_ns()) / 1e9
        time.sleep(min(max(pause, PACE), LONGEST_SLEEP))
    return {
        "published": number,
        "began": begin,
        "seconds": (time.monotonic_ns() - begin) / 1e9,
        "cpu": (time.process_time_ns() - cpu) / 1e9,
        "behind": behind.dump(),
    }


def _send(connection: socket.socket, data: bytes) -> None:
    """Send it all, and read what came, so that neither side waits for the other."""
    view = memoryview(data)
    while view:
        try:
            view = view[connection.send(view, socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            select.select([connection], [connection], [])
            _discard_replies(connection)
    _discard_replies(connection)


def _discard_replies(connection: socket.socket) -> None:
    try:
        while len(data := connection.recv(65536, socket.MSG_DONTWAIT)) == 65536:
            pass
    except BlockingIOError:
        return
    if not data:
        raise ConnectionError("the server closed the publisher's connection")


def _pressed() -> bool:
    return bool(select.select([_STDIN], [], [], 0)[0])


def _read_line() -> bytes:
    """The next line of the standard input. Read without a buffer, which would hide the line after it from select()."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(_STDIN, 1)):
        line += byte
    return line


def main() -> int:
    """Run the publisher."""
    order = Order(**json.loads(_read_line()))
    connection = _connect(order)
    print(json.dumps({"ready": True}), flush=True)
    if _read_line():
        print(json.dumps(publish(order, connection, _pressed)), flush=True)
        # The last replies tell that everything has arrived; nobody closes on unread bytes.
        connection.settimeout(LAST_REPLIES)
        try:
            while connection.recv(65536):
                pass
        except TimeoutError:
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
