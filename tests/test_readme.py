"""The README is true: its commands run, its clients work, its tables are complete."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import websocket
from aiohttp import web

from tests.faults.suite import names
from tests.servers import PATIENCE, RedisServer, eventually, free_port, serving
from tests.test_redis_source import ACL, CLUSTER_ACL, SENTINEL_ACL
from wsd.config import Settings, text
from wsd.metrics import Metrics, registry
from wsd.worker import Worker

ROOT = Path(__file__).parent.parent
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
    families = registry(Metrics(), lambda: dict.fromkeys(re.findall(r"\w+", " ".join(_GAUGES)), 0.0)).collect()
    rows: list[tuple[str, ...]] = [("metric", "type", "meaning"), ("---", "---", "---")]
    for family in families:
        if family.name.startswith("wsd_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            rows.append((f"`{name}`", family.type, family.documentation))
    assert table(rows) in README, table(rows)


_GAUGES = (
    "open_connections sessions_anonymous sessions_authenticated topics lagging_connections backlog_bytes",
    "redis_link_up redis_links redis_probe_age_seconds redis_probe_round_trip_seconds redis_channels_wanted",
    "redis_channels_confirmed tasks draining",
)


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
    port, redis_port = free_port(), free_port()
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
                        more = f" --port {port} --admin-port 0 --redis-url redis://127.0.0.1:{redis_port}"
                        wait_for(shell(command + more), "connected to Redis")
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
    dev = shell(f"wsd dev --port {free_port()} --admin-port 0")
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


# Clients.


def client_code(language: str, worker: Worker) -> str:
    (code,) = [block.text for block in blocks("For authors of clients") if block.kind == language]
    assert len([line for line in code.splitlines() if line.strip()]) <= 26
    assert "ws://localhost:3000" in code
    return code.replace("ws://localhost:3000", f"ws://127.0.0.1:{worker.port}")


async def test_the_python_client_receives_and_reconnects(redis: RedisServer) -> None:
    async with serving(redis, drain_seconds=0) as worker:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", client_code("python", worker)),
            env={**os.environ, "TOKEN": "any"},
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            for _ in range(2):
                await eventually(lambda: len(worker.topics) == 1)
                redis.publish("chat", '{"hello":"world"}')
                async with asyncio.timeout(PATIENCE):
                    while b'{"hello":"world"}' not in await process.stdout.readline():
                        pass
                for connection in worker.gateway.connections:
                    connection.abort()
                await eventually(lambda: len(worker.topics) == 0)
        finally:
            process.kill()
            await process.wait()


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
async def test_the_browser_client_receives_and_reconnects(redis: RedisServer, tmp_path: Path) -> None:
    told: list[object] = []

    async def page(request: web.Request) -> web.Response:
        code = client_code("js", worker).replace(
            "console.log", '(message) => fetch("/told", { method: "POST", body: JSON.stringify(message) })'
        )
        return web.Response(text=f"<!doctype html><script>{code}</script>", content_type="text/html")

    async def tell(request: web.Request) -> web.Response:
        told.append(await request.json())
        return web.Response()

    application = web.Application()
    application.add_routes([web.get("/", page), web.post("/told", tell)])
    runner = web.AppRunner(application)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    async with serving(redis) as worker:
        browser = await asyncio.create_subprocess_exec(
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={tmp_path}", f"http://127.0.0.1:{port}/"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            for _ in range(2):
                told.clear()
                await eventually(lambda: len(worker.topics) == 1, "the page's subscription", 45)
                redis.publish("chat", '{"hello":"world"}')
                await eventually(lambda: told)
                assert told == [{"action": "message", "topic": "chat", "snapshot": {"hello": "world"}}]
                for connection in worker.gateway.connections:
                    connection.abort()
                await eventually(lambda: len(worker.topics) == 0)
        finally:
            browser.kill()
            await browser.wait()
            await runner.cleanup()
