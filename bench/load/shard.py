"""The generator: thousands of sockets in one process, on epoll, driven by JSON lines on its standard input.

Start it as ``python -m bench.load.shard``; :class:`bench.load.control.Shard` does, and knows the commands. It is a
process of its own, and no library's event loop, for one reason: it shares a machine with what it measures, and whatever
it spends on a message is missing from what it can see. It also tells what it spent: above 85 % of its core its numbers
are its own limits.

Commands, one JSON object a line, each answered by one line with the same ``id``:

==========  ================================================================================================
``open``    open a group of connections (``group.Plan``); answered when all are subscribed or have failed
``stats``   what happened so far
``drain``   wait until all that was published has come, or nothing has come for a while; then as ``stats``
``turn``    end a window of the pauses of a group, and begin the next
``pauses``  the longest pause of each connection of a group, in each window that is over
``storm``   reset all connections of a group and open them again; answered like ``open``
``churn``   set how many connections of a group are replaced per second
``close``   reset all connections of a group
==========  ================================================================================================

It ends when its standard input does.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import socket
import sys
import time
from dataclasses import fields
from typing import Any

from bench.load.dialects import DIALECTS, Refused
from bench.load.group import Group, Link, Plan, Thought
from bench.load.histogram import Histogram
from bench.load.pace import FINAL_CODES, Ramp
from bench.load.scan import Sampler, close_code, frame_at
from bench.load.wire import MARK, client_frame, token
from bench.load.witness import Pauses

__all__: list[str] = []

READ_SIZE = 256 * 1024
"""Bytes read at a time: as much as stays in the core's second-level cache."""

BATCH = 256
"""Sockets served per look at epoll. Small, so that a socket that became readable early is read early: latencies count
the generator's own queue too."""

TICK = 0.05
"""Seconds between looks at what isn't driven by a socket: slow readers, churn, deadlines."""

PORTS_PER_ADDRESS = 25_000
"""Connections per source address. Linux has 28,232 ports for them (net.ipv4.ip_local_port_range)."""

IP_BIND_ADDRESS_NO_PORT = 24
"""ip(7): bind() fixes the address only, and connect() chooses a port that is free for this destination."""

LINGER_NONE = b"\x01\x00\x00\x00\x00\x00\x00\x00"
"""struct linger, on with 0 seconds: close() resets, so a port isn't kept for a minute (TIME-WAIT)."""

NORMAL_CLOSURE = client_frame(b"\x03\xe8", opcode=8)

_STDIN = 0


class Generator:
    """The process."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._links: dict[int, Link] = {}
        self._groups: dict[str, Group] = {}
        self._buffer = bytearray(READ_SIZE)
        self._commands = b""
        self._draining: dict[str, Any] | None = None
        self._drain_moved = (0, 0.0)  # messages, and when that number last grew
        self._running = True
        self._next_tick = 0.0

    # The loop.

    def run(self) -> None:
        """Serve until the standard input ends."""
        os.set_blocking(_STDIN, False)
        self._epoll.register(_STDIN, select.EPOLLIN)
        poll, links = self._epoll.poll, self._links
        while self._running:
            for descriptor, mask in poll(TICK, BATCH):
                link = links.get(descriptor)
                if link is None:
                    if descriptor == _STDIN:
                        self._read_commands()
                elif link.setup is None:
                    self._read(link)
                else:
                    self._set_up(link, mask)
            now = time.monotonic()
            if now >= self._next_tick:
                self._next_tick = now + TICK
                self._tick(now)
            for group in self._groups.values():
                if group.due:
                    self._open_more(group)
        for link in list(self._links.values()):
            link.socket.close()

    def _read(self, link: Link) -> None:
        """The hot path: one read, counted."""
        group = link.group
        try:
            size = link.receive(self._buffer)
        except BlockingIOError:
            return
        except OSError as exc:
            self._gone(link, errno.errorcode.get(exc.errno or 0, "?"))
            return
        if not size:
            self._gone(link, "end of stream")
            return
        now = time.monotonic_ns()
        if link.sampler is not None:
            link.sampler.now = now
        scanner = link.scanner
        count = scanner.feed(self._buffer, size)
        group.bytes += size
        group.reads += 1
        if count:
            group.messages += count
            group.last_message = now
            if link.pauses is not None:
                link.pauses.hear(now)
        if scanner.outbox:
            self._answer(link)

    def _tick(self, now: float) -> None:
        for group in self._groups.values():
            if group.plan.slow:
                self._trickle(group)
            if group.churn:
                self._replace(group)
            if len(group.thoughts):
                self._speak(group, now)
            if len(group.returns):
                group.due.extend(group.returns.due(now))
            if group.opening is not None and now > group.deadline:
                self._give_up(group)
        if self._draining is not None:
            self._check_drained(now)

    def _answer(self, link: Link) -> None:
        """Send the pongs that are due."""
        answer, link.scanner.outbox = link.scanner.outbox, b""
        if answer:
            self._send(link, answer)

    # Opening.

    def _open_more(self, group: Group) -> None:
        now = time.monotonic()
        # Who thinks takes no place in the server's accept queue.
        while group.due and group.setting_up - len(group.thoughts) < group.plan.in_flight and group.ramp.take(now):
            self._connect(group, group.due.popleft())

    def _connect(self, group: Group, number: int) -> None:
        plan = group.plan
        address = plan.addresses[number % len(plan.addresses)]
        topics = group.topics_of(number)
        began = time.monotonic_ns()
        try:
            connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            if plan.receive_buffer:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, plan.receive_buffer)
            if plan.first + plan.count > PORTS_PER_ADDRESS:
                connection.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                connection.bind((f"127.0.0.{2 + number // PORTS_PER_ADDRESS}", 0))
            failed = connection.connect_ex(address)
        except OSError as exc:
            failed = exc.errno or errno.EIO
        if failed not in (0, errno.EINPROGRESS):
            group.failures[errno.errorcode.get(failed, "?")] += 1
            self._come_back(group, number)
            self._check_opened(group)
            return
        setup = DIALECTS[plan.dialect](f"{address[0]}:{address[1]}", topics, group.tokens.get(number, "none"))
        setup.pipelined = not plan.think
        scanner = group.scanner(number, topics, setup.joined)
        sampler = scanner if isinstance(scanner, Sampler) else None
        link = Link(connection, group, number, scanner, setup, began, connection.recv_into, sampler)
        self._links[connection.fileno()] = group.links[connection.fileno()] = link
        group.setting_up += 1
        # On loopback the connection stands when connect() returns, unless the accept queue is full: so write at once.
        try:
            connection.send(setup.request())
            self._epoll.register(connection, select.EPOLLIN)
        except BlockingIOError:
            self._epoll.register(connection, select.EPOLLIN | select.EPOLLOUT)
        except OSError as exc:
            self._fail(link, _reason(connection, exc))

    def _set_up(self, link: Link, mask: int) -> None:
        try:
            if mask & select.EPOLLOUT:
                link.socket.send(link.setup.request() if link.setup else b"")
                self._epoll.modify(link.socket, select.EPOLLIN)
                return
            data = link.socket.recv(READ_SIZE)
            if not data:
                raise Refused("end of stream")
            self._progress(link, link.inbox + data)
        except BlockingIOError:
            return
        except OSError as exc:
            self._fail(link, _reason(link.socket, exc))
        except Refused as exc:
            self._fail(link, str(exc), exc.final)

    def _progress(self, link: Link, data: bytes) -> None:
        setup = link.setup
        assert setup is not None
        answer = b""
        if not link.upgraded:
            head, found, rest = data.partition(b"\r\n\r\n")
            if not found:
                link.inbox = data
                return
            link.upgraded, data = True, rest
            answer = setup.upgraded(head.split(b"\r\n", 1)[0])
        position = 0
        while not setup.done and (frame := frame_at(data, position)):
            begin, end = frame
            if data[position] & 0x0F == 8:
                code = close_code(data[begin:end])
                raise Refused(f"closed with {code}", final=code in FINAL_CODES)
            if data[position] & 0x0F > 8 or MARK in data[begin:end]:
                # A ping, or a message of one of several topics, before all are subscribed.
                self._count(link, data[position:end])
            else:
                answer += setup.hear(data[begin:end])
            position = end
        link.inbox = data[position:]
        if answer and link.group.plan.think:
            thought = Thought(link, answer, time.monotonic_ns())
            link.group.thoughts.begin(thought, link.group.plan.think, time.monotonic())
        elif answer:
            link.socket.send(answer)
        if setup.done:
            self._subscribed(link)

    def _count(self, link: Link, data: bytes) -> None:
        if link.sampler is not None:
            link.sampler.now = time.monotonic_ns()
        if count := link.scanner.walk(data):
            link.group.messages += count
            link.group.last_message = time.monotonic_ns()
        link.group.bytes += len(data)
        self._answer(link)

    def _subscribed(self, link: Link) -> None:
        group = link.group
        link.setup = None
        group.setting_up -= 1
        group.subscribed += 1
        group.returned += group.returns.subscribed(link.number)
        now = time.monotonic_ns()
        group.setups.add((now - link.began) // 1000)
        if group.plan.witnessed:
            link.pauses = Pauses(now)
        rest, link.inbox = link.inbox, b""
        if rest:
            self._count(link, rest)
        if group.plan.slow:
            self._epoll.modify(link.socket, select.EPOLLRDHUP)
        self._check_opened(group)

    def _speak(self, group: Group, now: float) -> None:
        """Send what has been thought about for long enough."""
        for thought in group.thoughts.over(now):
            link = thought.link
            if link.socket.fileno() < 0:
                continue  # it has ended meanwhile
            link.began += time.monotonic_ns() - thought.began  # thinking isn't the server's time
            try:
                link.socket.send(thought.data)
            except OSError as exc:
                self._fail(link, _reason(link.socket, exc))

    def _fail(self, link: Link, reason: str, final: bool = False) -> None:
        link.group.failures[reason] += 1
        self._forget(link)
        if not final:
            self._come_back(link.group, link.number)
        self._check_opened(link.group)

    def _give_up(self, group: Group) -> None:
        """The time to open a group is over."""
        late = [link for link in group.links.values() if link.setup is not None]
        group.failures["timeout"] += len(group.due) + len(late)
        for number in [*group.due, *(link.number for link in late)]:
            self._come_back(group, number)
        group.due.clear()
        for link in late:
            self._forget(link)
        self._opened(group)

    def _come_back(self, group: Group, number: int) -> None:
        if group.plan.reconnect:
            group.returns.ended(number, time.monotonic())

    def _check_opened(self, group: Group) -> None:
        if group.opening is not None and not group.due and not group.setting_up:
            self._opened(group)

    def _opened(self, group: Group) -> None:
        assert group.opening is not None
        self._reply(
            group.opening,
            {
                "seconds": (time.monotonic_ns() - group.opened_at) / 1e9,
                "cpu": (time.process_time_ns() - group.opened_cpu) / 1e9,
                "subscribed": len(group.links),
                "failures": dict(group.failures),
                "setups": group.setups.dump(),
            },
        )
        group.opening = None

    # Ending.

    def _gone(self, link: Link, reason: str) -> None:
        """A subscribed connection has ended."""
        self._forget(link)
        if link.leaving:
            link.group.left += 1
            return
        link.group.broken[reason] += 1
        if link.scanner.closed not in FINAL_CODES:
            self._come_back(link.group, link.number)
            if link.group.plan.reconnect and link.sampler is not None:
                link.sampler.sequences.ended = True

    def _forget(self, link: Link) -> None:
        descriptor = link.socket.fileno()
        del self._links[descriptor], link.group.links[descriptor]
        if link.setup is not None:
            link.group.setting_up -= 1
        link.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
        link.socket.close()  # takes it out of epoll

    def _send(self, link: Link, data: bytes) -> None:
        try:
            link.socket.send(data)
        except OSError:
            return  # the next read tells

    # What isn't driven by sockets.

    def _trickle(self, group: Group) -> None:
        portion = max(int(group.plan.slow * TICK), 1)
        view = memoryview(self._buffer)[:portion]
        for link in [link for link in group.links.values() if link.setup is None]:
            try:
                size = link.socket.recv_into(view)
            except BlockingIOError:
                continue
            except OSError as exc:
                self._gone(link, errno.errorcode.get(exc.errno or 0, "?"))
                continue
            if not size:
                self._gone(link, "end of stream")
                continue
            group.bytes += size
            if count := link.scanner.feed(self._buffer, size):
                group.messages += count
                group.last_message = time.monotonic_ns()

    def _replace(self, group: Group) -> None:
        """Say goodbye to the oldest, and let as many come as have gone."""
        group.churned += group.churn * TICK
        leaving = [link for link in group.links.values() if link.setup is None and not link.leaving]
        for link in leaving[: int(group.churned)]:
            group.churned -= 1
            link.leaving = True
            self._send(link, NORMAL_CLOSURE)
            group.due.append(link.number)

    def _check_drained(self, now: float) -> None:
        command = self._draining
        assert command is not None
        received = sum(group.messages for group in self._groups.values() if group.plan.from_start)
        moved, at = self._drain_moved
        if received != moved:
            self._drain_moved = (received, now)
        expected = sum(group.expected(command["published"], command["topics"]) for group in self._groups.values())
        quiet = received == moved and now - at > command["quiet"]
        if received >= expected or quiet or now > command["deadline"]:
            self._draining = None
            self._reply(command, self._stats(command["published"], command["topics"]) | {"expected": expected})

    # Commands.

    def _read_commands(self) -> None:
        try:
            data = os.read(_STDIN, 1 << 20)
        except BlockingIOError:
            return
        if not data:
            self._running = False
            return
        *lines, self._commands = (self._commands + data).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))

    def _obey(self, command: dict[str, Any]) -> None:
        match command["do"]:
            case "open":
                self._open(command)
            case "stats":
                self._reply(command, self._stats())
            case "drain":
                command["deadline"] = time.monotonic() + command["timeout"]
                self._draining = command
                self._drain_moved = (-1, time.monotonic())
            case "turn":
                now = time.monotonic_ns()
                self._groups[command["group"]].turn(now)
                self._reply(command, {"at": now, "cpu": time.process_time_ns() / 1e9})
            case "pauses":
                self._reply(command, {"pauses": self._groups[command["group"]].pauses()})
            case "storm":
                self._storm(self._groups[command["group"]], command)
            case "churn":
                self._groups[command["group"]].churn = command["rate"]
                self._reply(command, {})
            case "close":
                self._close(self._groups[command["group"]])
                self._reply(command, {})
            case unknown:
                raise ValueError(f"no such command: {unknown}")

    def _open(self, command: dict[str, Any]) -> None:
        known = {each.name for each in fields(Plan)}
        plan = Plan(**{name: value for name, value in command.items() if name in known})
        plan.addresses = [(host, port) for host, port in plan.addresses]
        group = self._groups[plan.group] = Group(plan, ramp=Ramp(plan.ramp, time.monotonic()))
        if plan.key:
            expires = int(time.time()) + 86_400
            group.tokens = {
                number: token(plan.key.encode(), f"client-{number}", expires)
                for number in range(plan.first, plan.first + plan.count)
            }
        self._begin(group, command)

    def _begin(self, group: Group, command: dict[str, Any]) -> None:
        plan = group.plan
        group.opening = command
        group.opened_at, group.opened_cpu = time.monotonic_ns(), time.process_time_ns()
        group.deadline = time.monotonic() + plan.patience
        group.due.extend(range(plan.first, plan.first + plan.count))
        self._check_opened(group)

    def _storm(self, group: Group, command: dict[str, Any]) -> None:
        self._close(group)
        group.setups = Histogram()
        group.ramp = Ramp(0.0, time.monotonic())  # all at once
        self._begin(group, command)

    def _close(self, group: Group) -> None:
        group.due.clear()
        group.returns.clear()
        for link in list(group.links.values()):
            self._forget(link)

    def _stats(self, published: int | None = None, topics: int = 1) -> dict[str, Any]:
        return {
            "at": time.monotonic_ns(),
            "cpu": time.process_time_ns() / 1e9,
            "groups": {name: group.stats(published, topics) for name, group in self._groups.items()},
        }

    def _reply(self, command: dict[str, Any], answer: dict[str, Any]) -> None:
        print(json.dumps({"id": command.get("id"), **answer}), flush=True)


def _reason(connection: socket.socket, exc: OSError) -> str:
    """Why a connection could not be set up.

    A write to a socket whose connect() was refused may say EPIPE; the refusal is then still the socket's own error.
    """
    failed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or exc.errno or 0
    return errno.errorcode.get(failed, "?")


def main() -> int:
    """Run the generator."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    Generator().run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
