"""``wsd`` whose processes count on a signal what they hold: ``python -m tests.faults.observed serve``."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys

from wsd.cli import main

TELL = signal.SIGRTMIN + 1
"""The signal. SIGRTMIN makes a worker write its stacks."""


def tell(number: int, frame: object) -> None:
    """Write one line beside the log."""
    gc.collect()
    sys.stderr.write(f"tasks={len(asyncio.all_tasks())} objects={len(gc.get_objects())}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    signal.signal(TELL, tell)
    sys.exit(main())
