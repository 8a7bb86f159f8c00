"""The commands that the papers tell to type work, with real parts."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import websocket

from bench.processes import Program, free_port, plain_environment, redis_executable
from tests import ROOT
from tests.house.papers import paper
from tests.lib.programs import Daemon, Lines
from tests.lib.servers import RedisServer
from tests.lib.waiting import PATIENCE


class Typed(Program):
    """A command that somebody has typed in a terminal.

    Args:
        line: the command.
        cwd: where.
        environment: its variables.
    """

    def __init__(self, line: str, cwd: Path, environment: dict[str, str]) -> None:
        command = ["bash", "-c", line if line.startswith("(") else f"exec {line}"]
        super().__init__(command, cwd=cwd, environment=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.said = Lines(self.stdout)  # what the terminal shows

    def finish(self) -> str:
        """Wait for its end, which must be a success; return what it said."""
        status = self.wait(PATIENCE)
        self.said.join()
        assert status == 0, self.said.text
        return self.said.text

    def kill(self) -> int:
        """See :meth:`Program.kill`."""
        status = super().kill()
        self.said.join()
        return status


Shell = Callable[[str], Typed]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """Starts commands in a directory of their own, with wsd on PATH."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "wsd").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m wsd "$@"\n')
    (binaries / "wsd").chmod(0o755)
    # A redis-server is found where the tests find theirs.
    redis_server = Path(redis_executable())
    (binaries / "redis-server").symlink_to(redis_server)
    if not shutil.which("redis-cli"):
        (binaries / "redis-cli").symlink_to(redis_server.with_name("redis-cli"))
    environment = plain_environment(PATH=f"{binaries}:{os.environ['PATH']}", PYTHONPATH=str(ROOT))
    with ExitStack() as started:
        yield lambda line: started.enter_context(Typed(line, tmp_path, environment))


def run(shell: Shell, command: str) -> str:
    return shell(command).finish()


def commands(path: str, heading: str) -> list[str]:
    """The commands below a heading of a paper."""
    return [line for block in paper(path).of(heading, "sh") for line in block.text.splitlines()]


@pytest.mark.usefixtures("usual_ports")
def test_the_testing_guide_step_by_step(shell: Shell) -> None:
    """With a real Redis, redis-cli, and a WebSocket client that shares no code with the server's library."""
    redis_port = free_port()
    client: websocket.WebSocket | None = None
    session = token = ""
    try:
        for block in paper("README.md").of("Testing guide"):
            if block.kind == "sh":
                for command in block.text.replace("6379", str(redis_port)).splitlines():
                    if command.startswith("redis-server"):
                        # In the foreground, so that the test can end it.
                        shell(command.replace("--daemonize yes", "")).said.wait_for("eady to accept connections")
                    elif command.startswith("openssl"):
                        run(shell, command)
                    elif command.startswith("wsd serve"):
                        more = f" --port 0 --admin-port 0 --auth-timeout 600 --redis-url redis://127.0.0.1:{redis_port}"
                        log = shell(command + more).said
                        log.wait_for("connected to Redis")
                        port = log.text.split("ws://127.0.0.1:", 1)[1].split(" ", 1)[0]
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


@pytest.mark.usefixtures("usual_ports")
def test_what_make_run_starts_prints_commands_that_work(shell: Shell) -> None:
    dev = shell("wsd dev --port 0 --admin-port 0")
    dev.said.wait_for("Ctrl-C")
    tail, publish, redis_cli = (line.strip() for line in dev.said.text.splitlines() if line.startswith("    "))
    make_run, make_test, *in_readme = commands("README.md", "Two commands")
    assert make_run.startswith("make run ") and make_test.startswith("make test ")
    for ours, theirs in zip(in_readme, (tail, publish), strict=True):
        assert ours.removeprefix(".venv/bin/wsd") in theirs
    listening = shell(f"{tail} --count 2")
    listening.said.wait_for("subscribed to chat")
    assert run(shell, publish) == "1 subscriber\n"
    assert run(shell, redis_cli) == "1\n"
    assert listening.finish().endswith('\n{"hello":"world"}\n{"hello":"world"}\n')


def test_the_key_for_containers_is_one_and_their_user_can_read_it(shell: Shell, tmp_path: Path) -> None:
    *making, starting = commands("systemd/README.md", "In containers")
    for command in making:
        run(shell, command)
    assert stat.S_IMODE((tmp_path / "jwt_key").stat().st_mode) == 0o644
    run(shell, "wsd check --jwt-key-file jwt_key")
    # What this starts is tested in tests/house/test_packaging.py, step by step.
    assert starting == "docker compose up --build"
    assert "file: ./jwt_key\n" in (ROOT / "compose.yaml").read_text()


def test_check_prints_what_is_in_force_and_tries_redis(shell: Shell, redis: RedisServer) -> None:
    run(shell, "openssl rand -hex 32 > key")
    (command,) = commands("systemd/README.md", "Settings")
    output = run(shell, f"{command} --redis-url {redis.url}")
    assert "jwt_key_file" in output


def test_the_first_three_questions(shell: Shell, redis: RedisServer, start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(WSD_REDIS_URL=redis.url, WSD_AUTH="none", WSD_PORT="0", WSD_ADMIN_PORT="0")
    daemon.wait_until_ready()
    healthz, readyz, metrics, clients = commands("systemd/README.md", "At three in the morning")
    answers = [run(shell, each.replace("3001", str(daemon.admin_port))) for each in (healthz, readyz, metrics)]
    assert answers[0] == "ok\n"
    assert answers[1].startswith("ready\n")
    assert "wsd_redis_link_up 1.0" in answers[2]
    listed = run(shell, clients.replace("redis-cli", f"redis-cli -p {redis.port}"))
    assert re.search(r"name=wsd:\S+:\d+ ", listed)  # of a worker


def test_the_output_buffer_can_be_raised(shell: Shell, own_redis: RedisServer) -> None:
    (command,) = commands("systemd/README.md", "Tuning")
    assert run(shell, command.replace("redis-cli", f"redis-cli -p {own_redis.port}")) == "OK\n"
    found = run(shell, f"redis-cli -p {own_redis.port} CONFIG GET client-output-buffer-limit")
    assert f"pubsub {128 << 20} {32 << 20} 60" in found


def test_the_commands_of_the_fault_suite(shell: Shell) -> None:
    everything, *parts = commands("tests/faults/README.md", "How it is measured")
    assert everything == "make faults"
    printed = subprocess.run(["make", "-n", "faults"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1].endswith("-m tests.faults ")
    listing, one = (part.replace(".venv/bin/python", sys.executable) for part in parts)
    names = run(shell, listing).splitlines()
    assert "SIGSTOP" in names
    assert re.search(r"^\| SIGSTOP +\| single +\|.*\| ok +\|$", run(shell, one), re.MULTILINE)


def test_the_commands_of_the_simulation(shell: Shell) -> None:
    for command in commands("tests/simulation/README.md", "How it is played"):
        made = subprocess.run(
            ["bash", "-c", command.replace("make ", "make -n ", 1)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()[-1]
        module, *arguments = made.partition("-m ")[2].split()
        assert module == "tests.simulation"
        if "--seed" in arguments:
            said = run(shell, f"{sys.executable} -m {module} {' '.join(arguments)}")
            assert "FAULT 0: " in said and said.splitlines()[-2].startswith("1 worlds: ")
        else:
            run(shell, f"{sys.executable} -m {module} {' '.join(arguments)} --count 1")


def test_the_commands_of_the_suite_of_reloads(shell: Shell) -> None:
    everything, *parts = commands("tests/handover/README.md", "How it is tried")
    assert everything == "make handover"
    printed = subprocess.run(["make", "-n", "handover"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1].endswith("-m tests.handover ")
    listing, one = (part.replace(".venv/bin/python", sys.executable) for part in parts)
    assert "reload, two workers" in run(shell, listing).splitlines()
    found = r"^\| reload with wrong settings +\| single +\| +2 \| +17 \|.*\| ok +\|$"
    assert re.search(found, run(shell, one), re.MULTILINE)
