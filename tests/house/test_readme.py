"""The README is true: its commands run, its clients work, its tables are complete."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import websocket
from aiohttp import web
from websockets.asyncio.server import ServerConnection, serve

from tests import ROOT
from tests.faults.suite import names
from tests.lib.metrics import GAUGES
from tests.lib.servers import PATIENCE, RedisServer, eventually, free_port, serving
from tests.whole.redis.test_source import ACL, CLUSTER_ACL, SENTINEL_ACL
from wsd.admin.exposition import registry
from wsd.config import Settings, text
from wsd.metrics import Metrics

README = (ROOT / "README.md").read_text()


class Block(NamedTuple):
    """A fenced block of the README."""

    kind: str  # what stands behind the fence
    text: str


def blocks(heading: str) -> list[Block]:
    """The fenced blocks below a heading."""
    section = re.split(r"^## ", README.split(f"\n## {heading}\n", 1)[1], flags=re.MULTILINE)[0]
    return [Block(kind, body) for kind, body in re.findall(r"^```(.*)\n((?:.*\n)*?)```$", section, re.MULTILINE)]


def table(rows: list[tuple[str, ...]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


# Tables.


def test_the_table_of_settings_is_complete() -> None:
    rows: list[tuple[str, ...]] = [("setting", "default", "meaning"), ("---", "---", "---")]
    for name, field in Settings.model_fields.items():
        default = text(field.default)
        rows.append((f"`{name}`", f"`{default}`" if default else "", field.description or ""))
    assert table(rows) in README, table(rows)


def test_the_table_of_metrics_is_complete() -> None:
    families = registry(lambda: (Metrics(), GAUGES)).collect()
    rows: list[tuple[str, ...]] = [("metric", "type", "meaning"), ("---", "---", "---")]
    for family in families:
        if family.name.startswith("wsd_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            rows.append((f"`{name}`", family.type, family.documentation))
    assert table(rows) in README, table(rows)


def test_the_table_of_faults_is_complete_and_all_went_well() -> None:
    section = README.split("\n## When Redis fails\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("|")][2:]
    assert [row[0].strip() for row in rows] == names()
    assert "FAILED" not in section
    assert "skipped" not in section


def test_the_permissions_are_those_that_are_tested() -> None:
    section = README.split("\n### Which Redis\n", 1)[1].replace("\\|", "|")
    for words in (
        (*ACL, "resetchannels &PREFIX*"),
        CLUSTER_ACL,
        (*ACL, *SENTINEL_ACL, "resetchannels &+switch-master"),
    ):
        assert " ".join(words) in section


# Commands.


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts commands in a directory of their own, with wsd on PATH."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "wsd").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m wsd "$@"\n')
    (binaries / "wsd").chmod(0o755)
    # A redis-server is found where the tests find theirs.
    redis_server = Path(RedisServer.executable())
    (binaries / "redis-server").symlink_to(redis_server)
    if not shutil.which("redis-cli"):
        (binaries / "redis-cli").symlink_to(redis_server.with_name("redis-cli"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WSD_")}
    environment |= {"PATH": f"{binaries}:{environment['PATH']}", "PYTHONPATH": str(ROOT)}
    started: list[subprocess.Popen[str]] = []

    def start(command: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=tmp_path,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def run(shell: Callable[[str], subprocess.Popen[str]], command: str) -> str:
    process = shell(command)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, (command, output)
    return output


def wait_for(process: subprocess.Popen[str], words: str) -> str:
    """Read what a process prints until a line has the words; return all of it."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if words in line:
            return seen
    raise AssertionError(f"{words!r} did not appear in {seen!r}")


def test_the_testing_guide_step_by_step(shell: Callable[[str], subprocess.Popen[str]]) -> None:
    """With a real Redis, redis-cli, and a WebSocket client that shares no code with the server's library."""
    redis_port = free_port()
    client: websocket.WebSocket | None = None
    session = token = ""
    try:
        for block in blocks("Testing guide"):
            if block.kind == "sh":
                for command in block.text.replace("6379", str(redis_port)).splitlines():
                    if command.startswith("redis-server"):
                        # In the foreground, so that the test can end it.
                        wait_for(shell(command.replace("--daemonize yes", "")), "eady to accept connections")
                    elif command.startswith("openssl"):
                        run(shell, command)
                    elif command.startswith("wsd serve"):
                        more = f" --port 0 --admin-port 0 --redis-url redis://127.0.0.1:{redis_port}"
                        log = wait_for(shell(command + more), "connected to Redis")
                        port = log.split("ws://127.0.0.1:", 1)[1].split(" ", 1)[0]
                        client = websocket.create_connection(f"ws://localhost:{port}", timeout=PATIENCE)
                    elif command.startswith("wsd token"):
                        token = run(shell, command).strip()
                    else:
                        assert run(shell, command) == "1\n"
                continue
            assert client is not None
            for line in block.text.splitlines():
                if block.kind == "json send":
                    client.send(line.replace("YOUR_SESSION_ID", session).replace("YOUR_TOKEN", token))
                else:
                    assert block.kind == "json receive"
                    received = str(client.recv())
                    session = json.loads(received).get("session", session)
                    assert received.replace(session or "?", "YOUR_SESSION_ID") == line
        assert session
        assert token
    finally:
        if client is not None:
            client.close()


def test_the_two_commands_are_make_targets() -> None:
    (listing,) = [block.text for block in blocks("Two commands") if "make" in block.text]
    helped = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in re.findall(r"^make (\w+)", listing, re.MULTILINE):
        assert f"make {target} " in helped


def test_what_make_run_starts_prints_commands_that_work(shell: Callable[[str], subprocess.Popen[str]]) -> None:
    dev = shell("wsd dev --port 0 --admin-port 0")
    printed = wait_for(dev, "Ctrl-C")
    tail, publish, redis_cli = (line.strip() for line in printed.splitlines() if line.startswith("    "))
    _, in_readme = (block.text for block in blocks("Two commands"))
    for ours, theirs in zip(in_readme.splitlines(), (tail, publish), strict=True):
        assert ours.removeprefix(".venv/bin/wsd") in theirs
    listening = shell(f"{tail} --count 2")
    wait_for(listening, "subscribed to chat")
    assert run(shell, publish) == "1 subscriber\n"
    assert run(shell, redis_cli) == "1\n"
    output, _ = listening.communicate(timeout=PATIENCE)
    assert output == '{"hello":"world"}\n' * 2


# Clients. They run as they stand in the README, but for the place of the server and what prints.


LONG = 5 * 1024 * 1024  # bytes of a payload beyond what client libraries take unless told otherwise


def client_code(language: str, url: str) -> str:
    (code,) = [block.text for block in blocks("For authors of clients") if block.kind == language]
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
        return any(topic.listeners for topic in worker.topics.channels.values())

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
    lost = [1000, 1001, 1011, 1012, 1013, 3456, 4001, 4003, 4008, 4999]
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
