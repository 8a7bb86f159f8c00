"""How a command says something: results on standard output, everything else on standard error."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from wsd import logs
from wsd.errors import CommandError

__all__ = ["close_stdout", "printable", "say", "write"]


def write(line: bytes | str) -> None:
    """Write a line to standard output, at once.

    Raises:
        BrokenPipeError: if nobody reads it any more.
        CommandError: if it can't be written for another reason.
    """
    try:
        sys.stdout.buffer.write((line if isinstance(line, bytes) else line.encode()) + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as exc:
        close_stdout()
        raise CommandError(f"can't write to standard output: {exc.strerror}") from None


def say(line: str) -> None:
    """Print a line on standard error: in the log where there is one, because a daemon must not wait for its reader."""
    if logs.say(printable(line)):
        return
    with suppress(OSError):  # nobody reads it any more
        print(f"wsd: {printable(line)}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Escape what a terminal would take for a command, or for the end of the line."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def close_stdout() -> None:
    """Make what is still buffered go nowhere: whoever read standard output has left (``| head``)."""
    # At its exit Python flushes, and would complain. https://docs.python.org/3/library/signal.html#note-on-sigpipe
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
