"""The clients of PROTOCOL.md work. They run as they stand there, but for the place of the server and what prints."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
from aiohttp import web
from websockets.asyncio.server import ServerConnection, serve

from bench.processes import free_port
from tests.house.papers import paper
from tests.lib.servers import RedisServer, serving
from tests.lib.waiting import PATIENCE, eventually
from wsd.codes import Close, Reaction

LONG = 5 * 1024 * 1024  # bytes of a payload beyond what client libraries take unless told otherwise


def client_code(language: str, url: str) -> str:
    (code,) = [block.text for block in paper("wsd/PROTOCOL.md").of("Two clients to start from", language)]
    assert len([line for line in code.splitlines() if line.strip()]) <= 26
    return replaced(code, ("ws://localhost:3000", url))


def replaced(code: str, *changes: tuple[str, str]) -> str:
    """Change a program; each thing that is to be replaced is in it once."""
    for old, new in changes:
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    return code


@asynccontextmanager
async def python_client(url: str, tell: Callable[[Any], None]) -> AsyncIterator[None]:
    """Run the Python client. It tells what it prints, how long it would wait, and why it stopped."""
    code = replaced(
        client_code("python", url),
        ("asyncio.sleep(", "sleep("),
        ("lambda: token", 'lambda: f"{token} {next(numbers)}"'),
    )
    prelude = """
import itertools
numbers = itertools.count(1)
async def sleep(seconds): print(json.dumps({"wait": seconds}), flush=True)
"""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", f"import json{prelude}{code}"),
        env={**os.environ, "TOKEN": "token"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2 * LONG,
    )
    assert process.stdout is not None and process.stderr is not None

    async def read(printed: asyncio.StreamReader, errors: asyncio.StreamReader) -> None:
        while line := await printed.readline():
            tell(json.loads(line))
        tell({"stopped": (await errors.read()).decode()})

    reading = asyncio.create_task(read(process.stdout, process.stderr))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await reading


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@asynccontextmanager
async def browser_client(url: str, tell: Callable[[Any], None]) -> AsyncIterator[None]:
    """Run the browser client in Chromium. It tells as the other does."""
    code = replaced(
        client_code("js", url),
        ("console.log", "tell"),
        ("console.error(", "stopped("),
        ("setTimeout(connect, ", "later(connect, "),
        ('"a token from your service"', "`token ${++number}`"),
    )
    prelude = """
let number = 0;
const tell = (told) => fetch("/told", { method: "POST", body: JSON.stringify(told) });
const stopped = (...words) => tell({ stopped: words.join(" ") });
const later = (call, wait, ...given) => { tell({ wait: wait / 1000 }); setTimeout(call, 0, ...given); };
"""

    async def page(request: web.Request) -> web.Response:
        return web.Response(text=f"<!doctype html><script>{prelude}{code}</script>", content_type="text/html")

    async def receive(request: web.Request) -> web.Response:
        tell(await request.json())
        return web.Response()

    application = web.Application(client_max_size=2 * LONG)
    application.add_routes([web.get("/", page), web.post("/told", receive)])
    runner = web.AppRunner(application)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = await asyncio.create_subprocess_exec(
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={profile}", f"http://127.0.0.1:{port}/"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            browser.kill()
            await browser.wait()
            await runner.cleanup()


STARTS = 45.0  # seconds that Chromium may take to start on a busy machine

clients = pytest.mark.parametrize(
    "run_client",
    [
        pytest.param(python_client, id="python"),
        pytest.param(
            browser_client,
            id="browser",
            marks=pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
        ),
    ],
)

RunClient = Callable[[str, Callable[[Any], None]], AbstractAsyncContextManager[None]]


@clients
async def test_the_clients_receive_and_reconnect(run_client: RunClient, redis: RedisServer) -> None:
    told: list[Any] = []
    hello = {"action": "message", "topic": "chat", "snapshot": {"hello": "world"}}

    def listening() -> bool:
        # Wanting the topic is not enough: what is published before Redis has confirmed it reaches nobody.
        return any(topic.heard for topic in worker.topics.channels.values())

    def connected_after(handshakes: int) -> bool:
        return worker.metrics.handshakes > handshakes

    async with serving(redis, drain_seconds=0) as worker, run_client(f"ws://127.0.0.1:{worker.port}", told.append):
        for _ in range(3):
            told.clear()
            await eventually(listening, "the subscription", STARTS)
            redis.publish("chat", '{"hello":"world"}')
            await eventually(lambda: hello in told, "the message")
            before = worker.metrics.handshakes
            for connection in list(worker.gateway.connections):
                connection.abort()
            # Not the moment without listeners, which a busy machine may not show.
            await eventually(partial(connected_after, before), "the next connection")


Treatment = Callable[[ServerConnection], Awaitable[None]]


def sending(*messages: str) -> Treatment:
    """Send messages, and leave it to the client to end the connection."""

    async def treat(connection: ServerConnection) -> None:
        for message in messages:
            await connection.send(message)
        await connection.wait_closed()

    return treat


def closing(code: int, reason: str = "") -> Treatment:
    """Close once the client is subscribed."""

    async def treat(connection: ServerConnection) -> None:
        await connection.send(SUBSCRIBED)
        await connection.close(code, reason)

    return treat


async def aborting(connection: ServerConnection) -> None:
    """End without a word, before the client is subscribed."""
    connection.transport.abort()


UNAUTHORIZED = '{"action":"session","message":"session unauthorized"}'
AUTHENTICATED = '{"action":"session","message":"session authenticated"}'
SUBSCRIBED = '{"action":"subscribe","message":"context subscribed"}'


class Scripted:
    """A server that speaks the protocol, and treats one connection after the other as told."""

    def __init__(self, *treatments: Treatment) -> None:
        self._treatments = list(treatments)
        self.tokens: list[str] = []  # that it was given

    async def __call__(self, connection: ServerConnection) -> None:
        await connection.send('{"action":"connect","message":"connection established"}')
        await connection.send('{"action":"session","message":"waiting for create session","session":"s"}')
        self.tokens.append(json.loads(await connection.recv())["context"])
        treat = self._treatments.pop(0)
        if treat is not refusing:
            await connection.send(AUTHENTICATED)
            assert json.loads(await connection.recv()) == {"action": "subscribe", "session": "s", "context": "chat"}
        await treat(connection)


refusing = sending(UNAUTHORIZED)


@clients
async def test_the_clients_back_off_and_know_the_close_codes(run_client: RunClient) -> None:
    long = "x" * LONG
    # 1013, 3456 and 4999 are others': a proxy's, for one.
    lost = [1000, 1001, 1013, 3456, 4999, *(close for close in Close if close.reaction is not Reaction.STOP)]
    server = Scripted(
        *(refusing, aborting, refusing, refusing),
        *map(closing, lost),
        *((closing(1002, "service restart: reconnect with jitter"),) if run_client is browser_client else ()),
        sending(SUBSCRIBED, f'{{"action":"message","topic":"chat","snapshot":"{long}"}}'),
        closing(1008, "because"),
    )
    told: list[Any] = []

    def waits() -> list[float]:
        return [message["wait"] for message in told if "wait" in message]

    async with serve(server, "127.0.0.1", 0, compression=None) as listener:
        port = listener.sockets[0].getsockname()[1]
        async with run_client(f"ws://127.0.0.1:{port}", told.append):
            await eventually(lambda: any("snapshot" in message for message in told), "the long payload", STARTS)
            (snapshot,) = [message["snapshot"] for message in told if "snapshot" in message]
            assert snapshot == long
            # A refused token, and a connection that did not get as far as being subscribed: longer and longer.
            for wait, bound in zip(waits(), (1, 2, 4, 8), strict=False):
                assert bound * 0.5 <= wait <= bound * 1.5
            # The first that was subscribed still waited after those; after it waits are short again.
            assert len(waits()) >= 4 + len(lost)
            assert all(0.5 <= wait <= 1.5 for wait in waits()[4:])
            connections = len(server.tokens)
            assert server.tokens == [f"token {number}" for number in range(1, connections + 1)]
            for connection in listener.connections:
                await connection.close(1012)
            await eventually(lambda: any("stopped" in message for message in told), "the end")
            (reason,) = [message["stopped"] for message in told if "stopped" in message]
            assert "1008" in reason and "because" in reason
            assert len(server.tokens) == connections + 1


def test_the_python_client_asks_for_a_token() -> None:
    environ = {name: value for name, value in os.environ.items() if name != "TOKEN"}
    command = [sys.executable, "-c", client_code("python", "ws://127.0.0.1:1")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "TOKEN is not set; `wsd token --jwt-key-file key` signs one\n"
