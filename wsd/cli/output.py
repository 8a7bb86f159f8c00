"""How a command says something: results on standard output, everything else on standard error."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import stat
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from wsd import logs
from wsd.errors import CommandError

__all__ = ["check_stdout", "close_stdout", "say", "while_read", "write"]


def check_stdout() -> None:
    """Check that standard output is open for writing, before a command does what nobody could be told of.

    Raises:
        CommandError: it is closed (``>&-``). What else may be wrong with it is seen when it is written to.
    """
    if fcntl.fcntl(1, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise _unwritable(OSError(errno.EBADF, ""))


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
        raise _unwritable(exc) from None


def _unwritable(exc: OSError) -> CommandError:
    close_stdout()
    reason = "it is closed, or open for reading only" if exc.errno == errno.EBADF else exc.strerror
    return CommandError(f"can't write to standard output: {reason}")


def say(line: str) -> None:
    """Print a line on standard error: in the log where there is one, because a daemon must not wait for its reader."""
    if logs.say(logs.printable(line)):
        return
    with suppress(OSError):  # nobody reads it any more
        print(f"wsd: {logs.printable(line)}", file=sys.stderr, flush=True)


async def while_read(work: Coroutine[Any, Any, None]) -> None:
    """Do some work for as long as somebody reads standard output.

    Raises:
        BrokenPipeError: when nobody reads it any more (``| head``), also if nothing is written that would find it out.
    """
    loop = asyncio.get_running_loop()
    closed = asyncio.Event()
    waits = [asyncio.ensure_future(work), asyncio.ensure_future(closed.wait())]
    descriptor = sys.stdout.fileno()
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        # The writing end of a pipe becomes readable when its reading end is closed; so does asyncio see it itself.
        loop.add_reader(descriptor, closed.set)
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if closed.is_set():
            raise BrokenPipeError
        waits[0].result()
    finally:
        loop.remove_reader(descriptor)
        for waiting in waits:
            waiting.cancel()
        await asyncio.wait(waits)


def close_stdout() -> None:
    """Throw away what is still buffered, because the reader of standard output has left (``| head``)."""
    # At its exit Python flushes the buffer, and would complain. https://docs.python.org/3/library/signal.html#note-on-sigpipe
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
