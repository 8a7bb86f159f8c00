"""The Redis-compatible server of ``wsd dev``: fakeredis in a process of its own.

A process of its own, because fakeredis serves each connection from a thread that polls, and the daemon's loop should
not share an interpreter with those. The process ends when its standard input ends, which happens however the parent
ends. PR_SET_PDEATHSIG would do the same on Linux only, and would be tied to the thread that forked.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from importlib.util import find_spec
from types import TracebackType
from typing import Self

from wsd.errors import StartupError

__all__ = ["PORT", "EmbeddedRedis"]

PORT = 6379  # Redis's own; what redis-cli and the settings expect

PATIENCE = 5.0  # seconds for the process to end; it does nothing before it ends


class EmbeddedRedis:
    """Context manager: the server runs from ``with`` until the end of its block, at most as long as this process.

    Raises:
        StartupError: from ``with``, if it can't run.
    """

    def __init__(self) -> None:
        self.port = 0  # where it listens

    def __enter__(self) -> Self:
        if find_spec("fakeredis") is None:
            raise StartupError(
                "the Redis of `wsd dev` (fakeredis) is not installed: `make run` in the checkout of wsd brings it, as"
                " does `pip install '.[dev]'` there; or name a Redis that runs with --redis-url redis://HOST:PORT"
                " or WSD_REDIS_URL"
            )
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # A group of its own, so that the terminal's Ctrl-C doesn't end it: it must outlive the drain.
            process_group=0,
        )
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().strip()
        if not answer.isdecimal():
            self._stop()
            raise StartupError(f"the Redis of `wsd dev` did not start: {answer or 'it ended at once'}")
        self.port = int(answer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve() -> None:
    """Serve, say on standard output where, and end with standard input. The program of the process."""
    try:
        from fakeredis import TcpFakeServer  # here, because the parent can do without it

        try:
            server = TcpFakeServer(("127.0.0.1", PORT))
        except OSError:
            server = TcpFakeServer(("127.0.0.1", 0))
    except Exception as exc:
        print(f"{type(exc).__name__}: {exc}", flush=True)
        return
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()
    # Its threads aren't daemons; they would wait for clients that stay.
    os._exit(0)


if __name__ == "__main__":
    serve()
