"""Messages and descriptors between processes, over real sockets."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvloop

from tests.lib.waiting import eventually
from wsd.pipe import MAX_DESCRIPTORS, PACKET, Message, Pipe, pair


class End:
    """One end, and what came out of it."""

    def __init__(self, sock: socket.socket) -> None:
        self.messages: list[Message] = []
        self.descriptors: list[list[int]] = []
        self.closed = 0
        self.pipe = Pipe(sock, self._take, self._close)

    def _take(self, message: Message, descriptors: list[int]) -> None:
        self.messages.append(message)
        self.descriptors.append(descriptors)

    def _close(self) -> None:
        self.closed += 1


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], None]:
    """The supervisor has the loop of the standard library, a worker has uvloop."""

    def run(coroutine: Any) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(coroutine)

    return run


def ends() -> tuple[End, End]:
    left, right = pair()
    return End(left), End(right)


def test_messages_come_whole_and_in_order(run: Callable[[Any], None]) -> None:
    async def check() -> None:
        left, right = ends()
        sent: list[Message] = [{"n": n, "text": "ä" * (n * 700)} for n in range(300)]  # the last ones are long
        for message in sent:
            left.pipe.send(message)
        right.pipe.send({"back": None})
        await eventually(lambda: len(right.messages) == 300 and left.messages == [{"back": None}])
        assert right.messages == sent
        assert all(not descriptors for descriptors in right.descriptors)
        assert left.pipe.waiting == 0
        left.pipe.close()
        await eventually(lambda: right.closed)
        assert (left.closed, right.closed) == (0, 1)
        right.pipe.send({"to": "nobody"})

    run(check())


def test_descriptors_travel(run: Callable[[Any], None]) -> None:
    async def check() -> None:
        left, right = ends()
        reading, writing = os.pipe()
        left.pipe.send({"short": 1}, [writing], lambda: os.close(writing))
        left.pipe.send({"long": "x" * 3 * PACKET}, [reading] * MAX_DESCRIPTORS, lambda: os.close(reading))
        await eventually(lambda: len(right.messages) == 2)
        ((passed,), many) = right.descriptors
        assert not os.get_inheritable(passed)
        assert len(many) == MAX_DESCRIPTORS
        assert len(right.messages[1]["long"]) == 3 * PACKET
        os.write(passed, b"hello")
        assert os.read(many[100], 9) == b"hello"
        for descriptor in [passed, *many]:
            os.close(descriptor)
        left.pipe.close()
        right.pipe.close()

    run(check())


def test_what_the_other_side_does_not_read_waits(run: Callable[[Any], None]) -> None:
    async def check() -> None:
        left, right = ends()
        right_socket = right.pipe.detach()
        for n in range(5000):
            left.pipe.send({"n": n, "text": "x" * 1000})
        assert left.pipe.waiting > 4000
        right = End(right_socket)  # another goes on where the first has stopped
        await left.pipe.flush()
        await eventually(lambda: len(right.messages) == 5000)
        assert [message["n"] for message in right.messages] == list(range(5000))
        right.pipe.close()
        await eventually(lambda: left.closed)

    run(check())


def test_one_who_dies_while_messages_wait(run: Callable[[Any], None]) -> None:
    async def check() -> None:
        left, right = ends()
        socket_of_the_dead = right.pipe.detach()
        for _ in range(500):
            left.pipe.send({"text": "x" * 10_000})
        assert left.pipe.waiting
        socket_of_the_dead.close()
        await left.pipe.flush()
        assert left.pipe.waiting == 0
        await eventually(lambda: left.closed)
        assert (left.closed, left.pipe.open) == (1, False)

    run(check())


@pytest.mark.parametrize("sending", [False, True])
def test_what_one_has_said_before_he_died_is_heard(run: Callable[[Any], None], *, sending: bool) -> None:
    """Although he left messages unread, and although this side has something more to say to him."""

    async def check() -> None:
        left, right = ends()
        socket_of_the_dead = right.pipe.detach()
        left.pipe.send({"n": "unread"})
        for n in range(100):
            socket_of_the_dead.send(b'{"n":%d}' % n)
        socket_of_the_dead.close()
        sent: list[Message] = []
        if sending:
            left.pipe.send({"n": "too late"}, on_sent=lambda: sent.append({}))
        await eventually(lambda: left.closed)
        assert [message["n"] for message in left.messages] == list(range(100))
        assert left.closed == 1
        assert not sent

    run(check())


@pytest.mark.parametrize("end", ["sent", "the other side has died", "closed", "closed before"])
def test_descriptors_that_are_given_away_are_closed(run: Callable[[Any], None], end: str) -> None:
    """Also if nobody gets them: a socket of which one descriptor stays open stays open for its peer."""

    async def check() -> None:
        left, right = ends()
        ours, theirs = socket.socketpair()
        theirs.settimeout(10)
        given = ours.detach()
        if end == "the other side has died":
            right.pipe.detach().close()
        elif end == "closed":
            while not left.pipe.waiting:
                left.pipe.send({"fill": "x" * 1000})
        elif end == "closed before":
            left.pipe.close()
        left.pipe.send({"take": "this"}, [given], gives=True)
        if end == "closed":
            left.pipe.close()
        if end == "sent":
            await eventually(lambda: right.messages)
            os.close(right.descriptors[0][0])
        assert theirs.recv(1) == b"", "nobody has it any more"
        theirs.close()
        left.pipe.close()
        right.pipe.close()

    run(check())


@contextmanager
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = os.dup(0)
    os.close(highest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_side_that_is_out_of_descriptors_hears_the_message_without_them(run: Callable[[Any], None]) -> None:
    async def check() -> None:
        left, right = ends()
        with few_descriptors():
            left.pipe.send({"n": 1}, [0] * 20)
            left.pipe.send({"n": 2})
            await eventually(lambda: len(right.messages) == 2)
        assert right.descriptors == [[], []]
        left.pipe.close()
        right.pipe.close()

    run(check())


def test_a_kernel_without_room_for_descriptors_is_asked_again(
    run: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        left, right = ends()
        refused = 3

        class Full(socket.socket):
            def sendmsg(self, *args: Any) -> int:
                nonlocal refused
                refused -= 1
                if refused >= 0:
                    raise OSError(errno.ETOOMANYREFS, "")
                return super().sendmsg(*args)

        left.pipe._sock = Full(fileno=left.pipe._sock.detach())
        left.pipe.send({"n": 1}, [0])
        left.pipe.send({"n": 2})
        await eventually(lambda: len(right.messages) == 2)
        assert [message["n"] for message in right.messages] == [1, 2]
        os.close(right.descriptors[0][0])
        left.pipe.close()
        right.pipe.close()

    run(check())


def test_one_who_hangs_up_hears_what_was_said_before(run: Callable[[Any], None]) -> None:
    async def check() -> None:
        left, right = ends()
        left.pipe.send({"n": "last"})
        for n in range(100):
            right.pipe.send({"n": n})
        await left.pipe.hang_up()
        assert [message["n"] for message in left.messages] == list(range(100))
        assert left.closed == 1
        sent: list[int] = []
        right.pipe.send({"n": 100}, on_sent=lambda: sent.append(100))
        await eventually(lambda: right.closed)
        assert right.messages == [{"n": "last"}]
        assert not sent, "nobody has heard it"

    run(check())
