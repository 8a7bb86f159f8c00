"""What a line needs on systemd's journal: a priority in front, as sd-daemon(3) has it, and no time of its own."""

from __future__ import annotations

import logging
import os

__all__ = ["is_journal", "with_priority"]


def is_journal(descriptor: int) -> bool:
    """Whether what is written to a descriptor goes to the journal.

    ``$JOURNAL_STREAM`` names the device and the inode of the journal's socket (systemd.exec(5)). They are compared,
    because a child inherits the variable even when its standard error leads elsewhere.
    """
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def with_priority(text: str, level: int) -> str:
    """Put the priority in front of each line, because the journal takes each line of a traceback for an entry.

    Args:
        text: one line or more, without the end of the last.
        level: of the library :mod:`logging`. Its levels have their own numbers of syslog(3), 2 for CRITICAL to 7 for
            DEBUG; `journalctl -p warning` shows 4 and less.
    """
    number = next((number for least, number in _PRIORITIES if level >= least), 7)
    return "\n".join(f"<{number}>{line}" for line in text.split("\n"))


_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
