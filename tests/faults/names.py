"""A host name that only one process knows: it sees another /etc/hosts, and no name server."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

__all__ = ["NAME", "Names", "why_impossible"]

NAME = "redis.test"
"""No name server knows it. https://www.rfc-editor.org/rfc/rfc6761#section-6.2"""


class Names:
    """The files that the process sees."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="wsd-names-"))
        self._hosts = self._directory / "hosts"
        self._resolv = self._directory / "resolv.conf"
        self._resolv.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        self.point_to(None)

    def point_to(self, address: str | None) -> None:
        """Give the name an address, or none."""
        self._hosts.write_text("127.0.0.1 localhost\n" + (f"{address} {NAME}\n" if address else ""))

    def private_to(self, program: Sequence[str]) -> list[str]:
        """The command that runs a program with these files."""
        return [*_unshare(), "sh", "-c", f'{self._mounts()} && exec {shlex.join(program)} "$@"', "sh"]

    def _mounts(self) -> str:
        return f"mount --bind {self._hosts} /etc/hosts && mount --bind {self._resolv} /etc/resolv.conf"

    def remove(self) -> None:
        """Remove the files."""
        shutil.rmtree(self._directory)


@cache
def _unshare() -> list[str]:
    """The command that gives a program mounts of its own, as root or as somebody who may play root; [] if none does."""
    trial = ["sh", "-c", "mount --bind /etc/hosts /etc/hosts && test -f /etc/resolv.conf"]
    for unshare in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        if (
            shutil.which("unshare")
            and subprocess.run([*unshare, *trial], capture_output=True, check=False).returncode == 0
        ):
            return unshare
    return []


def why_impossible() -> str:
    """Why no process can have files of its own here, or ``""``."""
    return "" if _unshare() else "this machine does not let a process have an /etc/hosts of its own (unshare --mount)"
