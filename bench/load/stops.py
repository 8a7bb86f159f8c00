"""Finds out how long the loop of a server stands still: asks it a small thing again and again.

Start it as ``python -m bench.load.stops``; :class:`bench.load.control.Stops` does. It reads one JSON object
(``{"port": …}``), says ``{"ready": true}``, asks from then on until the next line comes, and tells the longest
answer.

What is asked is a plain GET, which every WebSocket server answers or refuses without help from others. The kernel
accepts the connection, so the whole time until the first byte is the server's. It shares its core with the load: where
it may, it is a real-time process (sched(7)), so that what it measures is not the load's turn.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from contextlib import suppress

__all__: list[str] = []

PAUSE = 0.002
"""Seconds between two questions. One costs a server 0.1 to 0.3 ms."""

PATIENCE = 60.0
"""Seconds for an answer."""

_STDIN = 0


def ask(port: int) -> float:
    """Ask once; return the seconds until something came back, if only the end."""
    begin = time.perf_counter()
    with suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
        connection.recv(65536)
    return time.perf_counter() - begin


def main() -> int:
    """Ask until told to stop."""
    order = json.loads(sys.stdin.readline())
    real_time = False
    with suppress(OSError):  # not root
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        real_time = True
    ask(order["port"])
    print(json.dumps({"ready": True}), flush=True)
    answers = []
    while not select.select([_STDIN], [], [], PAUSE)[0]:
        answers.append(ask(order["port"]))
    longest = max(answers, default=0.0)
    told = {"longest": longest, "asked": len(answers), "real_time": real_time, "cpu": time.process_time()}
    print(json.dumps(told), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
