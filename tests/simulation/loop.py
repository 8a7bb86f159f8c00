"""An asyncio event loop on virtual time: when nothing is left to do, the clock jumps to the next timer.

Several *processes* share it. A process is what dies at once: whatever is scheduled in its context is never run after
it has died, as if the kernel had ended it, and waits while it is frozen.

Nothing in it depends on the machine: callbacks run in the order in which they were scheduled, and timers in the order
of their times, and of their making where these are equal.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from tests.simulation.kernel import Kernel
    from tests.simulation.network import Network

__all__ = ["PROCESS", "Killed", "Process", "SimulatedLoop", "Stuck"]

_Result = TypeVar("_Result")
_Handler: TypeAlias = Callable[[asyncio.AbstractEventLoop, dict[str, Any]], object]

MILLISECONDS = 1000
"""Ticks of the clock in a second, as the loop tells the time: uvloop's clock counts milliseconds."""

TURN = 1e-6
"""Seconds that a turn of the loop takes, unless the machine is slow."""

MOST_TURNS = 100_000
"""Turns of the loop without the clock going on: then something turns round and round."""


class Stuck(Exception):
    """The world stands still: nothing is scheduled, or what is scheduled schedules itself for ever at once."""


class Killed(BaseException):
    """The process in whose context this is raised has just died: nothing more of what runs is to happen."""


class Process:
    """What dies at once.

    Args:
        name: for timelines.
        host: where it runs; its own name if it is alone there.
    """

    def __init__(self, name: str, host: str = "") -> None:
        self.name = name
        self.host = host or name
        self.pid = 0  # in the table of its kernel; 0 if it is in none
        self.since = 0.0  # when it was started
        self.alive = True
        self.frozen = False
        self.thawed = -1e9  # when it last went on after it had been frozen
        self.runs = True  # whether it lives, and does not stand still
        self.held: list[asyncio.Handle] = []  # what waits until it is thawed, in order
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.on_death: list[Callable[[], object]] = []  # what the kernel does then: closes its sockets

    def __repr__(self) -> str:
        return self.name

    def forget(self, task: asyncio.Task[Any]) -> None:
        """A task has ended."""
        self.tasks.pop(task, None)


PROCESS: ContextVar[Process | None] = ContextVar("PROCESS", default=None)
"""The process in whose context something runs; None for the world itself, which never dies."""


class _Task(asyncio.Task[Any]):
    """A task that stands at the same place of a set on every machine."""

    def __init__(self, coro: Any, number: int, **options: Any) -> None:
        self.number = number  # before asyncio puts it into its set of all tasks: were they all 0, that would take long
        super().__init__(coro, **options)
        # Whatever is not done when the world ends is no mistake.
        self._log_destroy_pending = False

    def __hash__(self) -> int:
        return self.number


_Loop: Any = asyncio.AbstractEventLoop  # the types of its methods say more than asyncio and wsd ask


class SimulatedLoop(_Loop):  # type: ignore[misc]
    """The loop. What it does not have, wsd does not use."""

    def __init__(self) -> None:
        self.network: Network
        self.kernel: Kernel  # of the host on which wsd runs
        self.now = 0.0  # seconds since the beginning, exactly
        self.turns = 0
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._made = 0  # timers so far
        self.worked = 0  # callbacks so far
        self.turn = TURN  # seconds that a turn takes
        self._running = False
        self._stopping = False
        self._closed = False
        self._tasks = 0  # made so far
        self.complain: Callable[[Process | None, dict[str, Any]], object]  # told of exceptions that nobody handles
        self._graves: list[Process] = []
        self._handlers: dict[Process | None, _Handler | None] = {}  # of exceptions, by process

    # The time.

    def time(self) -> float:
        """Seconds, in whole milliseconds."""
        return int(self.now * MILLISECONDS) / MILLISECONDS

    def elapse(self, seconds: float) -> None:
        """Let time pass while a callback runs, as if it took so long."""
        self.now += seconds

    # Scheduling.

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        """Run a function at the next turn."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Run a function after some seconds."""
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Run a function at a time."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._made += 1
        heapq.heappush(self._timers, (when, self._made, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is dropped when its time has come."""

    def timers(self, process: Process) -> int:
        """How many timers of a process wait, except those that wake a task."""
        waiting = [handle for _, _, handle in self._timers if not handle.cancelled()]
        return sum(handle._context.get(PROCESS) is process and not _wakes(handle) for handle in waiting)  # type: ignore[attr-defined]

    # Running.

    def run_forever(self) -> None:
        """Run until :meth:`stop` is called."""
        self._stopping, self._running = False, True
        asyncio._set_running_loop(self)
        try:
            while not self._stopping:
                self._turn()
        finally:
            self._running = False
            asyncio._set_running_loop(None)

    def run_until_complete(self, future: Coroutine[Any, Any, _Result]) -> _Result:
        """Run until something is done; return its result.

        Raises:
            Stuck: if it never will be.
        """
        task = asyncio.ensure_future(future, loop=self)
        task.add_done_callback(lambda task: self.stop())
        self.run_forever()
        return task.result()

    def stop(self) -> None:
        """End :meth:`run_forever` when this turn is over."""
        self._stopping = True

    def _turn(self) -> None:
        ready, timers = self._ready, self._timers
        if not ready:
            self._jump()
        while timers and timers[0][0] <= self.now:
            ready.append(heapq.heappop(timers)[2])
        self.worked += len(ready)
        for _ in range(len(ready)):
            handle: Any = ready.popleft()
            if handle._cancelled:
                continue
            process = handle._context.get(PROCESS)
            if process is None or process.runs:
                try:  # noqa: SIM105 - a context manager would cost a third more
                    handle._run()
                except Killed:
                    pass
            elif process.alive:
                process.held.append(handle)
        self.turns += 1
        self.now += self.turn
        if self.turns > MOST_TURNS:
            tasks = [getattr(handle, "_callback", handle) for handle in self._ready]
            raise Stuck(f"{MOST_TURNS} turns of the loop, and it is still {self.now:.6f}; next is {tasks[:3]!r}")

    def _jump(self) -> None:
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        if not self._timers:
            raise Stuck(f"nothing is scheduled any more at {self.now:.6f}")
        if self._timers[0][0] > self.now:
            self.now, self.turns = self._timers[0][0], 0

    # Processes.

    def start(self, process: Process, main: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Run a coroutine as the main program of a process."""
        process.since = self.now
        context = copy_context()
        context.run(PROCESS.set, process)
        return context.run(lambda: self.create_task(main(), name=process.name))

    def kill(self, process: Process) -> None:
        """End a process at once: nothing of it runs any more, and the kernel closes what it has open."""
        process.alive = process.runs = False
        process.held.clear()
        for act in process.on_death:
            act()
        process.on_death.clear()
        self.network.bury(process)
        # Were its tasks forgotten, Python would close their coroutines, and let them clean up, which the dead don't.
        self._graves.append(process)

    def freeze(self, process: Process) -> None:
        """Let nothing of a process run."""
        process.frozen, process.runs = True, False

    def thaw(self, process: Process) -> None:
        """Let it go on."""
        process.frozen, process.runs, process.thawed = False, process.alive, self.now
        held, process.held = process.held, []
        self._ready.extend(held)

    # Descriptors and signals.

    def add_reader(self, descriptor: int, callback: Callable[..., Any], *args: Any) -> None:
        """See asyncio."""
        self.kernel.watch(descriptor, partial(callback, *args), writing=False)

    def remove_reader(self, descriptor: int) -> bool:
        """See asyncio."""
        return self.kernel.unwatch(descriptor, writing=False)

    def add_writer(self, descriptor: int, callback: Callable[..., Any], *args: Any) -> None:
        """See asyncio."""
        self.kernel.watch(descriptor, partial(callback, *args), writing=True)

    def remove_writer(self, descriptor: int) -> bool:
        """See asyncio."""
        return self.kernel.unwatch(descriptor, writing=True)

    def add_signal_handler(self, number: int, callback: Callable[..., Any], *args: Any) -> None:
        """See asyncio."""
        self.kernel.handle(number, partial(callback, *args))

    # Futures and tasks.

    def create_future(self) -> asyncio.Future[Any]:
        """See asyncio."""
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> asyncio.Task[Any]:
        """See asyncio."""
        self._tasks += 1
        task = _Task(coro, self._tasks, loop=self, name=name, context=context)
        if (process := PROCESS.get()) is not None:
            process.tasks[task] = None
            task.add_done_callback(process.forget)
        return task

    # The network.

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> list[Any]:
        """Look a name up in the network."""
        return await self.network.resolve(host, port)

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        """Connect to somebody who listens in the network."""
        return await self.network.connect(protocol_factory, host, port)

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        """Accept connections."""
        return self.network.serve(protocol_factory, options["sock"])

    async def connect_accepted_socket(self, protocol_factory: Any, sock: Any, **options: Any) -> Any:
        """Go on with a socket that somebody has passed."""
        return await self.network.open(protocol_factory, sock)

    # What is asked of every loop.

    def is_running(self) -> bool:
        """See asyncio."""
        return self._running

    def is_closed(self) -> bool:
        """See asyncio."""
        return self._closed

    def close(self) -> None:
        """See asyncio."""
        self._closed = True
        self._ready.clear()
        self._timers.clear()

    def get_debug(self) -> bool:
        """Never."""
        return False

    def set_debug(self, enabled: bool) -> None:
        """It has no debug mode."""

    def set_exception_handler(self, handler: _Handler | None) -> None:
        """See asyncio. Each process has one of its own."""
        self._handlers[PROCESS.get()] = handler

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """See asyncio."""
        handle = context.get("handle")  # which has left its context already
        process = PROCESS.get() if handle is None else handle._context.get(PROCESS)
        if (process is not None and not process.alive) or isinstance(context.get("exception"), Killed):
            return
        if (handler := self._handlers.get(process)) is not None:
            handler(self, context)
        else:
            self.complain(process, context)

    async def shutdown_asyncgens(self) -> None:
        """There are none."""

    async def shutdown_default_executor(self) -> None:
        """There is none."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Run a function at once."""
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as exc:
            done.set_exception(exc)
        return done


def within(process: Process, call: Callable[[], _Result]) -> _Result:
    """Call something as if that process did."""

    def call_there() -> _Result:
        PROCESS.set(process)
        return call()

    return Context().run(call_there)


def _wakes(handle: asyncio.TimerHandle) -> bool:
    """Whether a timer is asyncio's own, as behind a sleep and a timeout."""
    return str(getattr(handle._callback, "__module__", "")).startswith("asyncio.")  # type: ignore[attr-defined]
