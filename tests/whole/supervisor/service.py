"""``wsd serve``, whose settings are in a file, and whose workers can be made to go wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import urllib.request
from pathlib import Path
from typing import Any

from tests.lib.programs import Daemon, state
from tests.lib.waiting import PATIENCE, until
from wsd.supervisor.steps import Step

__all__ = ["SPIN", "Service"]

SPIN = signal.SIGRTMIN + 2
"""Makes a worker turn round in Python and never come back."""

PROGRAM = """
import os, signal, sys
from wsd import cli
def spin_for_ever(number, frame):
    while True:
        pass
def reached(step):
    try:
        with open(os.environ["HALT"]) as file:
            wanted = file.read()
    except OSError:
        return
    if step.name == wanted:
        os.unlink(os.environ["HALT"])
        os.kill(os.getpid(), signal.SIGSTOP)
if sys.argv[1] == "serve":
    from wsd.supervisor import steps
    steps.reached = reached
if sys.argv[1] == "worker":
    if os.path.exists(os.environ["BROKEN"]):
        print("broken on purpose", file=sys.stderr, flush=True)
        os._exit(3)
    signal.signal(signal.SIGRTMIN + 2, spin_for_ever)
sys.exit(cli.main())
"""


class Service(Daemon):
    """A service. It has started when the constructor returns, and all workers are ready.

    Args:
        config: the file for its settings.
        notify: where systemd would listen.
        settings: what the file holds. Without others there is no authentication, and the ports are free ones.
    """

    program = (sys.executable, "-c", PROGRAM)

    def __init__(self, config: Path, *, notify: str = "", **settings: object) -> None:
        self._config = config
        self.broken = config.with_suffix(".broken")  # while this file is there, no worker can start
        self._halt = config.with_suffix(".halt")  # names the step at which the supervisor stops itself
        self._settings = {"auth": "none", "port": 0, "admin_port": 0, "drain_seconds": 0, "log_format": "json"}
        self.write(**settings)
        files = {"BROKEN": str(self.broken), "HALT": str(self._halt)}
        super().__init__("--config", str(config), NOTIFY_SOCKET=notify, **files)
        self.wait_until_ready()

    def write(self, **settings: object) -> None:
        """Change settings in the file."""
        self._settings |= settings
        self._config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in self._settings.items()))

    def reload(self, **settings: object) -> str:
        """Change settings, reload, and wait until the new supervisor goes on; return what the log says of it."""
        self.write(**settings)
        before = len(self.about("the supervisor runs wsd"))
        self.signal(signal.SIGHUP)
        until(lambda: len(self.about("the supervisor runs wsd")) > before, "the new supervisor")
        return str(self.about("reloaded: ")[-1]["message"])

    def halt_at(self, step: Step) -> None:
        """Let the supervisor stop itself when it reaches a step."""
        self._halt.write_text(step.name)

    @property
    def is_halted(self) -> bool:
        """Whether it has stopped itself."""
        return state(self.pid) == "T"

    def let_go(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def get(self, path: str) -> str:
        """Ask the admin port."""
        with urllib.request.urlopen(f"{self.admin}{path}", timeout=PATIENCE) as answer:
            return str(answer.read().decode())

    def metrics(self, name: str) -> dict[str, float]:
        """The values of a metric, by its label's value; "" where there is no label."""
        rows = re.findall(rf'^{name}(?:\{{\w+="([^"]*)"\}})? (\S+)$', self.get("/metrics"), re.MULTILINE)
        return {label: float(value) for label, value in rows}

    def clients(self) -> list[int]:
        """How many clients each worker has, by its number."""
        counted = self.metrics("wsd_worker_connections")
        return [int(counted[number]) for number in sorted(counted, key=int)]

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The lines of its log."""
        return [json.loads(line) for line in self.log if line.startswith("{")]

    def about(self, words: str) -> list[dict[str, Any]]:
        """The lines of its log whose message has these words."""
        return [entry for entry in self.entries if words in entry["message"]]

    def said(self, words: str) -> dict[str, Any]:
        """Wait for a line of the log whose message has these words, wherever it stands; return the last one."""
        until(lambda: self.about(words), f"the log has {words!r}")
        return self.about(words)[-1]

    def names(self) -> list[str]:
        """What `ps` calls its processes, the supervisor first."""
        return [Path(f"/proc/{pid}/comm").read_text().strip() for pid in (self.pid, *self.workers)]

    def resident(self) -> int:
        """Bytes of memory of the supervisor."""
        found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    def descriptors(self) -> int:
        """Descriptors that the supervisor has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def worker(self, number: int) -> int:
        """The process of a worker, as the log has told last."""
        (pid,) = [pid for pid in self.workers if self._number(pid) == number]
        return pid

    def _number(self, pid: int) -> int:
        ready = [entry for entry in self.entries if entry.get("pid") == pid and "is ready" in entry["message"]]
        return int(ready[-1]["worker"]) if ready else self.workers.index(pid)
