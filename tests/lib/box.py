"""A systemd of its own, as process 1 over a throw-away copy of this machine: see box.sh beside this module."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from bench.processes import Program, plain_environment
from tests.lib.programs import Lines
from tests.lib.waiting import PATIENCE, until

__all__ = ["Box", "lacking"]

SCRIPT = Path(__file__).with_name("box.sh")
SYSTEMD = Path("/lib/systemd/systemd")

PROGRAMS = ("ip", "nsenter", "setpriv", "systemctl", "unshare")
"""Of the Debian packages iproute2, util-linux and systemd."""

ENTER = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd")
"""The name spaces of a box."""

PLAIN = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
"""The environment of a command in a box."""


def lacking() -> str:
    """Why no box can be had on this machine; empty if one can."""
    if os.geteuid():
        return "only root may make name spaces of all kinds"
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"not on this machine: {', '.join(missing)}"
    if not SYSTEMD.exists():
        return f"no {SYSTEMD} on this machine"
    with tempfile.TemporaryDirectory(prefix="wsd-box-") as place:
        command = ["unshare", "--mount", "bash", str(SCRIPT), "--try", place]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return done.stderr.strip()


class Box(Program):
    """A running systemd, and the commands that run under it. A context manager that ends it with all that runs in it.

    It also ends when this process ends, however that happens.

    Args:
        place: an empty folder, for what it is made of.
        folders: folders of this machine, and where they are visible inside, for reading.
        environment: of the commands in the box, beside what every command has.
    """

    def __init__(self, place: Path, folders: Mapping[Path, str], **environment: str) -> None:
        self._environment = PLAIN | environment
        self._init = 0  # the number that this machine knows systemd by
        (place / "mounts").mkdir()
        pairs = [f"{folder}={inside}" for folder, inside in folders.items()]
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount"]
        command += ["bash", str(SCRIPT), str(place / "mounts"), *pairs]
        super().__init__(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._lines = Lines(self.stdout)
        try:
            self._init = int(self._lines.wait_for("process 1 is").rpartition(" ")[2])
            until(self._runs, "the start of systemd")
        except BaseException as exc:
            self.kill()
            exc.add_note(self._lines.text)
            raise

    def _runs(self) -> bool:
        assert self.status is None, "systemd has ended"
        return self("systemctl", "is-system-running", check=False).strip() in ("running", "degraded")

    def inside(self, path: str) -> Path:
        """A file of the box, as this machine sees it."""
        return Path(f"/proc/{self._init}/root{path}")

    def command(self, *command: str, **environment: str) -> list[str]:
        """The command that runs a command in the box."""
        variables = [f"{name}={value}" for name, value in (self._environment | environment).items()]
        return ["nsenter", "--target", str(self._init), *ENTER, "env", "--ignore-environment", *variables, *command]

    def __call__(self, *command: str, check: bool = True, **environment: str) -> str:
        """Run a command in the box; return what it prints, standard error included.

        Args:
            command: a text alone is for the shell.
            check: whether it is a mistake if it fails.
            environment: its variables.
        """
        words = ("sh", "-ec", *command) if len(command) == 1 else command
        done = subprocess.run(
            self.command(*words, **environment),
            env=plain_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{command} failed with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def kill(self) -> int:
        """End it, and all that runs in it; what it has left on this machine is removed."""
        if self._init and self.status is None:
            os.kill(self._init, signal.SIGKILL)
            # The script removes the control groups then, and ends.
            status = self.wait(PATIENCE)
        else:
            status = super().kill()
        self._lines.join()
        return status
