"""wsd as a service of a simulated host: the real supervisor and the real workers, each in a process of its own.

What is replaced here is what they have from the machine: system calls (see `tests.simulation.kernel`), the log, the
garbage collector's settings, and what a process costs. A program begins a step behind the real one's first: what that
does to the process, its signals and its name, is left out.
"""

from __future__ import annotations

import asyncio
import faulthandler
import math
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context
from types import ModuleType, SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import wsd.pipe
from tests.simulation.kernel import EXIT_SECONDS, Entry, Kernel
from tests.simulation.loop import PROCESS, Process, SimulatedLoop
from tests.simulation.network import Endpoint, Network
from wsd import descriptors, headcount, logs, process, sockets, status
from wsd.config import Settings
from wsd.errors import SettingsError, StartupError
from wsd.handover import giver, taker
from wsd.handover.taker import Taker
from wsd.supervisor import child, launch, listening, main, pages, state, steps, team
from wsd.supervisor.child import Stage
from wsd.supervisor.team import Team
from wsd.worker import supervised, worker
from wsd.worker.worker import Worker

__all__ = ["Service"]

START = (0.05, 0.5)
"""Seconds that a new process takes to be imported, at least and at most."""

RESTART = 3.0
"""Seconds until systemd starts a supervisor again that has ended."""

DESCRIPTORS = 4096
"""Descriptors that a process may have."""

HUNG = 60.0
"""Seconds after it has gone on in which a process that had stood still may be killed for what it did not do."""

SEEN = 1.0
"""Seconds from the moment at which a process was waited for until nobody counts on it any more."""

LATE = 3.0
"""Seconds until a client hears of its end, at the most; see World.stall()."""

CALLS = (
    "close",
    "dup",
    "execve",
    "ftruncate",
    "getpid",
    "kill",
    "memfd_create",
    "pidfd_open",
    "posix_spawn",
    "pread",
    "pwrite",
    "set_inheritable",
    "waitpid",
)
"""Functions of the module os that the simulated kernel has."""

PROGRAM = "wsd"

_keep = Taker._keep


class _Runner:
    """Stands for asyncio.Runner: the loop runs already."""

    def __enter__(self) -> _Runner:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def run(self, main: Coroutine[Any, Any, int]) -> Any:
        """Return what is to be run."""
        return main


def _like(module: ModuleType, **others: Any) -> Any:
    """A module in which some names stand for others."""
    return SimpleNamespace(**{**vars(module), **others})


class Service:
    """wsd on one host.

    Args:
        loop: the loop.
        network: the network.
        host: where it is.
        settings: reads the settings of a process; may raise SettingsError.
        reached: called with each step that the running process reaches, of a hand-over or of a reload.
        dies: called with each process that is about to be ended by a signal, while it has its sockets.
    """

    def __init__(  # noqa: PLR0917 - it is made in one place
        self,
        loop: SimulatedLoop,
        network: Network,
        host: str,
        settings: Callable[[], Settings],
        reached: Callable[[Any], object],
        dies: Callable[[Process], object],
    ) -> None:
        self._loop = loop
        self._network = network
        self._settings = settings
        self._dies = dies
        self.kernel = Kernel(loop, network, host, main=self._main, on_end=self._about_to_end, on_over=self._over)
        self.problems: list[str] = []  # what must not happen
        self.team: Team | None = None  # of the supervisor that runs, or has run last
        self._supervisor: Entry | None = None
        self._leaderless: list[tuple[float, float]] = []  # when there were workers without a supervisor
        self._supervised: dict[int, supervised._Supervised] = {}  # of the workers, by process
        self._forgiven: dict[int, None] = {}  # processes that the world kills
        # Who has said that it has a connection that came to it: the giver lets it go, even if it hears that too late.
        self._takers: WeakKeyDictionary[Endpoint, Process | None] = WeakKeyDictionary()
        self._patch(reached)

    def _patch(self, reached: Callable[[Any], object]) -> None:
        """Put what is simulated in the place of what is real, in the modules that use it."""
        kernel = self.kernel
        system = _like(os, environ={}, **{name: getattr(kernel, name) for name in CALLS})
        network = _like(
            socket, socket=kernel.socket, socketpair=kernel.socketpair, gethostname=lambda: self.kernel.host
        )
        modules: tuple[ModuleType, ...] = (wsd.pipe, headcount, status, giver, taker, supervised, worker)
        for module in (*modules, child, launch, main, pages, state, team):
            for name, simulated in (("os", system), ("socket", network)):
                if name in vars(module):
                    setattr(module, name, simulated)
        opening: Any = kernel.open
        wsd.pipe.open = state.open = opening  # type: ignore[attr-defined]

        def keep(taker_: Taker, number: int) -> None:
            sock: Any = taker_._untold[number][1].sock
            self._takers[sock.endpoint] = PROCESS.get()
            _keep(taker_, number)

        changes: list[tuple[Any, str, Any]] = [
            (headcount, "mmap", SimpleNamespace(mmap=kernel.mmap)),
            (listening, "sockets", _like(sockets, listen=kernel.listen, another=kernel.another)),
            (main, "asyncio", _like(asyncio, Runner=_Runner)),
            (main, "faulthandler", _like(faulthandler, enable=lambda: None)),
            (main, "signal", _like(signal, pthread_sigmask=kernel.pthread_sigmask)),
            (main, "Team", self._make_team),
            (Taker, "_keep", keep),
            # The number of tasks would be that of all processes.
            (status, "asyncio", _like(asyncio, all_tasks=lambda: ())),
            (worker, "gc", SimpleNamespace(collect=_nothing, freeze=_nothing, set_threshold=_nothing)),
            (process, "figures", lambda whole=True: {}),
            (process, "set_name", _nothing),
            (descriptors, "room", lambda reserved: DESCRIPTORS - reserved),
            (descriptors, "limit", lambda: DESCRIPTORS),
            (descriptors, "_are_short", lambda: False),
            *((logs, name, _nothing) for name in ("catch_all", "drain", "flush", "say", "set_level", "setup", "tick")),
            *((module, "reached", reached) for module in (giver, taker, steps)),
        ]
        for module_, name, simulated in changes:
            assert hasattr(module_, name), name
            setattr(module_, name, simulated)

    def costs(self, process: Process, endpoint: Endpoint) -> bool:
        """Whether a connection has to end when a process of wsd dies: nobody else has it, or is to have it."""
        if self._takers.get(endpoint) is process:
            return True
        return all(holder is process for holder in self.kernel.holders(endpoint))

    def leaderless(self, when: float) -> bool:
        """Whether workers that a supervisor has left alone were sending their clients away, or had just done so."""
        return any(begin <= when <= end + LATE for begin, end in self._leaderless)

    def _make_team(self, *args: Any) -> Team:
        self.team = Team(*args)
        return self.team

    # What the world does.

    def start(self) -> None:
        """Start the supervisor, as systemd does; again whenever it has ended."""
        entry = self._supervisor = self.kernel.spawn([PROGRAM, "serve"], {})
        entry.blocked = dict.fromkeys(state.HELD_BACK)

    def reload(self) -> None:
        """Let it read its settings anew and replace its workers."""
        self._signal(self.supervisor, signal.SIGHUP)

    def kill(self, process: Process) -> None:
        """End a process at once, as the kernel does when memory runs out."""
        self._forgiven[process.pid] = None
        self._signal(process, signal.SIGKILL)

    def terminate(self, process: Process) -> None:
        """Tell a process to end."""
        self._signal(process, signal.SIGTERM)

    def freeze(self, process: Process, seconds: float) -> None:
        """Let a process stand still for a time."""
        entry = self.kernel.entries.get(process.pid)
        if entry is not None and not entry.program.frozen:
            self.kernel.stop(entry)
            self._loop.call_later(seconds, self.kernel.go_on, entry, context=Context())  # not in its own context

    def go_on(self) -> None:
        """Let all processes run that stand still."""
        for entry in self.kernel.entries.values():
            self.kernel.go_on(entry)

    def _signal(self, process: Process | None, number: int) -> None:
        entry = None if process is None else self.kernel.entries.get(process.pid)
        if entry is not None:
            self.kernel.send_signal(entry, number)

    # How it stands.

    @property
    def supervisor(self) -> Process | None:
        """The supervisor's process; None while there is none."""
        entry = self._supervisor
        return entry.program if entry is not None and entry.status is None else None

    @property
    def processes(self) -> list[Process]:
        """Those that live, the supervisor first."""
        return [entry.program for entry in self.kernel.entries.values() if entry.status is None]

    @property
    def workers(self) -> list[Worker]:
        """Those that serve."""
        return [
            each._worker
            for each in self._supervised.values()
            if each._worker is not None and each._stage is supervised._Stage.SERVING
        ]

    def worker(self, process: Process) -> Worker:
        """The worker of a process, whatever it does."""
        worker = self._supervised[process.pid]._worker
        assert worker is not None
        return worker

    @property
    def serving(self) -> list[tuple[Process, Worker]]:
        """The same, with their processes."""
        return [
            (self.kernel.entries[pid].program, each._worker)
            for pid, each in self._supervised.items()
            if each._worker is not None and each._stage is supervised._Stage.SERVING
        ]

    @property
    def expected(self) -> int:
        """How many workers there shall be."""
        return self._settings().processes()

    @property
    def unsettled(self) -> str:
        """What is not as it shall be in the end; "" if a ready worker is in each place, and there is nobody else."""
        team = self.team
        if self.supervisor is None or team is None or not team.complete.is_set():
            return "the supervisor has not started"
        if any(seat.child is None or seat.child.stage is not Stage.READY for seat in team.seats):
            return "a worker is missing"
        seated = {seat.child.pid for seat in team.seats if seat.child is not None}
        others = self.kernel.entries.keys() - seated - {self.supervisor.pid}
        return f"there are other processes: {sorted(others)}" if others else ""

    @property
    def bugs(self) -> list[BaseException]:
        """Exceptions that have ended a process."""
        return self.kernel.bugs

    # Programs.

    async def _main(self, command: list[str], environment: Mapping[str, str]) -> int:
        if command[1] == "worker":
            return await self._work(int(command[2].removeprefix("fd=")))
        await self._import()
        launcher = launch.Launcher((PROGRAM,), ())
        running: Any  # what asyncio.Runner is given
        if launch.VARIABLE in environment:
            running = main.resume(launcher, int(environment[launch.VARIABLE]))
        else:
            running = main.run(launcher, launcher.launch(), [])
        try:
            ended: int = await running
        except StartupError:
            return 1
        return ended

    async def _import(self) -> None:
        least, most = START
        await asyncio.sleep(least + (most - least) * self._network.random.random())

    async def _work(self, number: int) -> int:
        await self._import()
        program = PROCESS.get()
        assert program is not None
        sock, written = self.kernel.socket(fileno=number), self.kernel.memfd_create("stacks")
        each = supervised._Supervised(sock, written, self._settings, lambda: main.STATE_VERSION)
        self._supervised[program.pid] = each
        program.on_death.append(lambda: self._supervised.pop(program.pid))
        try:
            await each.live()
        except (SettingsError, StartupError):
            return 1
        return 0

    # What becomes of them.

    def _about_to_end(self, entry: Entry) -> None:
        self._dies(entry.program)
        # The supervisor, too, may have stood still, and have seen only then that its patience was over.
        hung = self._stood_still(entry, HUNG) or self._stood_still(self._supervisor, HUNG)
        if entry.pid not in self._forgiven and not hung:
            self.problems.append(f"{entry.program} is killed, which did not stand still")

    def _stood_still(self, entry: Entry | None, seconds: float) -> bool:
        """Whether a process stands still, or has until not long ago."""
        return entry is not None and (entry.program.frozen or self._loop.now - entry.program.thawed < seconds)

    def _over(self, entry: Entry) -> None:
        self._forgiven.pop(entry.pid, None)
        if entry.parent is not None:
            self._loop.call_later(SEEN, self._look_for, entry.pid, self.supervisor, context=Context())
        if self._leaderless and self._leaderless[-1][1] == math.inf and not self._orphans():
            self._leaderless[-1] = self._leaderless[-1][0], self._loop.now
        if entry is self._supervisor:
            self._supervisor = None
            if self._orphans() and (not self._leaderless or self._leaderless[-1][1] < math.inf):
                self._leaderless.append((self._loop.now - EXIT_SECONDS, math.inf))
            self._loop.call_later(RESTART * (0.5 + self._network.random.random()), self.start, context=Context())

    def _look_for(self, pid: int, waited: Process | None) -> None:
        """See that no place is a process's that the supervisor has waited for, if it still lives."""
        if self.supervisor is not waited or waited is None or self.team is None:
            return
        if self._stood_still(self._supervisor, SEEN):
            self._loop.call_later(SEEN, self._look_for, pid, waited, context=Context())
        else:
            for seat in self.team.seats:
                if seat.child is not None and seat.child.pid == pid:
                    self.problems.append(f"place {seat.number} was given to process {pid}, which had ended")

    def _orphans(self) -> list[Entry]:
        return [each for each in self.kernel.entries.values() if each.parent is None and each is not self._supervisor]


def _nothing(*args: Any, **options: Any) -> None:
    """Do nothing."""
