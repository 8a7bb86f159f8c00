"""Tests of what systemd is told, and of the unit that makes it listen."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT
from tests.lib.waiting import PATIENCE
from wsd.config import Settings
from wsd.systemd import notify

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
    credentials = [value for name, value in directives("Service") if name == "LoadCredential"]
    assert {value.partition(":")[0] for value in credentials} <= set(Settings.model_fields)
    variables = [value.partition("=")[0] for name, value in directives("Service") if name == "Environment"]
    assert {name.removeprefix("WSD_").lower() for name in variables} <= {*Settings.model_fields, "config"}


def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze on this machine")
    # It also looks for the program, which is not installed where the test runs.
    program = dict(directives("Service"))["ExecStart"].split()[0]
    copy = tmp_path / "wsd.service"
    copy.write_text(UNIT.read_text().replace(program, sys.executable))
    result = subprocess.run([analyze, "verify", str(copy)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
