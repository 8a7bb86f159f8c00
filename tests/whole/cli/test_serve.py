"""``wsd serve``: how it starts, refuses to, and ends."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable

import pytest

from tests.lib.marks import needs_ipv6
from tests.lib.programs import Daemon, refused, refused_last, tailing, wsd
from tests.lib.servers import RedisServer
from tests.lib.waiting import PATIENCE

StartDaemon = Callable[..., Daemon]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_drains_and_exits_with_0(number: signal.Signals, redis: RedisServer, start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--port=0", "--admin-port=0", "--auth=none", "--redis-url", redis.url)
    with tailing("chat", "--url", daemon.url) as client:
        daemon.signal(number)
        assert daemon.wait() == 0
        client.err.wait_for("closed the connection with 1012")
    log = "".join(daemon.log)
    assert "draining" in log
    assert "Traceback" not in log


def test_serve_says_which_port_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        lines = refused_last(1, "serve", "--auth=none", "--port", port, "--admin-port=0")
        assert lines.startswith("wsd: can't listen on 127.0.0.1 port ") and port in lines
        done = wsd("serve", "--auth=none", "--port=0", "--admin-port", port)
        assert done.returncode == 1
        assert b"stopped" not in done.stderr  # it has not started
        (line,) = (line for line in done.stderr.decode().splitlines() if line.startswith("wsd: "))
        assert line == (
            f"wsd: can't listen on 127.0.0.1 port {port} (admin_host, admin_port): the port is taken"
            f" (`ss -ltnp 'sport = :{port}'` says by whom); choose another admin_port"
        )


def test_serve_says_which_host_is_wrong() -> None:
    for flag, host, words in (
        ("--host", "203.0.113.1", "no such address"),
        ("--admin-host", "127.0.0.1,no-such-host.invalid", "has no address"),
    ):
        line = refused_last(1, "serve", "--auth=none", "--port=0", "--admin-port=0", flag, host)
        assert line.startswith("wsd: can't listen on ") and words in line
        assert flag.removeprefix("--").replace("-", "_") in line
    for command in ("serve", "check"):
        (line,) = refused(2, command, "--auth=none", "--host", "127.0.0.1,a..b")
        assert line.startswith("host: ") and "'a..b'" in line


@needs_ipv6
def test_serve_on_several_addresses(start_daemon: StartDaemon) -> None:
    hosts = ["127.0.0.1", "127.0.0.2", "::1"]
    daemon = start_daemon(
        *("--auth=none", "--port=0", "--admin-port=0", "--drain-seconds=0"),
        *("--host", ",".join(hosts), "--admin-host", "::"),
    )
    for host in hosts:
        for port in (daemon.port, daemon.admin_port):
            socket.create_connection((host, port), PATIENCE).close()
    (line,) = (line for line in daemon.log if "listens on" in line)
    places = f"ws://127.0.0.1:{daemon.port} and ws://127.0.0.2:{daemon.port} and ws://[::1]:{daemon.port}"
    assert f"listens on {places} for clients and on http://[::]:{daemon.admin_port} for admin" in line
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0


def test_serve_says_what_is_dangerous(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--auth=none", "--host=0.0.0.0", "--port=0", "--admin-port=0")
    assert any("WARNING" in line and "auth=none on 0.0.0.0" in line for line in daemon.log)
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0


def test_serve_without_a_key_says_how_to_make_one() -> None:
    (line,) = refused(2, "serve")
    assert line.startswith("jwt_key: ") and "openssl rand" in line
