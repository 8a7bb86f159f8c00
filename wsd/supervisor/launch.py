"""Starts a worker: a new interpreter, with a pipe to it.

Not by fork(2), which would copy a running event loop and, with it, whatever another thread has locked. A new
interpreter also takes the code that is installed now, which is what an upgrade needs.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["VARIABLE", "Launched", "Launcher", "own_program"]

VARIABLE = "_WSD_STATE"
"""Names the descriptor of what a supervisor leaves to the one that comes in its place; see wsd.supervisor.state."""

BLOCKED = (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that would end a new worker before it has said that they mean nothing to it."""

OURS = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
"""Variables of systemd that are for the supervisor alone."""


class Launched(NamedTuple):
    """A worker that was started."""

    pid: int
    sock: socket.socket  # our end of the pipe


def own_program() -> tuple[str, ...]:
    """The command line of this process up to its arguments, with the interpreter's options."""
    return sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]


@dataclass(frozen=True)
class Launcher:
    """Knows the command line of workers.

    Args:
        program: the command line up to ``serve``, with the interpreter and its options.
        arguments: what stands behind ``serve``.
    """

    program: tuple[str, ...]
    arguments: tuple[str, ...]

    def itself(self, environment: Mapping[str, str]) -> tuple[str, list[str], dict[str, str]]:
        """What execve(2) takes to execute this program anew.

        Args:
            environment: variables to add.
        """
        return self.program[0], [*self.program, "serve", *self.arguments], {**os.environ, **environment}

    def launch(self) -> Launched:
        """Start a worker.

        Raises:
            OSError: if there is no room for another process.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            theirs.set_inheritable(True)
            command = [*self.program, "worker", f"fd={theirs.fileno()}", *self.arguments]
            environment = {name: value for name, value in os.environ.items() if name not in OURS}
            try:
                pid = os.posix_spawn(command[0], command, environment, setsigmask=BLOCKED)
            except OSError:
                ours.close()
                raise
        return Launched(pid, ours)
