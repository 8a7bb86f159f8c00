"""A network in memory: TCP connections with latency, losses that delay, stalls, resets, partitions and black holes.

An *endpoint* is what the kernel has of a connection, a *descriptor* is what a process has of an endpoint, and a
*transport* what its event loop makes of a descriptor. So an endpoint can be passed to another process and outlive the
transport that it had, and the kernel closes what a process had that has died.

Each direction of a connection is a queue of the kernels' buffers on both ends. A sender whose peer doesn't read, or is
behind a wall, fills them; then its transport keeps the rest, and asks its protocol to pause, as a real one does.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from tests.simulation.loop import PROCESS, Process, SimulatedLoop

__all__ = ["Descriptor", "Endpoint", "Listener", "Network", "Path", "Transport"]

READ_MOST = 256 * 1024
"""Bytes that a transport reads at a time, as uvloop does."""

HIGH_WATER = 64 * 1024
"""Bytes in a transport at which its protocol is asked to pause."""

RETRANSMISSION = 924.0
"""Seconds after which a kernel gives a peer up that acknowledges nothing: 15 retransmissions (tcp(7))."""

CONNECT_PATIENCE = 127.0
"""Seconds after which it gives up to connect: 6 retransmissions of SYN."""

KILOBYTES = 1024


@dataclass
class Path:
    """What the way between two hosts is like. May change while connections use it.

    Args:
        latency: seconds, at least and at most.
        chop: how likely what is sent arrives in pieces.
        lossy: how likely a piece is lost once, and comes after a retransmission.
    """

    latency: tuple[float, float] = (0.0001, 0.0005)
    chop: float = 0.05
    lossy: float = 0.0


SEGMENT = 300
"""Bytes up to which what is written at once arrives at once: TCP sends it in one segment."""


class _Direction:
    """One direction of a connection: the buffers of both kernels, and the way between.

    Args:
        network: the network.
        sender: whose bytes it takes.
        receiver: who gets them.
        capacity: bytes that the kernels keep together.
    """

    def __init__(self, network: Network, sender: Endpoint, receiver: Endpoint, capacity: int) -> None:
        self._network = network
        self._loop = network.loop
        self.sender = sender
        self.receiver = receiver
        self.capacity = capacity
        self.path = network.path(sender.host, receiver.host)
        self.flying: deque[tuple[float, bytes]] = deque()  # when they arrive at the earliest; b"" is the end
        self.arrived = bytearray()
        self.ended = False  # whether the end has arrived
        self.closed = False  # whether the sender has sent its end
        self.stalled_until = 0.0
        self.waiting_since: float | None = None  # when the oldest byte was sent that has not arrived
        self.size = 0  # bytes in both buffers
        self.taken = 0  # bytes in all
        self._last = 0.0  # when the last piece arrives
        self._timer: asyncio.TimerHandle | None = None
        self._patience: asyncio.TimerHandle | None = None  # ends the connection if nothing arrives

    def take(self, data: bytes | memoryview) -> int:
        """Take what there is room for; return how many bytes that is."""
        room = max(self.capacity - self.size, 0)
        taken = bytes(data[:room])
        if taken:
            self.size += len(taken)
            self.taken += len(taken)
            for piece in self._pieces(taken):
                self._send(piece)
        return len(taken)

    def end(self) -> None:
        """The sender sends nothing more."""
        if not self.closed:
            self.closed = True
            self._send(b"")

    def read(self, most: int) -> bytes:
        """Take what has arrived; the sender has room again."""
        data = bytes(self.arrived[:most])
        del self.arrived[:most]
        self.size -= len(data)
        if data:
            self._loop.call_later(self._latency(), self.sender.room_again, context=Context())
        return data

    def _pieces(self, data: bytes) -> list[bytes]:
        random, pieces = self._network.random, []
        while len(data) > SEGMENT and random.random() < self.path.chop:
            at = 1 + int(random.random() * (len(data) - 1))
            pieces.append(data[:at])
            data = data[at:]
        return [*pieces, data]

    def _latency(self) -> float:
        least, most = self.path.latency
        random = self._network.random
        latency = least + (most - least) * random.random()
        if self.path.lossy and random.random() < self.path.lossy:
            latency += 0.2 * 2 ** int(random.random() * 3)
        return latency

    def _send(self, piece: bytes) -> None:
        self._last = max(self._last, self._loop.now + self._latency())
        if not self.flying:
            self.waiting_since = self._loop.now
        self.flying.append((self._last, piece))
        self.hurry()
        if self._patience is None and (self._timer is None or self.stalled_until > self._loop.now):
            self._watch()

    def _watch(self) -> None:
        """Nothing gets through: give up after a time, if the sender still has the connection."""
        self._patience = None
        if self.waiting_since is None:
            return
        due = self.waiting_since + self.sender.user_timeout
        if due <= self._loop.now:
            self.sender.fail(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
        else:
            self._patience = self._loop.call_at(due, self._watch, context=Context())

    def hurry(self) -> None:
        """Look again when the next piece arrives: something about the way has changed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.flying and not self._network.is_cut(self.sender.host, self.receiver.host):
            when = max(self.flying[0][0], self.stalled_until, self._loop.now)
            self._timer = self._loop.call_at(when, self._arrive, context=Context())
        elif self.flying and self._patience is None:
            self._watch()

    def _arrive(self) -> None:
        self._timer = None
        now = self._loop.now
        while self.flying and max(self.flying[0][0], self.stalled_until) <= now:
            piece = self.flying.popleft()[1]
            if self.receiver.closed or self.receiver.error is not None:  # who is not there any more resets
                self.flying.clear()
                self.waiting_since = None
                self.sender.reset_by_peer()
                return
            if piece:
                self.arrived += piece
            else:
                self.ended = True
        self.waiting_since = now if self.flying else None
        self.receiver.readable()
        self.hurry()

    def drop(self) -> None:
        """Forget everything: the connection is reset."""
        self.flying.clear()
        self.arrived.clear()
        self.waiting_since = None
        self.size = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Endpoint:
    """One end of a connection, as the kernel has it. Open as long as somebody has a descriptor of it.

    Args:
        network: the network.
        host: where it is.
        address: its own.
        peer_address: the peer's.
    """

    def __init__(self, network: Network, host: str, address: tuple[str, int], peer_address: tuple[str, int]) -> None:
        self._loop = network.loop
        self.host = host
        self.address = address
        self.peer_address = peer_address
        self.incoming: _Direction
        self.outgoing: _Direction
        self.transport: Transport | None = None
        self.descriptors = 0
        self.closed = False  # whether nobody has a descriptor any more
        self.error: OSError | None = None  # that ended it
        self.user_timeout = RETRANSMISSION

    def close(self) -> None:
        """The last descriptor was closed."""
        self.closed = True
        self.transport = None
        if self.error is not None:
            return
        if self.incoming.arrived:  # what nobody has read makes the kernel reset the connection
            peer = self.outgoing.receiver
            self.incoming.drop()
            self.outgoing.drop()
            self._loop.call_soon(peer.reset_by_peer, context=Context())
        else:
            self.outgoing.end()

    @property
    def has_peer(self) -> bool:
        """Whether the peer still has its end, whatever this end knows."""
        peer = self.outgoing.receiver
        return not peer.closed and peer.error is None

    def readable(self) -> None:
        """Something has arrived."""
        if self.transport is not None:
            self.transport.readable()

    def room_again(self) -> None:
        """There may be room for more."""
        if self.transport is not None:
            self.transport.schedule_write()

    def reset_by_peer(self) -> None:
        """The peer has reset the connection."""
        self.fail(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))

    def fail(self, error: OSError) -> None:
        """The connection has ended with an error."""
        if self.error is None and not self.closed:
            self.error = error
            self.incoming.drop()
            self.outgoing.drop()
            if self.transport is not None:
                self.transport.fail(error)


class Descriptor:
    """What a process has of an endpoint: what Python calls a socket.

    Args:
        network: the network.
        number: its number.
        endpoint: whose it is.
        owner: the process that has it, or whoever carries it.
    """

    family = socket.AF_INET

    def __init__(self, network: Network, number: int, endpoint: Endpoint, owner: object) -> None:
        self._network = network
        self._number = number
        self.endpoint = endpoint
        self.owner = owner
        self.family = socket.AF_INET

    def fileno(self) -> int:
        """Its number."""
        return self._number

    def close(self) -> None:
        """Close it."""
        self._network.close(self._number)

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        """Only one option changes something: TCP_USER_TIMEOUT."""
        if (level, option) == (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT):
            self.endpoint.user_timeout = value / 1000

    def getsockname(self) -> tuple[str, int]:
        """Its address."""
        return self.endpoint.address

    def getpeername(self) -> tuple[str, int]:
        """The peer's address."""
        return self.endpoint.peer_address


class Transport(asyncio.Transport):
    """What a process has of a socket. It behaves as uvloop's.

    Args:
        loop: the loop.
        sock: the socket, which is the transport's from now on.
        protocol: is told.
    """

    def __init__(self, loop: SimulatedLoop, sock: Descriptor, protocol: Any) -> None:
        endpoint = sock.endpoint
        super().__init__({"socket": sock, "peername": endpoint.peer_address, "sockname": endpoint.address})
        self._loop = loop
        self._socket = sock
        self._endpoint = endpoint
        self._protocol = protocol
        self._context = copy_context()  # of the process, in which its callbacks run
        self._buffer = bytearray()
        self._high, self._low = HIGH_WATER, HIGH_WATER // 4
        self._asked_to_pause = False
        self._reading = False
        self._closing = False
        self._lost = False  # whether connection_lost is called, or about to be
        self._at_end = False  # whether eof_received was called
        self._ends = False  # whether the end is to be sent behind the buffer
        self._read_due = False
        self._write_due = False
        endpoint.transport = self

    @property
    def endpoint(self) -> Endpoint:
        """What the kernel has of it."""
        return self._endpoint

    def begin(self) -> None:
        """Tell the protocol, and begin to read."""
        self._protocol.connection_made(self)
        if not self._closing:
            self._reading = True
            self.readable()

    # Reading.

    def pause_reading(self) -> None:
        """See asyncio."""
        self._reading = False

    def resume_reading(self) -> None:
        """See asyncio."""
        if not self._closing:
            self._reading = True
            self.readable()

    def is_reading(self) -> bool:
        """See asyncio."""
        return self._reading

    def readable(self) -> None:
        """Something has arrived: read it at the next turn."""
        if not self._read_due and self._reading:
            self._read_due = True
            self._loop.call_soon(self._read, context=self._context)

    def _read(self) -> None:
        self._read_due = False
        if not self._reading or self._lost:
            return
        incoming = self._endpoint.incoming
        if data := incoming.read(READ_MOST):
            self._protocol.data_received(data)
            if incoming.arrived or incoming.ended:
                self.readable()
        elif incoming.ended and not self._at_end:
            self._at_end = True
            if not self._protocol.eof_received():
                self.close()

    # Writing.

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See asyncio."""
        self._high = HIGH_WATER if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        """See asyncio."""
        return len(self._buffer)

    def write(self, data: Any) -> None:
        """See asyncio. What is written leaves when the turn is over."""
        if self._lost or self._closing or self._ends or not data:
            return
        self._buffer += data
        self.schedule_write()
        if len(self._buffer) > self._high and not self._asked_to_pause:
            self._flush()
            if len(self._buffer) > self._high:
                self._asked_to_pause = True
                self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        """See asyncio."""
        return True

    def write_eof(self) -> None:
        """See asyncio."""
        if not self._ends:
            self._ends = True
            self.schedule_write()

    def schedule_write(self) -> None:
        """There may be room at the next turn."""
        if not self._write_due:
            self._write_due = True
            self._loop.call_soon(self._write_due_now, context=self._context)

    def _write_due_now(self) -> None:
        self._write_due = False
        self.writable()

    def writable(self) -> None:
        """There may be room."""
        if self._lost:
            return
        self._flush()
        if self._asked_to_pause and len(self._buffer) <= self._low:
            self._asked_to_pause = False
            self._protocol.resume_writing()
        if not self._buffer:
            if self._closing:
                self._lose(None)
            elif self._ends:
                self._endpoint.outgoing.end()

    def _flush(self) -> None:
        if self._buffer:
            taken = self._endpoint.outgoing.take(memoryview(self._buffer))
            del self._buffer[:taken]

    # The end.

    def is_closing(self) -> bool:
        """See asyncio."""
        return self._closing

    def close(self) -> None:
        """See asyncio."""
        if not self._closing:
            self._closing = True
            self._reading = False
            self.schedule_write()

    def abort(self) -> None:
        """See asyncio."""
        self._closing = True
        self._reading = False
        self._buffer.clear()
        self._lose(None)

    def fail(self, error: OSError) -> None:
        """The connection has ended."""
        self._closing = True
        self._reading = False
        self._buffer.clear()
        self._lose(error)

    def _lose(self, error: OSError | None) -> None:
        if not self._lost:
            self._lost = True
            self._loop.call_soon(self._tell_lost, error, context=self._context)

    def _tell_lost(self, error: OSError | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            if self._endpoint.transport is self:
                self._endpoint.transport = None
            self._socket.close()


class Listener:
    """A listening socket, which several processes may have. Those who come wait while nobody accepts them.

    Args:
        network: the network.
        host: where it is.
        address: where it listens.
    """

    def __init__(self, network: Network, host: str, address: tuple[str, int]) -> None:
        self._network = network
        self.host = host
        self.address = address
        self.family = socket.AF_INET
        self._user_timeout = RETRANSMISSION
        self._accepting: dict[object, Callable[[Endpoint], object]] = {}
        self._queue: deque[Endpoint] = deque()

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        """Only one option changes something: TCP_USER_TIMEOUT, which those who are accepted inherit (tcp(7))."""
        if (level, option) == (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT):
            self._user_timeout = value / 1000

    def getsockname(self) -> tuple[str, int]:
        """Its address."""
        return self.address

    def come(self, endpoint: Endpoint) -> None:
        """Somebody has connected."""
        endpoint.user_timeout = self._user_timeout
        if self._accepting:
            accepting = list(self._accepting.values())
            accepting[int(self._network.random.random() * len(accepting))](endpoint)
        else:
            self._queue.append(endpoint)

    def accept(self, who: object, accept: Callable[[Endpoint], object]) -> None:
        """Begin to accept."""
        self._accepting[who] = accept
        while self._queue:
            accept(self._queue.popleft())

    def stop(self, who: object) -> None:
        """Accept no more; others may."""
        self._accepting.pop(who, None)

    def close(self) -> None:
        """Nobody has it any more: those who wait are reset, and who comes later is refused."""
        self._accepting.clear()
        self._network.forget(self)
        for endpoint in self._queue:
            endpoint.closed = True
            endpoint.incoming.sender.reset_by_peer()
        self._queue.clear()


class _Server(asyncio.AbstractServer):
    """What create_server returns."""

    def __init__(self, loop: SimulatedLoop, listener: Listener) -> None:
        self._loop = loop
        self._listener: Listener | None = listener

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def is_serving(self) -> bool:
        return self._listener is not None

    def close(self) -> None:
        if self._listener is not None:
            self._listener.stop(self)
            self._listener = None

    async def wait_closed(self) -> None:
        pass

    async def start_serving(self) -> None:
        pass

    async def serve_forever(self) -> None:
        await self._loop.create_future()

    @property
    def sockets(self) -> tuple[Listener, ...]:
        return () if self._listener is None else (self._listener,)


class Network:
    """Hosts, names, and the ways between.

    Args:
        loop: the loop, whose network it becomes.
        random: of what happens by chance.
    """

    def __init__(self, loop: SimulatedLoop, random: Random) -> None:
        self.loop = loop
        self.random = random
        self.names: dict[str, list[str]] = {}  # addresses by name; an address that is no name is its own
        self.capacity = 64 * KILOBYTES
        self.usual = Path()  # what ways are like
        self._listeners: dict[tuple[str, int], list[Listener]] = {}
        self._paths: dict[tuple[str, str], Path] = {}
        self._cut: dict[tuple[str, str], None] = {}
        self.mended: dict[tuple[str, str], float] = {}  # when a way that was cut was mended last
        self._descriptors: dict[int, Descriptor] = {}
        self._numbers = 100
        self._ports = 40_000
        loop.network = self

    # Ways.

    def path(self, one: str, other: str) -> Path:
        """The way from one host to another; both directions have one of their own."""
        path = self._paths.get((one, other))
        if path is None:
            path = self._paths[one, other] = replace(self.usual)
        return path

    @property
    def cuts(self) -> list[tuple[str, str]]:
        """The ways that are cut."""
        return list(self._cut)

    def is_cut(self, one: str, other: str) -> bool:
        """Whether nothing gets from one host to another."""
        return (one, other) in self._cut

    def cut(self, one: str, other: str) -> None:
        """Let nothing through from one host to another. What is sent waits, as the kernel sends it again and again."""
        self._cut[one, other] = None
        self._hurry(one, other)

    def mend(self, one: str, other: str) -> None:
        """Let it through again."""
        self._cut.pop((one, other), None)
        self.mended[one, other] = self.loop.now
        self._hurry(one, other)

    def _hurry(self, one: str, other: str) -> None:
        # Of an end that is closed the kernel still sends what is left, and that it was the end: the other one tells.
        ways = [endpoint.outgoing for endpoint in self.endpoints(one)]
        ways += [endpoint.incoming for endpoint in self.endpoints(other) if endpoint.incoming.sender.closed]
        for way in ways:
            if way.sender.host == one and way.receiver.host == other:
                way.hurry()

    def endpoints(self, host: str) -> list[Endpoint]:
        """The ends of connections at a host that are open."""
        found = {sock.endpoint: None for sock in self._descriptors.values() if sock.endpoint.host == host}
        return [endpoint for endpoint in found if endpoint.error is None]

    # Descriptors.

    def open_descriptor(self, endpoint: Endpoint, owner: object) -> Descriptor:
        """Make a descriptor."""
        self._numbers += 1
        sock = self._descriptors[self._numbers] = Descriptor(self, self._numbers, endpoint, owner)
        endpoint.descriptors += 1
        return sock

    def descriptor(self, number: int) -> Descriptor:
        """The descriptor of a number.

        Raises:
            OSError: if it is closed.
        """
        if number not in self._descriptors:
            raise OSError(errno.EBADF, "Bad file descriptor")
        return self._descriptors[number]

    def duplicate(self, number: int, owner: object) -> int:
        """Make another descriptor of the same endpoint; return its number."""
        return self.open_descriptor(self.descriptor(number).endpoint, owner).fileno()

    def close(self, number: int) -> None:
        """Close a descriptor."""
        sock = self._descriptors.pop(number, None)
        if sock is not None:
            sock.endpoint.descriptors -= 1
            if not sock.endpoint.descriptors:
                sock.endpoint.close()

    def held(self, owner: object) -> list[int]:
        """The descriptors that somebody has."""
        return [number for number, sock in self._descriptors.items() if sock.owner is owner]

    def owners(self, endpoint: Endpoint) -> list[object]:
        """Who has descriptors of an endpoint."""
        return [sock.owner for sock in self._descriptors.values() if sock.endpoint is endpoint]

    def bury(self, process: Process) -> None:
        """A process has died: close what it had."""
        for number in self.held(process):
            self.close(number)

    def _pair(self, client: str, listener: Listener) -> tuple[Endpoint, Endpoint]:
        self._ports += 1
        mine = (client, self._ports)
        one = Endpoint(self, client, mine, listener.address)
        other = Endpoint(self, listener.host, listener.address, mine)
        one.outgoing = other.incoming = _Direction(self, one, other, self.capacity)
        other.outgoing = one.incoming = _Direction(self, other, one, self.capacity)
        return one, other

    # Names and connections.

    async def resolve(self, host: str, port: int) -> list[Any]:
        """Look a name up.

        Raises:
            OSError: if there is no such name.
        """
        await asyncio.sleep(0.001 * self.random.random())
        if host not in self.names and not host[:1].isdecimal():
            raise OSError(errno.ENOENT, "Name or service not known")
        return [(2, 1, 6, "", (address, port)) for address in self.names.get(host, [host])]

    def listen(self, host: str, port: int) -> Listener:
        """Make a listening socket; several may listen at one address."""
        listener = Listener(self, host, (host, port))
        self._listeners.setdefault((host, port), []).append(listener)
        return listener

    def forget(self, listener: Listener) -> None:
        """It listens no more."""
        listeners = self._listeners.get(listener.address, [])
        if listener in listeners:
            listeners.remove(listener)

    def serve(self, protocol_factory: Callable[[], Any], listener: Listener) -> _Server:
        """Accept those who connect, in the running process."""
        context = copy_context()

        process = PROCESS.get()

        def accept(endpoint: Endpoint) -> None:
            self.loop.call_soon(begin, self.open_descriptor(endpoint, process), context=context)

        def begin(sock: Descriptor) -> None:
            Transport(self.loop, sock, protocol_factory()).begin()

        server = _Server(self.loop, listener)
        if process is not None:
            process.on_death.append(server.close)
        listener.accept(server, accept)
        return server

    async def connect(self, protocol_factory: Callable[[], Any], host: str, port: int) -> tuple[Transport, Any]:
        """Connect.

        Raises:
            OSError: if nobody listens there, or nothing gets through.
        """
        process = PROCESS.get()
        mine = process.host if process is not None else "world"
        begun = self.loop.now
        while self.is_cut(mine, host) or self.is_cut(host, mine):
            await asyncio.sleep(1.0)
            if self.loop.now - begun > CONNECT_PATIENCE:
                raise TimeoutError(errno.ETIMEDOUT, f"Connect call failed ({host!r}, {port})")
        await asyncio.sleep(self._round_trip(mine, host))
        listeners = self._listeners.get((host, port))
        if not listeners:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"Connect call failed ({host!r}, {port})")
        listener = listeners[int(self.random.random() * len(listeners))]
        one, other = self._pair(mine, listener)
        protocol = protocol_factory()
        transport = Transport(self.loop, self.open_descriptor(one, process), protocol)
        listener.come(other)
        transport.begin()
        return transport, protocol

    def _round_trip(self, one: str, other: str) -> float:
        total = 0.0
        for path in (self.path(one, other), self.path(other, one)):
            least, most = path.latency
            total += least + (most - least) * self.random.random()
        return total

    async def open(self, protocol_factory: Callable[[], Any], sock: Descriptor) -> tuple[Transport, Any]:
        """Go on with a socket of which the running process has a descriptor.

        Raises:
            OSError: if the connection has ended.
        """
        if sock.endpoint.error is not None:
            raise sock.endpoint.error
        protocol = protocol_factory()
        transport = Transport(self.loop, sock, protocol)
        await asyncio.sleep(0)
        transport.begin()
        return transport, protocol
