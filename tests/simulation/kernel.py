"""What a host's kernel does for wsd's processes: they are started, end, wait for each other, send signals, and talk.

What processes open are *files* of the network's table of descriptors, beside its connections: ends of pipes (a pair of
Unix sockets that keep packets apart, unix(7)), listening sockets, memory (memfd_create(2)), and processes
(pidfd_open(2)). The number of a descriptor is the same in all processes, because each belongs to one. The functions are
those of the modules `os`, `socket`, `mmap` and `signal`, as far as wsd calls them.

A process is an entry in the kernel's table; its *program* is what the simulated loop runs, and another one after
execve(2).
"""

from __future__ import annotations

import array
import errno
import io
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextvars import Context, copy_context
from functools import partial
from typing import Any, TypeVar, cast

from tests.simulation.loop import PROCESS, Killed, Process, SimulatedLoop
from tests.simulation.network import Endpoint, Listener, Network
from wsd.errors import StartupError

__all__ = ["EXIT_SECONDS", "Entry", "Kernel"]

OVERHEAD = 768
"""Bytes that the kernel counts for a packet beside its own."""

EXIT_SECONDS = 0.01
"""Seconds, at most, from the end of a process's sockets to the end of the process itself."""

FIRST_PID = 1000

_T = TypeVar("_T")


class File:
    """What is open: descriptors name it, in one process or in several.

    Args:
        loop: the loop.
    """

    host = ""  # it is no connection of any host; see Network.endpoints()

    def __init__(self, loop: SimulatedLoop) -> None:
        self.loop = loop
        self.descriptors = 0  # the network counts
        self.watches: dict[tuple[int, bool], _Watch] = {}  # by descriptor, and whether it is for writing

    @property
    def readable(self) -> bool:
        """Whether a read would not wait."""
        return False

    @property
    def writable(self) -> bool:
        """Whether poll(2) says that a write would not wait."""
        return False

    def changed(self) -> None:
        """It may have become readable or writable."""
        for watch in list(self.watches.values()):
            watch.look()

    def close(self) -> None:
        """The last descriptor was closed."""
        self.watches.clear()


class _Watch:
    """An event loop waits for a file, as epoll does: as long as it is ready, a function is called."""

    def __init__(self, file: File, callback: Callable[[], object], *, writing: bool) -> None:
        self._file = file
        self._callback = callback
        self._writing = writing
        self._context = copy_context()
        self._due = False
        self.on = True

    def look(self) -> None:
        """Call the function at the next turn, if the file is ready."""
        if not self._due and (self._file.writable if self._writing else self._file.readable):
            self._due = True
            self._file.loop.call_soon(self._fire, context=self._context)

    def _fire(self) -> None:
        self._due = False
        if self.on and (self._file.writable if self._writing else self._file.readable):
            try:
                self._callback()
            finally:
                if self.on:
                    self.look()


class _Memory(File):
    """A file in memory."""

    def __init__(self, loop: SimulatedLoop) -> None:
        super().__init__(loop)
        self.content = bytearray()


class _Opened(io.BytesIO):
    """A file in memory, as somebody has opened it.

    Args:
        memory: the file.
        begin: its content at the beginning.
        on_close: called with the content in the end.
    """

    def __init__(self, begin: bytes, on_close: Callable[[bytes], object]) -> None:
        super().__init__(begin)
        self._on_close = on_close

    def close(self) -> None:
        """See io."""
        if not self.closed:
            self._on_close(self.getvalue())
        super().close()


class _Listening(File):
    """A listening socket that is there as long as somebody has a descriptor."""

    def __init__(self, loop: SimulatedLoop, listener: Listener, on_close: Callable[[], object]) -> None:
        super().__init__(loop)
        self.listener = listener
        self._on_close = on_close

    def close(self) -> None:
        """The last descriptor was closed: those who wait are reset."""
        super().close()
        self.listener.close()
        self._on_close()


class _Watched(File):
    """A process, as pidfd_open(2) opens it: readable when it has ended."""

    def __init__(self, loop: SimulatedLoop, entry: Entry) -> None:
        super().__init__(loop)
        self._entry = entry
        entry.watched.append(self)

    @property
    def readable(self) -> bool:
        """Whether it has ended."""
        return self._entry.over


class _End(File):
    """One end of a pipe. What is on its way to it, and its descriptors, is kept here.

    Args:
        kernel: the kernel.
    """

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel.loop)
        self._kernel = kernel
        self.peer: _End
        self.queue: deque[tuple[bytes, list[int]]] = deque()
        self.used = 0  # bytes that this end has sent and nobody has read
        self.shut = False  # whether nothing more can be sent, in either direction
        self.failure: OSError | None = None  # is told once, to who reads or writes next

    @property
    def readable(self) -> bool:
        """Whether something has come, or the end has."""
        return bool(self.queue) or self.shut or self.failure is not None

    @property
    def writable(self) -> bool:
        """Whether three quarters are free, which is when unix_writable() of Linux says so."""
        return self.shut or self.failure is not None or 4 * self.used <= self._kernel.capacity

    def _fail(self) -> None:
        if (failure := self.failure) is not None:
            self.failure = None
            raise failure

    def send(self, packet: bytes, numbers: Iterable[int]) -> None:
        """Send a packet.

        Raises:
            OSError: if there is nobody, or no room.
        """
        self._fail()
        if self.shut:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        if self.used >= self._kernel.capacity:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        network, peer = self._kernel.network, self.peer
        self.used += len(packet) + OVERHEAD
        peer.queue.append((packet, [network.duplicate(number, peer) for number in numbers]))
        peer.changed()

    def receive(self) -> tuple[bytes, list[int]]:
        """Take the next packet; an empty one is the end.

        Raises:
            OSError: if there is none, or the other end was closed with unread packets in it.
        """
        self._fail()
        if self.queue:
            packet, numbers = self.queue.popleft()
            self.peer.used -= len(packet) + OVERHEAD
            self.peer.changed()
            return packet, numbers
        if self.shut:
            return b"", []
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    def shut_down(self) -> None:
        """Let nothing more be sent. What has come can be read still."""
        self.shut = self.peer.shut = True
        self.changed()
        self.peer.changed()

    def close(self) -> None:
        """The last descriptor was closed: what nobody has read is lost, with its descriptors."""
        super().close()
        peer = self.peer
        if self.queue:
            peer.failure = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
            queue, self.queue = self.queue, deque()
            for _, numbers in queue:
                for number in numbers:
                    self._kernel.network.close(number)
        self.shut = peer.shut = True
        peer.changed()


class _Socket:
    """What Python makes of a descriptor of a socket.

    Args:
        kernel: the kernel.
        number: of the descriptor.
    """

    family = socket.AF_INET

    def __init__(self, kernel: Kernel, number: int) -> None:
        self._kernel = kernel
        self._number = number

    def __enter__(self) -> _Socket:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Its number; -1 if it is closed."""
        return self._number

    def close(self) -> None:
        """Close it."""
        if self._number >= 0:
            self._kernel.close(self.detach())

    def detach(self) -> int:
        """Forget the number, and return it."""
        number, self._number = self._number, -1
        return number

    def dup(self) -> Any:
        """Make another one."""
        return self._kernel.socket(fileno=self._kernel.dup(self._number))

    def setblocking(self, flag: bool) -> None:
        """None blocks here."""

    def set_inheritable(self, inheritable: bool) -> None:
        """Say whether it is open in a new program."""
        self._kernel.set_inheritable(self._number, inheritable)


class _ListeningSocket(_Socket):
    """A listening socket, as the network wants it, too: accepting ends with the descriptor."""

    @property
    def _listener(self) -> Listener:
        return self._kernel.file(self._number, _Listening).listener

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self._listener.address

    def getsockname(self) -> tuple[str, int]:
        """The same."""
        return self.address

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        """See Listener."""
        self._listener.setsockopt(level, option, value)

    def accept(self, who: object, accept: Callable[[Endpoint], object]) -> None:
        """Begin to accept."""
        self._listener.accept(who, accept)

    def stop(self, who: object) -> None:
        """Accept no more, and close."""
        if self._number >= 0:
            self._listener.stop(who)
            self._kernel.network.close(self.detach())  # for a process that has died, too


class _PipeSocket(_Socket):
    """One end of a pipe."""

    family = socket.AF_UNIX

    def sendmsg(self, buffers: Sequence[bytes], ancillary: Iterable[tuple[int, int, Any]] = ()) -> int:
        """See socket."""
        packet = b"".join(buffers)
        numbers = [number for _, _, numbers in ancillary for number in numbers]
        self._kernel.end(self._number).send(packet, numbers)
        return len(packet)

    def recvmsg(self, size: int, ancillary: int = 0, flags: int = 0) -> tuple[bytes, list[Any], int, None]:
        """See socket."""
        packet, numbers = self._kernel.end(self._number).receive()
        assert len(packet) <= size
        self._kernel.own(numbers)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", numbers).tobytes())
        return packet, [rights] if numbers else [], 0, None

    def shutdown(self, how: int) -> None:
        """See socket."""
        assert how == socket.SHUT_RDWR
        self._kernel.end(self._number).shut_down()


class Entry:
    """A process in the kernel's table.

    Args:
        pid: its number.
        program: what runs.
        parent: who waits for it; None if nobody does.
    """

    def __init__(self, pid: int, program: Process, parent: Entry | None) -> None:
        self.pid = pid
        self.program = program
        self.parent = parent
        self.children: dict[int, Entry] = {}
        self.status: int | None = None  # how it ends: an exit status, or a signal as a negative number
        self.over = False  # whether it has ended
        self.watched: list[_Watched] = []
        self.handlers: dict[int, tuple[Callable[[], object], Context]] = {}  # by signal
        self.blocked: dict[int, None] = {}  # signals that wait
        self.pending: dict[int, None] = {}  # those that have come meanwhile


class Kernel:
    """The kernel of a host.

    Args:
        loop: the loop, whose kernel it becomes.
        network: has the table of descriptors.
        host: the host.
        main: what a program does: called with its command line and environment; returns an exit status.
        on_end: called when a process is about to be ended by a signal, before its sockets are closed.
        on_over: called when a process has ended for which nobody waits.
    """

    def __init__(
        self,
        loop: SimulatedLoop,
        network: Network,
        host: str,
        *,
        main: Callable[[list[str], Mapping[str, str]], Coroutine[Any, Any, int]],
        on_end: Callable[[Entry], object],
        on_over: Callable[[Entry], object],
    ) -> None:
        self.loop = loop
        self.network = network
        self.host = host
        self.capacity = 212_992  # bytes that wait in a pipe (net.core.wmem_default)
        self.entries: dict[int, Entry] = {}  # by number: those that run, and those for which nobody has waited yet
        self.bugs: list[BaseException] = []  # that have ended a process
        self._main = main
        self._on_end = on_end
        self._on_over = on_over
        self._pids = FIRST_PID
        self._inheritable: dict[int, None] = {}  # descriptors that a new program has
        self._listening: dict[tuple[str, int], int] = {}  # listening sockets by address
        loop.kernel = self

    # Processes.

    def _current(self) -> Entry:
        """Whose call this is.

        Raises:
            Killed: if it has died: the dead call nobody.
        """
        process = PROCESS.get()
        assert process is not None
        if not process.alive:
            raise Killed
        return self.entries[process.pid]

    def spawn(self, command: list[str], environment: Mapping[str, str], parent: Entry | None = None) -> Entry:
        """Start a process. It gets copies of its parent's inheritable descriptors; ``fd=N`` names one in its command.

        Args:
            command: what it is told.
            environment: its variables.
            parent: who waits for it.
        """
        self._pids += 1
        program = Process(f"process {self._pids}", self.host)
        program.pid = self._pids
        entry = self.entries[self._pids] = Entry(self._pids, program, parent)
        if parent is not None:
            parent.children[entry.pid] = entry
            passed = [number for number in self.network.held(parent.program) if number in self._inheritable]
            numbers = {f"fd={number}": f"fd={self.network.duplicate(number, program)}" for number in passed}
            command = [numbers.get(argument, argument) for argument in command]
        self._begin(entry, command, environment)
        return entry

    def _begin(self, entry: Entry, command: list[str], environment: Mapping[str, str]) -> None:
        program = entry.program
        program.on_death.append(partial(self._died, entry, program))
        task = self.loop.start(program, partial(self._main, command, environment))  # type: ignore[arg-type]
        task.add_done_callback(partial(self._returned, entry, program), context=Context())

    def _returned(self, entry: Entry, program: Process, task: Any) -> None:
        """A program has come to its end."""
        if not program.alive:
            return  # or was ended before
        if (exc := task.exception()) is not None:
            self.bugs.append(exc)
        entry.status = 1 if exc is not None else task.result()
        self.loop.kill(program)

    def _died(self, entry: Entry, program: Process) -> None:
        """A program has ended. Its descriptors are closed next."""
        if entry.program is not program:
            return  # the process goes on with another
        if entry.status is None:
            entry.status = -signal.SIGKILL
        for child in entry.children.values():
            child.parent = None
            if child.over:
                self._forget(child)
        entry.children.clear()
        self.loop.call_later(EXIT_SECONDS * self.network.random.random(), self._over, entry, context=Context())

    def _over(self, entry: Entry) -> None:
        """A process has ended, and who waits for it can see that."""
        entry.over = True
        for watched in entry.watched:
            watched.changed()
        if entry.parent is None:
            self._forget(entry)
        else:
            self._signal(entry.parent, signal.SIGCHLD)

    def _forget(self, entry: Entry) -> None:
        del self.entries[entry.pid]
        self._on_over(entry)

    def stop(self, entry: Entry) -> None:
        """Let a process stand still."""
        self.loop.freeze(entry.program)

    def go_on(self, entry: Entry) -> None:
        """Let it run again."""
        if entry.program.frozen:
            self.loop.thaw(entry.program)

    def end(self, number: int) -> _End:
        """The end of a pipe that a descriptor names."""
        self._current()
        return self.file(number, _End)

    def _end_by(self, entry: Entry, number: int) -> None:
        self._on_end(entry)
        entry.status = -number
        self.loop.kill(entry.program)

    def _signal(self, entry: Entry, number: int) -> None:
        if entry.status is not None:
            return  # it has ended, and nobody has waited for it
        if number == signal.SIGKILL:
            self._end_by(entry, number)
        elif number == signal.SIGSTOP:
            self.stop(entry)
        elif number == signal.SIGCONT:
            self.go_on(entry)
        elif number in entry.blocked:
            entry.pending[number] = None
        elif number in entry.handlers:
            callback, context = entry.handlers[number]
            self.loop.call_soon(callback, context=context)
        elif number == signal.SIGTERM:
            self._end_by(entry, number)

    def send_signal(self, entry: Entry, number: int) -> None:
        """Send a signal from outside. If it ends the process that is running, nothing more of that happens."""
        self._signal(entry, number)

    # The module os.

    def getpid(self) -> int:
        """See os."""
        return self._current().pid

    def posix_spawn(self, path: str, command: list[str], environment: Mapping[str, str], setsigmask: object) -> int:
        """See os."""
        return self.spawn(command, environment, self._current()).pid

    def execve(self, path: str, command: list[str], environment: Mapping[str, str]) -> None:
        """See os."""
        entry = self._current()
        old, new = entry.program, Process(entry.program.name, self.host)
        new.pid = entry.pid
        for number in self.network.held(old):
            if number in self._inheritable:
                self.network.descriptor(number).owner = new
        entry.program = new
        entry.handlers.clear()
        self.loop.kill(old)
        self._begin(entry, command, environment)
        if old.frozen:
            self.loop.freeze(new)
        raise Killed

    def kill(self, pid: int, number: int) -> None:
        """See os."""
        current = self._current()
        entry = self.entries.get(pid)
        if entry is None:
            raise ProcessLookupError(errno.ESRCH, "No such process")
        self._signal(entry, number)
        if entry is current and not entry.program.alive:
            raise Killed

    def waitpid(self, pid: int, options: int) -> tuple[int, int]:
        """See os."""
        assert options == os.WNOHANG
        children = self._current().children
        if pid not in children:
            raise ChildProcessError(errno.ECHILD, "No child processes")
        child = children[pid]
        if not child.over:
            return 0, 0
        assert child.status is not None
        del children[pid]
        self._forget(child)
        return pid, -child.status if child.status < 0 else child.status << 8

    def pidfd_open(self, pid: int) -> int:
        """See os."""
        self._current()
        if pid not in self.entries:
            raise ProcessLookupError(errno.ESRCH, "No such process")
        return self._open(_Watched(self.loop, self.entries[pid]))

    def dup(self, number: int) -> int:
        """See os."""
        return self.network.duplicate(number, self._current().program)

    def close(self, number: int) -> None:
        """See os."""
        self._current()
        self._inheritable.pop(number, None)
        self.network.descriptor(number)
        self.network.close(number)

    def set_inheritable(self, number: int, inheritable: bool) -> None:
        """See os."""
        self._current()
        if inheritable:
            self._inheritable[number] = None
        else:
            self._inheritable.pop(number, None)

    def memfd_create(self, name: str) -> int:
        """See os."""
        self._current()
        return self._open(_Memory(self.loop))

    def ftruncate(self, number: int, size: int) -> None:
        """See os."""
        self.mmap(number, size).extend(bytes(size))

    def pwrite(self, number: int, content: bytes, offset: int) -> int:
        """See os."""
        self.mmap(number, 0)[offset : offset + len(content)] = content
        return len(content)

    def pread(self, number: int, size: int, offset: int) -> bytes:
        """See os."""
        return bytes(self.mmap(number, 0)[offset : offset + size])

    # Other modules.

    def mmap(self, number: int, size: int) -> bytearray:
        """See mmap."""
        self._current()
        return self.file(number, _Memory).content

    def open(self, number: int, mode: str = "r", *, closefd: bool = True) -> Any:
        """See open(), for files in memory."""
        memory = self.mmap(number, 0)
        writes = "w" in mode

        def end(content: bytes) -> None:
            if writes:
                memory[:] = content
            if closefd:
                self.close(number)

        opened = _Opened(b"" if writes else bytes(memory), end)
        return opened if "b" in mode else io.TextIOWrapper(opened)

    def socket(self, *, fileno: int) -> Any:
        """See socket."""
        self._current()
        file: object = self.network.descriptor(fileno).endpoint
        if isinstance(file, _End):
            return _PipeSocket(self, fileno)
        if isinstance(file, _Listening):
            return _ListeningSocket(self, fileno)
        return self.network.descriptor(fileno)

    def socketpair(self, family: int, kind: int) -> tuple[Any, Any]:
        """See socket."""
        assert (family, kind) == (socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._current()
        one, other = _End(self), _End(self)
        one.peer, other.peer = other, one
        return _PipeSocket(self, self._open(one)), _PipeSocket(self, self._open(other))

    def pthread_sigmask(self, how: int, signals: Iterable[int]) -> set[int]:
        """See signal."""
        entry = self._current()
        before = set(entry.blocked)
        match how:
            case signal.SIG_BLOCK:
                entry.blocked |= dict.fromkeys(signals)
            case signal.SIG_UNBLOCK:
                entry.blocked = dict.fromkeys(number for number in entry.blocked if number not in signals)
            case signal.SIG_SETMASK:
                entry.blocked = dict.fromkeys(sorted(signals))
        for number in [number for number in entry.pending if number not in entry.blocked]:
            del entry.pending[number]
            self._signal(entry, number)
        return before

    # Listening sockets, see wsd.sockets.

    def listen(self, hosts: Sequence[str], port: int, names: tuple[str, str]) -> list[Any]:
        """Listen on a port of this host.

        Raises:
            StartupError: if somebody does.
        """
        if self._listening.get((self.host, port)):
            raise StartupError(f"the port {port} is taken")
        return [self._listen(port)]

    def another(self, sock: _ListeningSocket) -> Any:
        """Make one more that listens where one does."""
        return self._listen(sock.address[1])

    def _listen(self, port: int) -> Any:
        self._current()
        address = (self.host, port)
        self._listening[address] = self._listening.get(address, 0) + 1

        def closed() -> None:
            self._listening[address] -= 1

        number = self._open(_Listening(self.loop, self.network.listen(self.host, port), closed))
        return _ListeningSocket(self, number)

    # Files.

    def _open(self, file: File) -> int:
        return self.network.open_descriptor(cast(Any, file), PROCESS.get()).fileno()

    def file(self, number: int, kind: type[_T]) -> _T:
        """What a descriptor names.

        Raises:
            OSError: if it is closed.
        """
        file: object = self.network.descriptor(number).endpoint
        assert isinstance(file, kind), file
        return file

    def own(self, numbers: Iterable[int]) -> None:
        """Let descriptors that have come be those of the running process."""
        for number in numbers:
            self.network.descriptor(number).owner = PROCESS.get()

    def holders(self, file: object) -> list[Process]:
        """The processes that have a file, or the end of a pipe in which it waits for them."""
        found: list[Process] = []
        for owner in self.network.owners(cast(Any, file)):
            found += [owner] if isinstance(owner, Process) else self.holders(owner)
        return found

    # What the loop asks.

    def watch(self, number: int, callback: Callable[[], object], *, writing: bool) -> None:
        """Call a function as long as a file is ready."""
        file = self.file(number, File)
        self.unwatch(number, writing=writing)
        watch = file.watches[number, writing] = _Watch(file, callback, writing=writing)
        watch.look()

    def unwatch(self, number: int, *, writing: bool) -> bool:
        """Call it no more; return whether it would have been called."""
        self._current()
        watch = self.file(number, File).watches.pop((number, writing), None)
        if watch is not None:
            watch.on = False
        return watch is not None

    def handle(self, number: int, callback: Callable[[], object]) -> None:
        """Call a function when a signal comes."""
        self._current().handlers[number] = callback, copy_context()
