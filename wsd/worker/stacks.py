"""The stacks of a worker whose event loop stands still, for the supervisor."""

from __future__ import annotations

import faulthandler
import os
import signal

__all__ = ["SIGNAL", "write_stacks_on_signal"]

SIGNAL = signal.SIGRTMIN
"""Makes the worker write its stacks. Nobody else sends it: a terminal has other signals, and so have operators."""


def write_stacks_on_signal() -> int:
    """Let SIGNAL write the stacks of all threads into a file in memory; return a descriptor of it.

    The signal's handler is C, so it works whatever Python is doing. The handler keeps a descriptor of its own.
    """
    descriptor = os.memfd_create("stacks")
    faulthandler.register(SIGNAL, descriptor, all_threads=True)
    return os.dup(descriptor)
