"""The simulated loop and network behave as real ones do, as far as wsd can tell."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

import pytest

from tests.simulation.chance import gather
from tests.simulation.loop import Process, SimulatedLoop, Stuck
from tests.simulation.network import Network, Transport


class Peer(asyncio.Protocol):
    """Notes what comes."""

    def __init__(self) -> None:
        self.data = b""
        self.pieces = 0
        self.ended: list[str] = []
        self.paused = False
        self.transport: Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.pieces += 1

    def eof_received(self) -> bool:
        self.ended.append("eof")
        return False

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.append(type(exc).__name__ if exc else "closed")


class World:
    """A client and a server on two hosts."""

    def __init__(self) -> None:
        self.loop = SimulatedLoop()
        self.loop.complain = lambda process, context: pytest.fail(str(context))
        self.network = Network(self.loop, Random(1))
        self.server, self.client = Process("server"), Process("client")
        self.accepted: list[Peer] = []

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(main)

    async def connect(self) -> tuple[Peer, Peer]:
        listener = self.network.listen("server", 80)

        def accept() -> Peer:
            self.accepted.append(Peer())
            return self.accepted[-1]

        async def serve() -> None:
            await self.loop.create_server(accept, sock=listener)

        async def connect() -> None:
            _, protocol = await self.loop.create_connection(Peer, "server", 80)
            connected.set_result(protocol)

        connected: asyncio.Future[Peer] = self.loop.create_future()
        await self.loop.start(self.server, serve)
        self.loop.start(self.client, connect)
        peer = await connected
        await asyncio.sleep(0.1)
        return peer, self.accepted[-1]


@pytest.fixture
def world() -> World:
    return World()


# Time.


def test_the_clock_jumps(world: World) -> None:
    async def play() -> None:
        begun = world.loop.time()
        await asyncio.gather(*(asyncio.sleep(days * 86_400) for days in (1, 300, 2)))
        assert world.loop.time() - begun == pytest.approx(300 * 86_400)

    world.run(play())


def test_what_turns_round_for_ever_is_found(world: World) -> None:
    async def play() -> None:
        while True:  # noqa: ASYNC110 - that is the mistake
            await asyncio.sleep(0)

    with pytest.raises(Stuck, match="turns of the loop"):
        world.run(play())


def test_what_waits_for_ever_is_found(world: World) -> None:
    async def play() -> None:
        await world.loop.create_future()

    with pytest.raises(Stuck, match="nothing is scheduled"):
        world.run(play())


def test_a_process_that_stands_still_does_later_what_it_had_to_do_and_a_dead_one_never(world: World) -> None:
    done: list[tuple[str, float]] = []

    def process(name: str) -> Process:
        made = Process(name)

        async def main() -> None:
            try:
                await asyncio.sleep(1)
                done.append((name, round(world.loop.time())))
            finally:
                done.append((f"{name} cleans up", 0))

        world.loop.start(made, main)
        return made

    async def play() -> None:
        process("lives")
        frozen, dead = process("stands still"), process("dies")
        await asyncio.sleep(0.5)
        world.loop.freeze(frozen)
        world.loop.kill(dead)
        await asyncio.sleep(9.5)
        world.loop.thaw(frozen)
        await asyncio.sleep(1)

    world.run(play())
    assert done == [
        ("lives", 1),
        ("lives cleans up", 0),
        ("stands still", 10),
        ("stands still cleans up", 0),
    ]


# The network.


def test_bytes_come_in_order_in_pieces_and_the_end_behind_them(world: World) -> None:
    sent = bytes(range(256)) * 1000

    async def play() -> None:
        world.network.usual.chop = 0.5
        client, server = await world.connect()
        client.transport.write(sent)
        client.transport.write_eof()
        await asyncio.sleep(10)
        assert server.data == sent and server.pieces > 3
        assert server.ended == ["eof", "closed"] and client.ended == ["eof", "closed"]

    world.run(play())


def test_who_does_not_read_makes_the_other_wait(world: World) -> None:
    async def play() -> None:
        client, server = await world.connect()
        server.transport.pause_reading()
        client.transport.write(b"x" * 1_000_000)
        await asyncio.sleep(10)
        assert client.paused and client.transport.get_write_buffer_size() > 900_000
        server.transport.resume_reading()
        await asyncio.sleep(10)
        assert len(server.data) == 1_000_000
        assert client.transport.get_write_buffer_size() == 0

    world.run(play())


@pytest.mark.parametrize("both", [True, False])
def test_what_is_sent_into_a_cut_comes_when_it_is_mended(world: World, both: bool) -> None:
    async def play() -> None:
        client, server = await world.connect()
        world.network.cut("client", "server")
        if both:
            world.network.cut("server", "client")
        client.transport.write(b"to")
        server.transport.write(b"from")
        await asyncio.sleep(60)
        assert server.data == b"" and client.data == (b"" if both else b"from")
        for way in world.network.cuts:
            world.network.mend(*way)
        await asyncio.sleep(1)
        assert (server.data, client.data, client.ended, server.ended) == (b"to", b"from", [], [])

    world.run(play())


def test_a_cut_that_lasts_ends_the_connection_of_who_sends_into_it(world: World) -> None:
    async def play() -> None:
        client, server = await world.connect()
        world.network.cut("client", "server")
        client.transport.write(b"x")
        await asyncio.sleep(2000)
        assert client.ended == ["TimeoutError"]
        assert server.ended == [], "it has heard nothing"
        world.network.mend("client", "server")
        server.transport.write(b"x")
        await asyncio.sleep(1)
        assert server.ended == ["ConnectionResetError"], "there is nobody any more"

    world.run(play())


def test_a_process_that_dies_closes_its_connections(world: World) -> None:
    async def play() -> None:
        client, server = await world.connect()
        world.loop.kill(world.server)
        await asyncio.sleep(1)
        assert client.ended == ["eof", "closed"]
        assert server.ended == [], "the dead hear nothing"

    world.run(play())


def test_nobody_listens(world: World) -> None:
    async def play() -> None:
        with pytest.raises(ConnectionRefusedError):
            await world.network.connect(Peer, "server", 80)
        world.network.cut("world", "server")
        begun = world.loop.time()
        with pytest.raises(TimeoutError):
            await world.network.connect(Peer, "server", 80)
        assert world.loop.time() - begun > 60

    world.run(play())


@pytest.mark.parametrize("return_exceptions", [False, True])
async def test_what_is_done_is_gathered_without_a_turn_of_the_loop(return_exceptions: bool) -> None:
    loop = asyncio.get_running_loop()
    done, failed, cancelled, pending = (loop.create_future() for _ in range(4))
    done.set_result(ValueError("a result"))
    failed.set_exception(KeyError("x"))
    cancelled.cancel()
    for awaited in ((done, done), (done, failed), (done, cancelled, failed)):
        ours = gather(*awaited, return_exceptions=return_exceptions)
        assert ours.done()
        (mine, theirs) = await asyncio.gather(
            ours, asyncio.gather(*awaited, return_exceptions=return_exceptions), return_exceptions=True
        )
        assert repr(mine).replace("()", "('')") == repr(theirs).replace("()", "('')")
    assert not gather(done, pending).done()
