"""The supervisor of ``wsd serve``: it opens the listening sockets, starts the workers, and takes the signals.

=============  ==========================================================================
``launch``     starts a worker: a new interpreter, with a pipe to it
``main``       the life of the supervisor, from the first worker's settings to the end
``team``       the workers, each in its place: who is started, replaced, sent away
``child``      one worker: a process and the pipe to it
``autopsy``    the end of a worker whose event loop stands still
``reloading``  new settings and new code, worker after worker
``steps``      the steps of that, for tests
``state``      what survives when the supervisor executes itself
``moving``     clients go from one worker to another
``balance``    evens the load out
``signs``      what systemd is told meanwhile
``listening``  the listening sockets, and which worker gets which
``chosen``     the settings in force
``pages``      what the admin port shows of the team
=============  ==========================================================================

No client's byte passes through it, and it imports little, so that it stays small and has hardly a bug to die of.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from wsd.supervisor.launch import VARIABLE, Launcher, own_program
from wsd.systemd import listen_sockets

__all__ = ["run"]


def run(arguments: Sequence[str], program: Sequence[str] = ()) -> int:
    """Serve until a signal comes, then drain; return the exit status.

    Args:
        arguments: the command line behind ``serve``. Only workers read it.
        program: the command line up to ``serve``; without it, that of this process.

    Raises:
        StartupError: if it can't start on this machine.
    """
    # asyncio can do without TLS, which the supervisor does not speak: 3 to 4 MiB less. Who has imported it keeps it.
    sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]
    launcher = Launcher(tuple(program) or own_program(), tuple(arguments))
    if state := os.environ.pop(VARIABLE, ""):
        status: int = import_module("wsd.supervisor.main").resume(launcher, int(state))
        return status
    passed = listen_sockets()  # before anything is started that could take them for its own
    # The first worker reads the settings. It is started before the rest is imported, which goes on beside it.
    first = launcher.launch()
    status = import_module("wsd.supervisor.main").run(launcher, first, passed)
    return status
