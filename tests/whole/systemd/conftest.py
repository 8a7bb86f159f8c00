"""A box in which wsd is installed as systemd/README.md says, and the crowd of its clients."""

from __future__ import annotations

import json
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from bench.processes import redis_executable
from tests import ROOT
from tests.house.papers import paper
from tests.lib.box import Box, lacking
from tests.lib.programs import Command
from tests.lib.waiting import until

PATH = "/opt/python/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CHECKOUT = "/root/checkout"
"""Of the box, where its commands are typed."""


def commands(heading: str) -> list[str]:
    """The commands below a heading of systemd/README.md."""
    return [line for block in paper("systemd/README.md").of(heading, "sh") for line in block.text.splitlines()]


class Report(NamedTuple):
    """What the crowd says: see :class:`tests.whole.systemd.crowd.Ledger`."""

    messages: int
    wrong: list[str]
    closed: dict[str, int]
    newcomers: dict[str, int]
    longest: float


class Crowd(Command):
    """The crowd in the box."""

    def report(self, *, complete: bool = True) -> Report:
        """Ask for what has happened since the last time.

        Args:
            complete: when all members are there and have heard the last number; else at once.
        """
        self.stdin.write(b"all\n" if complete else b"now\n")
        self.stdin.flush()
        return Report(**json.loads(self.out.next()))


class Host(Box):
    """A box with Redis and an installed wsd: a host as an operator knows it."""

    def type(self, *lines: str) -> str:
        """Type commands in the checkout, as root."""
        return "".join(self(f"cd {CHECKOUT}; {line}") for line in lines)

    def install(self) -> None:
        """Do what the paper says, without a network: the libraries are those of this Python."""
        shutil.copytree(ROOT, self.inside(CHECKOUT), ignore=shutil.ignore_patterns(".*", "results", "__pycache__"))
        venv, pinned, libraries, ours, *rest = commands("In a virtual environment")
        assert "constraints.txt" in pinned and "--require-hashes" in libraries
        self.type(venv)
        # Ours may be there already, for the tests. pip would not install it again.
        self("mkdir /opt/libraries; cd /opt/libraries; ln -s /opt/site/* .; rm -rf wsd_daemon* _wsd* __editable__*")
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self(f"echo /opt/libraries > /opt/wsd/lib/{version}/site-packages/libraries.pth")
        self.type(ours, *rest)

    def store(self) -> None:
        """Start Redis."""
        lines = ["[Service]", f"ExecStart={redis_executable()} --save '' --bind 127.0.0.1"]
        self.inside("/run/systemd/system").mkdir(exist_ok=True)
        self.inside("/run/systemd/system/store.service").write_text("\n".join(lines) + "\n")
        self("systemctl", "start", "store")

    def configure(self, **settings: object) -> None:
        """Put settings into the file, beside those of the paper."""
        lines = ['jwt_key_file = "/etc/wsd/jwt_key"', "drain_seconds = 1"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        self.inside("/etc/wsd/wsd.toml").write_text("\n".join(lines) + "\n")

    def drop_in(self, *lines: str) -> None:
        """Change the unit, as `systemctl edit` does; without lines, take all changes back."""
        folder = self.inside("/etc/systemd/system/wsd.service.d")
        folder.mkdir(exist_ok=True)
        (folder / "test.conf").write_text("\n".join(["[Service]", *lines]) + "\n")
        self("systemctl", "daemon-reload")

    def show(self, name: str, unit: str = "wsd.service") -> str:
        """A property of a unit."""
        return self("systemctl", "show", "--value", "--property", name, unit).strip()

    @property
    def main(self) -> int:
        """The main process, as the box knows it; 0 if there is none."""
        return int(self.show("MainPID"))

    @property
    def workers(self) -> list[int]:
        """The children of the main process."""
        return [int(line) for line in self(f"ps --ppid {self.main} -o pid= || true").split()]

    def log(self, *flags: str) -> list[str]:
        """The messages of the unit in the journal."""
        return self("journalctl", "--unit", "wsd", "--output", "cat", "--no-pager", "--quiet", *flags).splitlines()

    def cursor(self) -> str:
        """Where the journal is now."""
        return self("journalctl --lines 0 --show-cursor --quiet").rpartition("-- cursor: ")[2].strip()

    def logged(self, words: str, *flags: str) -> None:
        """Wait for words in the journal."""
        until(lambda: any(words in line for line in self.log(*flags)), f"{words!r} in the journal")

    def get(self, path: str) -> str:
        """Ask the admin port."""
        return self("curl", "--silent", f"http://127.0.0.1:3001{path}", check=False)

    def token(self) -> str:
        """A token, signed with the key that is in force."""
        return self("/opt/wsd/bin/wsd", "token", "--jwt-key-file", "/etc/wsd/jwt_key").strip()

    def crowd(self, **flags: object) -> Crowd:
        """Let the crowd come; it is there when this returns."""
        words = [f"--{name.replace('_', '-')}={value}" for name, value in ({"token": self.token()} | flags).items()]
        python = ["env", "--chdir", CHECKOUT, "/opt/wsd/bin/python", "-m", "tests.whole.systemd.crowd"]
        crowd = Crowd(self.command(*python, *words))
        try:
            crowd.out.wait_for("ready")
        except BaseException as exc:
            crowd.kill()
            exc.add_note(crowd.err.text)
            raise
        return crowd


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The host that the tests of a module share."""
    if reason := lacking():
        pytest.skip(f"no systemd of its own can be started here: {reason}")
    site = Path(sysconfig.get_path("purelib"))
    folders: Mapping[Path, str] = {Path(sys.base_prefix): "/opt/python", site: "/opt/site"}
    # An interpreter with a library of its own finds it by a path that it was built with, which wsd may not read.
    environment = {"PATH": PATH, "LD_LIBRARY_PATH": "/opt/python/lib"}
    with Host(tmp_path_factory.mktemp("box"), folders, **environment) as host:
        host("systemctl", "set-environment", f"LD_LIBRARY_PATH={environment['LD_LIBRARY_PATH']}")
        host.store()
        host.install()
        for command in commands("With systemd"):
            host.type(command)
        yield host
