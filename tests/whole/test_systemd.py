"""Tests of what systemd is told, of the sockets that it passes, and of the units."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.lib.waiting import PATIENCE
from wsd import systemd
from wsd.config import Settings
from wsd.errors import StartupError
from wsd.systemd import Listening, assign, notify, watchdog_interval

UNIT = ROOT / "systemd" / "wsd.service"


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.settimeout(PATIENCE)
        yield bound


# notify()


def test_a_state_is_one_datagram(receiver: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    assert notify("READY=1\nSTATUS=listening")
    assert receiver.recv(1024) == b"READY=1\nSTATUS=listening"


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_an_abstract_socket(receiver: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver.bind(f"\0{tmp_path}")
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{tmp_path}")
    assert notify("STOPPING=1")
    assert receiver.recv(1024) == b"STOPPING=1"


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234", "/nowhere/notify", "/" + "x" * 200])
def test_trouble_is_not_raised(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify("READY=1")


def test_a_reader_that_never_comes_is_not_waited_for(
    receiver: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setattr("wsd.systemd.PATIENCE", 0.01)
    # The kernel queues net.unix.max_dgram_qlen datagrams, 10 or 512, for it.
    assert not all(notify("STATUS=busy") for _ in range(100_000))


@pytest.fixture
def told(receiver: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    receiver.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    return lambda: receiver.recv(4096).decode()


def test_the_states_of_a_life(told: Callable[[], str]) -> None:
    states = {
        "READY=1\nSTATUS=2 workers": lambda: systemd.ready("2 workers"),
        "READY=1": systemd.ready,
        "STATUS=a b": lambda: systemd.status("a\nb"),
        "STOPPING=1\nSTATUS=\\ud800 X=1": lambda: systemd.stopping("\ud800\nX=1"),
        "EXTEND_TIMEOUT_USEC=1500000": lambda: systemd.extend_timeout(1.5),
        "WATCHDOG=1": systemd.watchdog,
    }
    for state, say in states.items():
        assert say()
        assert told() == state


def test_a_reload_has_the_time_of_its_beginning(told: Callable[[], str]) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert systemd.reloading("the settings are read")
    state, moment, status = told().split("\n")
    assert (state, status) == ("RELOADING=1", "STATUS=the settings are read")
    name, _, usec = moment.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(usec) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        ("30000000", None, 15.0),
        ("30000000", "ours", 15.0),
        ("30000000", "1", None),
        ("0", None, None),
        ("", None, None),
        ("-1", None, None),
        ("30s", None, None),
        ("\N{ARABIC-INDIC DIGIT THREE}", None, None),
        (None, None, None),
    ],
)
def test_a_sign_of_life_is_due_twice_in_the_time_that_the_unit_gives(
    usec: str | None, pid: str | None, interval: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", str(os.getpid()) if pid == "ours" else pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert watchdog_interval() == interval


# listen_sockets()

TAKE = """
import json, os, sys
from wsd.errors import StartupError
from wsd.systemd import listen_sockets

os.environ["LISTEN_PID"] = os.environ["LISTEN_PID"].replace("ours", str(os.getpid()))
try:
    taken = listen_sockets()
except StartupError as exc:
    sys.exit(str(exc))
print(json.dumps({
    "names": [name for name, _ in taken],
    "addresses": [sock.getsockname() for _, sock in taken],
    "kept": [sock.get_inheritable() or sock.getblocking() for _, sock in taken],
    "environment": [name for name in os.environ if name.startswith("LISTEN_")],
    "again": len(listen_sockets()),
}))
"""


def take(*passed: socket.socket | int, names: str | None = None, pid: str = "ours") -> Any:
    """Take sockets in a process of its own, to which they are passed as systemd would; its text on failure."""
    numbers = [one if isinstance(one, int) else one.fileno() for one in passed]
    # Two steps, because one would overwrite numbers that are still to be copied.
    safe = " ".join(f"{100 + place}<&{number}" for place, number in enumerate(numbers))
    last = " ".join(f"{3 + place}<&{100 + place} {100 + place}<&-" for place, _ in enumerate(numbers))
    environment = {"LISTEN_PID": pid, "LISTEN_FDS": str(len(numbers))}
    if names is not None:
        environment["LISTEN_FDNAMES"] = names
    done = subprocess.run(
        ["bash", "-c", f'exec {safe} && exec {last} && exec "$@"', "bash", sys.executable, "-c", TAKE],
        env=os.environ | environment,
        pass_fds=[number for number in numbers if number >= 0],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr


@pytest.fixture
def make() -> Iterator[Callable[..., socket.socket]]:
    with ExitStack() as stack:

        def make(
            family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, address: Any = None, *, listens: bool = True
        ) -> socket.socket:
            sock = stack.enter_context(socket.socket(family, kind))
            sock.bind(address or (("::1", 0) if family == socket.AF_INET6 else ("127.0.0.1", 0)))
            if listens and kind == socket.SOCK_STREAM:
                sock.listen()
            return sock

        yield make


def test_passed_sockets_are_taken_once_and_with_their_names(make: Callable[..., socket.socket]) -> None:
    first, second = make(), make(socket.AF_INET6)
    taken = take(first, second, names="clients:admin")
    assert taken["names"] == ["clients", "admin"]
    assert taken["addresses"] == [list(sock.getsockname()) for sock in (first, second)]
    assert taken["kept"] == [False, False]
    assert (taken["environment"], taken["again"]) == ([], 0)


@pytest.mark.parametrize("names", [None, "", "clients"])
def test_sockets_may_have_no_names(names: str | None, make: Callable[..., socket.socket]) -> None:
    taken = take(make(), make(), names=names)
    assert taken["names"] == [names or "", ""]


def test_what_was_passed_to_another_process_is_left_alone(make: Callable[..., socket.socket]) -> None:
    taken = take(make(), pid="1")
    assert (taken["names"], taken["environment"]) == ([], [])


def test_what_does_not_listen_on_tcp_is_refused_with_what_to_do(
    make: Callable[..., socket.socket], tmp_path: Path
) -> None:
    with (tmp_path / "file").open("w") as file:
        unfit: list[tuple[socket.socket | int, str]] = [
            (make(kind=socket.SOCK_DGRAM), "is not TCP"),
            (make(socket.AF_UNIX, address=str(tmp_path / "socket")), "is a Unix socket"),
            (make(listens=False), "does not listen"),
            (file.fileno(), "is no socket"),
        ]
        for passed, fault in unfit:
            said = take(make(), passed)
            assert said.startswith("descriptor 4, which systemd passed (LISTEN_FDS), ")
            assert fault in said
            assert "ListenStream=" in said


def test_a_number_of_sockets_that_is_not_true_is_refused() -> None:
    environment = os.environ | {"LISTEN_PID": "ours", "LISTEN_FDS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", TAKE], env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.stderr.startswith("descriptor 3, which systemd passed (LISTEN_FDS), is not open; ")


def test_sockets_are_told_apart_by_name_and_else_by_port(make: Callable[..., socket.socket]) -> None:
    first, second, third = make(), make(), make(socket.AF_INET6)
    port, admin_port = (sock.getsockname()[1] for sock in (first, second))
    named = [Listening("admin", first), Listening("clients", second), Listening("clients", third)]
    assert assign(named, port, admin_port) == ([second, third], [first])
    unnamed = [Listening("wsd.socket", second), Listening("", first)]
    assert assign(unnamed, port, admin_port) == ([first], [second])
    assert assign([], port, admin_port) == ([], [])
    with pytest.raises(StartupError, match=r"neither port \(1\) nor admin_port \(2\).* FileDescriptorName=clients or "):
        assign(unnamed, 1, 2)


# The unit


def directives(section: str) -> list[tuple[str, str]]:
    """Return the directives of a section, where one may stand more than once (not so for configparser)."""
    body = re.split(r"^\[(\w+)\]$", UNIT.read_text(), flags=re.MULTILINE)
    lines = dict(zip(body[1::2], body[2::2], strict=True))[section].splitlines()
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return [(name, value) for name, value in pairs]


def test_the_unit_fits_the_daemon() -> None:
    service = dict(directives("Service"))
    assert service["Type"] == "notify"
    assert re.fullmatch(r"/\S+/wsd serve", service["ExecStart"])
    # Exit status 2 means wrong settings: starting again can't help.
    assert service["RestartPreventExitStatus"] == "2"
    drain = Settings.model_fields["drain_seconds"].default
    assert int(service["TimeoutStopSec"]) > drain
    assert int(service["WatchdogSec"]) > 2 * 10
    # A reload reads files anew, and no environment and no credential.
    assert not {"LoadCredential", "EnvironmentFile"} & service.keys()
    variables = [value.partition("=")[0] for name, value in directives("Service") if name == "Environment"]
    assert variables == ["WSD_CONFIG"]


def test_the_sockets_have_the_names_that_wsd_knows(make: Callable[..., socket.socket]) -> None:
    clients, admin = ((ROOT / "systemd" / f"{name}.socket").read_text() for name in ("wsd", "wsd-admin"))
    for unit, name, setting in ((clients, "clients", "port"), (admin, "admin", "admin_port")):
        assert f"\nFileDescriptorName={name}\n" in unit
        assert f"\nListenStream=127.0.0.1:{Settings.model_fields[setting].default}\n" in unit
    assert "\nService=wsd.service\n" in admin
    first, second = make(), make()
    assert assign([Listening("clients", first), Listening("admin", second)], 1, 2) == ([first], [second])


@pytest.fixture
def analyze(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Asks systemd-analyze about copies of the units, in which the program is one that this machine has."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze on this machine")
    for path in (ROOT / "systemd").glob("wsd*.*"):
        (tmp_path / path.name).write_text(path.read_text().replace("/opt/wsd/bin/wsd", sys.executable))
    units = [str(path) for path in tmp_path.glob("wsd*.*")]
    assert len(units) == 3

    def analyze(*words: str, every: bool = False) -> tuple[int, str]:
        command = [program, *words, *(units if every else [str(tmp_path / UNIT.name)])]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return done.returncode, done.stdout

    return analyze


def test_systemd_finds_no_fault_with_the_units(analyze: Callable[..., tuple[int, str]]) -> None:
    assert analyze("verify", every=True) == (0, "")


def test_the_service_may_do_little(analyze: Callable[..., tuple[int, str]]) -> None:
    status, said = analyze("security", "--offline=true", "--threshold=15", "--no-pager")
    assert status == 0, said  # systemd's own measure of what is exposed, from 0 to 10, is at most 1.5
