"""Getting in: which address of a name, and as which user. With certificates: test_tls.py."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest

from bench.processes import free_port
from tests.lib.addresses import parse_address
from tests.lib.servers import RedisServer
from tests.lib.waiting import eventually
from wsd.cli import main
from wsd.deployment import Address
from wsd.errors import LinkError
from wsd.redis.race import AllFailed, interleave, race
from wsd.redis.wire import CLASSIC, Wire, connect


def make_wire() -> Wire:
    return Wire(CLASSIC, lambda *args: None, lambda *args: None)


async def get_in(address: Address | str, patience: float = 5.0) -> Wire:
    wire, _ = await connect(parse_address(address) if isinstance(address, str) else address, make_wire, patience)
    return wire


async def test_a_server_that_never_answers_is_given_up() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(mute, "127.0.0.1") as server:
        address = parse_address(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(LinkError, match=r"no answer to HELLO within 0\.1 s"):
            await connect(address, make_wire, 0.1)


async def test_a_real_redis_says_what_it_is(redis: RedisServer) -> None:
    wire, server = await connect(parse_address(redis.url), make_wire, 5.0)
    assert server["role"] == "master"
    assert server["mode"] == "standalone"
    assert await wire.ask("ECHO", "x") == b"x"
    wire.fail("done")
    assert await wire.closed == "done"


# Users.


async def whoami(url: str) -> bytes:
    wire = await get_in(url)
    try:
        return bytes(await wire.ask("ACL", "WHOAMI"))
    finally:
        wire.fail("done")


async def test_a_user_without_a_password_is_that_user_or_nobody(own_redis: RedisServer) -> None:
    own_redis("ACL", "SETUSER", "open", "on", "nopass", "+@connection", "+acl|whoami")
    own_redis("ACL", "SETUSER", "shut", "on", ">s3cret", "+@connection", "+acl|whoami")
    at = f"127.0.0.1:{own_redis.port}"
    assert await whoami(f"redis://{at}") == b"default"
    for url in (f"redis://open@{at}", f"redis://open:@{at}", f"redis://{at}?username=open", f"redis://open:any@{at}"):
        assert await whoami(url) == b"open"
    assert await whoami(f"unix://open@{own_redis.socket}") == b"open"
    assert await whoami(f"redis://shut:s3cret@{at}") == b"shut"
    for url in (f"redis://shut@{at}", f"redis://shut:@{at}", f"redis://nobody@{at}", f"redis://{at}?username=shut"):
        with pytest.raises(LinkError, match="wants a password of the user that redis_url names; put it there, or give"):
            await whoami(url)
    with pytest.raises(LinkError, match="refuses the user or the password"):
        await whoami(f"redis://shut:wrong@{at}")


async def test_a_password_may_be_any_bytes(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own_redis("ACL", "SETUSER", "wsd", "on", b">p\xff\xfe%", "allchannels", "+@connection", "+publish", "+acl|whoami")
    at = f"127.0.0.1:{own_redis.port}"
    for url in (f"redis://wsd:p%ff%fe%25@{at}", f"redis://{at}?username=wsd&password=p%FF%FE%25"):
        assert await whoami(url) == b"wsd"
        monkeypatch.setenv("WSD_REDIS_URL", url)
        assert await asyncio.to_thread(main, ["publish", "topic", "x"]) == 0, capsys.readouterr().err
    with pytest.raises(LinkError, match="refuses the user or the password"):
        await whoami(f"redis://wsd:p%ef%bf%bd%ef%bf%bd%25@{at}")  # what replaces bytes that are no UTF-8


# Addresses.


def resolve_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Let every name have these addresses."""

    async def getaddrinfo(host: str, port: int, **more: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)


@asynccontextmanager
async def black_hole(host: str, port: int) -> AsyncIterator[None]:
    """An address at which nothing is ever answered: its backlog is full, so that the kernel drops who knocks."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((host, port), backlog=0))
        for _ in range(3):
            knocker = stack.enter_context(socket.socket())
            knocker.setblocking(False)
            knocker.connect_ex(listener.getsockname())
        yield


@asynccontextmanager
async def mute(host: str, port: int) -> AsyncIterator[None]:
    """A server that accepts and never answers, as one that is frozen does."""
    with socket.create_server((host, port)):
        yield


@pytest.mark.parametrize("trap", [black_hole, mute])
async def test_an_address_that_never_answers_does_not_keep_out_the_next(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, trap: Any
) -> None:
    async with trap("127.0.0.2", redis.port):
        resolve_to(monkeypatch, "127.0.0.2", "127.0.0.1")
        wire = await get_in(f"redis://redis.example:{redis.port}")
        assert await wire.ask("ECHO", "x") == b"x"
        wire.fail("done")
        resolve_to(monkeypatch, "127.0.0.2")
        with pytest.raises(LinkError, match=r"no (connection|answer to HELLO) within 0\.1 s"):
            await get_in(f"redis://redis.example:{redis.port}", 0.1)
    assert len(asyncio.all_tasks()) == 1, "nothing goes on"


async def test_many_dead_addresses_are_got_over(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with black_hole("127.0.0.2", redis.port), mute("127.0.0.3", redis.port), black_hole("127.0.0.4", redis.port):
        resolve_to(monkeypatch, "127.0.0.2", "127.0.0.3", "127.0.0.5", "127.0.0.4", "127.0.0.2", "127.0.0.1")
        wire = await get_in(f"redis://redis.example:{redis.port}")
        wire.fail("done")


async def test_the_link_s_patience_at_its_least_is_enough_for_a_second_address(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with black_hole("127.0.0.2", redis.port):
        resolve_to(monkeypatch, "127.0.0.2", "127.0.0.1")
        (await get_in(f"redis://redis.example:{redis.port}", 1.0)).fail("done")


async def test_of_several_addresses_that_refuse_each_is_named(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, "127.0.0.2", "127.0.0.1")
    with pytest.raises(LinkError) as caught:
        await get_in(f"redis://nobody:wrong@redis.example:{redis.port}")
    assert "127.0.0.2: [Errno 111]" in str(caught.value)
    assert "; 127.0.0.1: Redis refuses the user or the password" in str(caught.value)
    resolve_to(monkeypatch)
    with pytest.raises(LinkError, match="has no address"):
        await get_in("redis://redis.example")


async def test_a_name_that_the_codec_refuses_is_an_error_of_the_link(redis: RedisServer) -> None:
    for host in ("redis..svc", "a" * 64, "\x00", "\ud800"):
        with pytest.raises((LinkError, OSError), match=r"no way to connect|not known"):
            await get_in(Address(host, redis.port))
    with pytest.raises((LinkError, OSError)):
        await get_in(Address(path="\x00" * 3 + "x" * 200))
    with pytest.raises(OSError, match=r"(?i)name|resol|address"):
        await get_in(f"redis://no-such-host.invalid:{free_port()}")


# The race itself.


async def begun(runner: Runner) -> None:
    await eventually(lambda: runner.begun, "the beginning of the attempt")


class Runner:
    """An attempt that ends when the test wants."""

    def __init__(self, result: str | Exception | None = None) -> None:
        self.result: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.begun = self.cancelled = False
        if isinstance(result, Exception):
            self.result.set_exception(result)
        elif result is not None:
            self.result.set_result(result)

    async def __call__(self) -> str:
        self.begun = True
        try:
            return await self.result
        except asyncio.CancelledError:
            self.cancelled = True
            raise


def never(result: str) -> None:
    raise AssertionError(result)


async def run(attempts: list[Callable[[], Coroutine[Any, Any, str]]], delay: float = 60.0) -> str:
    return await race(attempts, delay, never)


async def test_the_next_is_begun_when_one_has_failed_and_the_rest_never() -> None:
    runners = [Runner(OSError("one")), Runner("two"), Runner("three")]
    assert await run([*runners]) == "two"
    assert [runner.begun for runner in runners] == [True, True, False]


async def test_the_first_may_still_win_and_the_others_are_cancelled() -> None:
    first, second = Runner(), Runner()
    racing = asyncio.create_task(run([first, second], 0.001))
    await begun(second)
    first.result.set_result("first")
    assert await racing == "first"
    assert second.cancelled


async def test_two_that_win_at_once_leave_one() -> None:
    first, second = Runner(), Runner()
    discarded: list[str] = []
    racing = asyncio.create_task(race([first, second], 0.001, discarded.append))
    await begun(second)
    first.result.set_result("first")
    second.result.set_result("second")
    assert await racing == "first"
    assert discarded == ["second"]


async def test_a_race_that_is_given_up_leaves_nothing() -> None:
    runners = [Runner(), Runner()]
    racing = asyncio.create_task(run([*runners], 0.001))
    await begun(runners[1])
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    assert all(runner.cancelled for runner in runners)


async def test_when_all_fail_all_reasons_are_told() -> None:
    with pytest.raises(AllFailed) as caught:
        await run([Runner(OSError("one")), Runner(LinkError("two"))])
    assert [str(reason) for reason in caught.value.reasons] == ["one", "two"]
    with pytest.raises(AllFailed):
        await run([])


def test_families_take_turns() -> None:
    six, four = socket.AF_INET6, socket.AF_INET
    assert interleave([(six, "a"), (six, "b"), (six, "c"), (four, "d"), (six, "a")]) == ["a", "d", "b", "c"]
    assert interleave([(four, "d"), (six, "a")]) == ["d", "a"]
    assert interleave([]) == []
