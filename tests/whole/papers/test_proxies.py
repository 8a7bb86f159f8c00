"""wsd works behind the proxies as the papers set them up."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import websocket

from bench.processes import Program, free_port
from tests.house.papers import paper
from tests.lib.programs import Daemon
from tests.lib.servers import RedisServer
from tests.lib.waiting import PATIENCE

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")


def configuration(kind: str, daemon: Daemon, port: int) -> str:
    """What the paper says, with the ports of this test."""
    (block,) = paper("systemd/README.md").of("Behind nginx or HAProxy", kind)
    ports = {"8080": port, "3000": daemon.port, "3001": daemon.admin_port}
    assert {"8080", "3000"} <= set(re.findall(r"\b\d{4}\b", block.text)) <= set(ports)
    return re.sub(r"\b\d{4}\b", lambda found: str(ports[found[0]]), block.text)


@contextmanager
def running(log: Path, *command: str) -> Iterator[Program]:
    """Run a proxy; what it says is shown if the test fails."""
    with log.open("w") as output, Program(command, stdout=output, stderr=subprocess.STDOUT) as proxy:
        try:
            yield proxy
        except BaseException as exc:
            exc.add_note(log.read_text())
            raise


def connected(port: int, proxy: Program) -> websocket.WebSocket:
    """Connect through the proxy, once it listens and has found the server. No event tells of either."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return websocket.create_connection(f"ws://127.0.0.1:{port}", timeout=PATIENCE)
        except (OSError, websocket.WebSocketException):
            if proxy.status is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def check(port: int, proxy: Program, redis: RedisServer) -> None:
    client = connected(port, proxy)
    try:
        client.recv()
        session = json.loads(client.recv())["session"]
        client.send(json.dumps({"action": "subscribe", "session": session, "context": "proxied"}))
        assert client.recv() == '{"action":"subscribe","message":"context subscribed"}'
        redis.publish("proxied", '{"through":"the proxy"}')
        assert client.recv() == '{"action":"message","topic":"proxied","snapshot":{"through":"the proxy"}}'
    finally:
        client.close()


@pytest.fixture
def daemon(redis: RedisServer, start_daemon: Callable[..., Daemon]) -> Daemon:
    daemon = start_daemon(WSD_REDIS_URL=redis.url, WSD_AUTH="none", WSD_PORT="0", WSD_ADMIN_PORT="0")
    daemon.wait_until_ready()
    return daemon


@pytest.mark.skipif(NGINX is None, reason="there is no nginx on this machine")
def test_nginx(daemon: Daemon, redis: RedisServer, tmp_path: Path) -> None:
    port = free_port()
    folders = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{name}_temp_path {tmp_path}/{name};\n" for name in folders)
    (tmp_path / "nginx.conf").write_text(
        f"daemon off;\npid {tmp_path}/pid;\nerror_log stderr;\nmaster_process off;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{configuration('nginx', daemon, port)}}}\n"
    )
    with running(tmp_path / "log", str(NGINX), "-p", str(tmp_path), "-c", f"{tmp_path}/nginx.conf") as proxy:
        check(port, proxy, redis)


@pytest.mark.skipif(HAPROXY is None, reason="there is no HAProxy on this machine")
def test_haproxy(daemon: Daemon, redis: RedisServer, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "haproxy.cfg").write_text(configuration("haproxy", daemon, port))
    with running(tmp_path / "log", str(HAPROXY), "-f", f"{tmp_path}/haproxy.cfg") as proxy:
        check(port, proxy, redis)
