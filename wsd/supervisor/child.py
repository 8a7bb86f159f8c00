"""One worker, as the supervisor has it: a process, and the pipe to it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import IntEnum
from itertools import count
from typing import Any

from wsd.pipe import Message, Pipe
from wsd.report import Report
from wsd.supervisor.launch import Launched

__all__ = ["Child", "Gone", "Stage", "how_it_ended"]


class Stage(IntEnum):
    """How far the life of a worker has come; it only goes on."""

    LAUNCHED = 0
    """It imports, reads settings, and waits to be told to start."""

    STARTED = 1
    """It was told to start."""

    READY = 2
    """It accepts clients, and has heard of Redis or waited long enough."""

    LEAVING = 3
    """It was told to accept nobody any more, to drain, or to end."""

    GONE = 4
    """There is no process any more."""


class Gone(Exception):
    """A worker has ended before it has answered."""


class Child:
    """A worker.

    Args:
        launched: the process.
        on_message: called with each message that is no answer, and its descriptors.
        on_gone: called when the process has ended and everything that it had said was heard.
    """

    def __init__(
        self,
        launched: Launched,
        on_message: Callable[[Child, Message, list[int]], object],
        on_gone: Callable[[Child], object],
    ) -> None:
        self.pid = launched.pid
        self.number = -1  # its place in the team; -1 until it has one
        self.place = -1  # its place in the headcount; -1 until it has one
        self.stage = Stage.LAUNCHED
        self.status: int | None = None  # how it has ended, as subprocess has it: negative for a signal
        self.stuck = False  # whether it is ended because its event loop stands still
        self.version = ""  # of wsd, as it says
        self.heard = asyncio.get_running_loop().time()  # when it was last heard of
        self.ready_at = 0.0  # when it has said that it is ready
        self.report: Report | None = None  # the last one
        self.settings: asyncio.Future[Message] = asyncio.get_running_loop().create_future()  # what it has read
        self.ready: asyncio.Future[Message] = asyncio.get_running_loop().create_future()  # what it says when it serves
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # done when it is gone
        self.kept_stacks: tuple[int, int] | None = None  # the signal that makes it write its stacks, and where to
        self._on_message = on_message
        self._on_gone = on_gone
        self._answers: dict[int, asyncio.Future[Message]] = {}  # that are waited for, by the number of the question
        self._numbers = count(1)
        self._descriptor = launched.sock.fileno()
        self._pipe = Pipe(launched.sock, self._heard, self._closed)
        self._closed_now = False  # whether the pipe has ended

    @property
    def clients(self) -> int:
        """How many clients it has, as it has told last."""
        return 0 if self.report is None else int(self.report.gauges.get("open_connections") or 0)

    @property
    def descriptor(self) -> int:
        """Of the pipe; not its own any more when it is :attr:`dying`."""
        return self._descriptor

    @property
    def dying(self) -> bool:
        """Whether the pipe has ended or the process has, and not both, as far as anybody has looked."""
        return self.stage is not Stage.GONE and (self._closed_now or self.status is not None)

    # Talking.

    def tell(self, do: str, descriptors: Sequence[int] = (), **values: Any) -> None:
        """Send a message. The descriptors must stay open until the worker is gone or has answered."""
        self._pipe.send({"do": do, **values}, descriptors)

    async def ask(self, do: str, passed: socket.socket | None = None, **values: Any) -> Message:
        """Send a message; wait for the answer.

        Args:
            do: what.
            passed: is passed on with the message, and closed here when that is done, or can't be.
            values: of the message.

        Raises:
            Gone: if the worker ends before.
        """
        if self.stage is Stage.GONE:
            assert self.status is not None
            if passed is not None:
                passed.close()
            raise Gone(how_it_ended(self.status))
        number = next(self._numbers)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            message = {"do": do, "id": number, **values}
            if passed is None:
                self._pipe.send(message)
            else:
                self._pipe.send(message, [passed.detach()], gives=True)
            return await answer
        finally:
            del self._answers[number]

    async def flush(self) -> None:
        """Wait until everything is sent."""
        await self._pipe.flush()

    def _heard(self, message: Message, descriptors: list[int]) -> None:
        self.heard = asyncio.get_running_loop().time()
        match message.get("say"):
            case "hello":
                self.version = message["version"]
                if descriptors:
                    self.kept_stacks = message["stacks"], descriptors.pop()
            case "settings" | "mistakes":
                if not self.settings.done():
                    self.settings.set_result(message)
            case "ready":
                if not self.ready.done():
                    self.ready.set_result(message)
        answer = self._answers.get(message.get("id") or 0)
        if answer is not None and not answer.done():
            answer.set_result(message)
        self._on_message(self, message, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)

    # The process.

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        if self.status is None:  # a process that nobody has waited for keeps its number
            with suppress(OSError):
                os.kill(self.pid, number)

    def reap(self) -> None:
        """See whether the process has ended; to be called after SIGCHLD."""
        if self.status is not None:
            return
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:  # somebody else has waited for it
            pid, status = self.pid, 0
        if pid:
            self.status = os.waitstatus_to_exitcode(status)
            self._look()

    def _closed(self) -> None:
        self._closed_now = True
        self._look()

    def _look(self) -> None:
        """It is gone when the process has ended and the pipe, too: what it had said last is in the pipe still."""
        if self.status is None or not self._closed_now:
            return
        self.stage = Stage.GONE
        if self.kept_stacks is not None:
            os.close(self.kept_stacks[1])
            self.kept_stacks = None  # the number may be another file's soon
        for answer in [*self._answers.values(), self.settings, self.ready]:
            if not answer.done():
                answer.set_exception(Gone(how_it_ended(self.status)))
                answer.exception()  # nobody may wait for it
        self.ended.set_result(None)
        self._on_gone(self)

    # Its stacks.

    def ask_for_stacks(self) -> None:
        """Let it write the stacks of its threads, if it can."""
        if self.kept_stacks is not None:
            self.kill(self.kept_stacks[0])

    def stacks(self, most: int) -> str:
        """The first bytes of what it has written; "" if it has written nothing."""
        return "" if self.kept_stacks is None else os.pread(self.kept_stacks[1], most, 0).decode(errors="replace")


def how_it_ended(status: int) -> str:
    """Say how a process has ended, for the log."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:  # a real-time signal
        name = f"signal {-status}"
    return f"was killed by {name}"
