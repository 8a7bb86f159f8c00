"""wsd in processes of its own: commands that end by themselves, commands that run until they are told to end, and the
daemon. What they print is read all the time, by threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from bench.processes import ROOT, Program, plain_environment
from tests.lib.waiting import PATIENCE, until

__all__ = [
    "SECRET",
    "WSD",
    "Command",
    "Daemon",
    "Lines",
    "feed",
    "is_alive",
    "refused",
    "refused_last",
    "state",
    "tailing",
    "trying",
    "wsd",
]

WSD = (sys.executable, "-m", "wsd")
"""The program."""

SECRET = "correct-horse-battery-staple-0123456789"
"""A key."""


def state(pid: int) -> str:
    """What a process does, as proc_pid_stat(5) has it: T if it was stopped, Z if it has ended; "" if it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def is_alive(pid: int) -> bool:
    """Whether a process is there and has not ended: with all its threads, for before that nobody can wait for it."""
    return state(pid) not in ("", "Z") or len(_threads(pid)) > 1


class Lines:
    """The lines of a stream, as they come.

    Args:
        stream: what to read, to its end.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self.read: list[bytes] = []  # all that came, with their ends
        self.times: list[float] = []  # when each came, on the monotonic clock
        self._looked = 0  # lines that next() has returned
        self._ended = False
        self._more = threading.Condition()  # one came, or the stream has ended
        self._thread = threading.Thread(target=self._run, args=(stream,), daemon=True)
        self._thread.start()

    def _run(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                with self._more:
                    self.read.append(line)
                    self.times.append(time.monotonic())
                    self._more.notify_all()
        with self._more:
            self._ended = True
            self._more.notify_all()

    @property
    def text(self) -> str:
        """All that came."""
        return b"".join(self.read).decode(errors="replace")

    def next(self, patience: float = PATIENCE) -> bytes:
        """Wait for the next line; return it without its end."""
        with self._more:
            self._more.wait_for(lambda: self._looked < len(self.read) or self._ended, patience)
            what = "no more line, because the stream ended" if self._ended else f"no line within {patience:g} s"
            assert self._looked < len(self.read), f"{what}; before:\n{self.text}"
            self._looked += 1
            return self.read[self._looked - 1].removesuffix(b"\n")

    def wait_for(self, words: str, patience: float = PATIENCE) -> str:
        """Wait for a line that has the words, after the last one that was waited for; return it without its end."""
        deadline = time.monotonic() + patience
        while words not in (line := self.next(max(deadline - time.monotonic(), 0.0)).decode(errors="replace")):
            pass
        return line

    def join(self) -> None:
        """Wait for the end of the stream."""
        self._thread.join(PATIENCE)


class Command(Program):
    """A command that runs until it is told to stop, as in a terminal.

    Args:
        command: what to run; a text is for the shell.
        environment: variables beside those of this process.
    """

    def __init__(self, command: Sequence[str] | str, **environment: str) -> None:
        pipe = subprocess.PIPE
        super().__init__(command, environment=plain_environment(**environment), stdin=pipe, stdout=pipe, stderr=pipe)
        self.out = Lines(self.stdout)  # what it prints on standard output
        self.err = Lines(self.stderr)  # and on standard error

    def kill(self) -> int:
        """See :meth:`Program.kill`."""
        status = super().kill()
        self.stdin.close()
        self.out.join()
        self.err.join()
        return status

    def end(self, number: int | None = None) -> int:
        """Wait for its end; return the exit status.

        Args:
            number: a signal to send before, as a terminal does.
        """
        if number is not None:
            self.signal_all(number)
        status = self.wait(PATIENCE)
        self.out.join()
        self.err.join()
        assert "Traceback" not in self.err.text
        return status


def wsd(*args: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command that ends by itself."""
    return feed(b"", *args, **environment)


def feed(stdin: bytes, *args: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The same, with something on its standard input."""
    done = subprocess.run(
        [*WSD, *args],
        input=stdin,
        capture_output=True,
        env=plain_environment(**environment),
        cwd=ROOT,
        timeout=PATIENCE,
        check=False,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


def refused(status: int, *args: str, **environment: str) -> list[str]:
    """Run a command that fails with this status; return its lines on standard error."""
    done = wsd(*args, **environment)
    assert (done.returncode, done.stdout) == (status, b""), done
    lines = done.stderr.decode().splitlines()
    assert all(line.startswith("wsd: ") for line in lines), lines
    return [line.removeprefix("wsd: ") for line in lines]


def refused_last(status: int, *args: str, **environment: str) -> str:
    """Run a daemon that fails with this status; return its last line, which follows its log."""
    done = wsd(*args, **environment)
    assert (done.returncode, done.stdout) == (status, b"")
    return done.stderr.decode().splitlines()[-1]


def trying(url: str, *args: str) -> tuple[int, str]:
    """Run ``wsd check --connect``; return its status, and the line that says what it found or what is wrong."""
    done = wsd("check", "--auth=none", "--connect", *args, WSD_REDIS_URL=url)
    said = done.stderr if done.returncode else done.stdout
    assert "hunter" not in (done.stdout + done.stderr).decode()
    return done.returncode, said.decode().splitlines()[-1]


def tailing(*args: str, **environment: str) -> Command:
    """Run ``wsd tail`` and wait until it is subscribed."""
    command = Command([*WSD, "tail", *args], **environment)
    try:
        command.err.wait_for("subscribed to")
    except BaseException:
        command.kill()
        raise
    return command


class Daemon(Program):
    """``wsd serve``. It has started when the constructor returns.

    Args:
        flags: of the command.
        environment: variables beside those of this process.
    """

    program: tuple[str, ...] = WSD

    def __init__(self, *flags: str, **environment: str) -> None:
        super().__init__(
            [*self.program, "serve", *flags], environment=plain_environment(**environment), stderr=subprocess.PIPE
        )
        self.lines = Lines(self.stderr)  # its log
        try:
            listens = self.wait_for("listens on")
        except AssertionError:
            self.kill()
            raise
        self.port = int(listens.split("ws://", 1)[1].split(" ", 1)[0].rsplit(":", 1)[1])
        self.admin_port = int(listens.split("http://", 1)[1].split(" ", 1)[0].rsplit(":", 1)[1])
        self.url = f"ws://127.0.0.1:{self.port}"
        self.admin = f"http://127.0.0.1:{self.admin_port}"

    @property
    def workers(self) -> list[int]:
        """Its workers' processes, as they are now."""
        return list(map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()))

    @property
    def log(self) -> list[str]:
        """The lines of its log, with their ends."""
        return [line.decode(errors="replace") for line in list(self.lines.read)]

    def wait_for(self, words: str, patience: float = PATIENCE) -> str:
        """Wait for a line of the log that has the words, after the last one that was waited for; return it."""
        return self.lines.wait_for(words, patience)

    def readiness(self) -> tuple[int, str]:
        """The status of /readyz, and its first line."""
        try:
            with urllib.request.urlopen(f"{self.admin}/readyz", timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode().splitlines()[0]
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode().splitlines()[0]

    def wait_until_ready(self) -> None:
        """Wait until the service says of itself that it is ready, which it knows later than a worker does."""
        until(lambda: self.readiness() == (200, "ready"), "the service is ready")

    def wait(self, patience: float = PATIENCE) -> int:
        """Wait for its end; return the exit status. The rest of its log is read."""
        status = super().wait(patience)
        self.lines.join()
        return status

    def kill(self) -> int:
        """See :meth:`Program.kill`."""
        status = super().kill()
        self.lines.join()
        return status
