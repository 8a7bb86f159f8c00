"""Who holds a client's socket, and who has said that it has it: looked up in the kernel, and not asked of anybody."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import socket
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.lib.programs import is_alive, state
from tests.lib.waiting import until

__all__ = ["cannot_look", "clients", "freeze", "kill", "others", "thaw", "unheard"]

ESTABLISHED, CLOSE_WAIT = "01", "08"
"""States of a socket in /proc/net/tcp: the kernel's include/net/tcp_states.h."""

SEQPACKET = "0005"
"""The kind of a socket in /proc/net/unix: the pipes of wsd are of this one."""

PIDFD_GETFD = 438
"""The number of the system call pidfd_getfd(2), for which Python has no function; the same on every architecture."""

SO_PEEK_OFF = 42
"""socket(7): where MSG_PEEK looks, for which Python has no name; the same on most architectures."""


def freeze(pids: Collection[int]) -> list[int]:
    """Let processes stand still, all of their threads; return those that have not ended before that."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    until(lambda: all(not is_alive(pid) or state(pid) == "T" for pid in pids), "processes that stand still")
    return [pid for pid in pids if is_alive(pid)]


def thaw(pids: Collection[int]) -> None:
    """Let them go on, if they are there still."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def kill(pid: int) -> None:
    """Kill a process, and wait until it is gone, and what it held, too."""
    os.kill(pid, signal.SIGKILL)
    until(lambda: not is_alive(pid), "the end of a process that was killed")


def _sockets(pid: int) -> Iterator[tuple[int, str]]:
    """The sockets that a process holds: descriptor and inode. Each may be closed before one looks at it."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry)):
                yield int(entry.name), found[1]


def clients(pid: int, port: int) -> set[int]:
    """The clients whose sockets a process holds.

    Args:
        pid: the process.
        port: where the service listens.

    Returns:
        The clients' own ports.
    """
    inodes = {inode for _, inode in _sockets(pid)}
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_, inode = line.split()[:10]
        if int(local.partition(":")[2], 16) == port and state in (ESTABLISHED, CLOSE_WAIT) and inode in inodes:
            found.add(int(remote.partition(":")[2], 16))
    return found


def others(pid: int, port: int) -> int:
    """How many descriptors a process holds that are not of clients."""
    return len(os.listdir(f"/proc/{pid}/fd")) - len(clients(pid, port))


def unheard(pid: int) -> list[dict[str, Any]]:
    """The messages that wait for a process in its pipes. They stay there.

    The process should stand still. Messages that are too long for a packet are left out.
    """
    pipes = {
        inode
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]
        for _, _, _, _, kind, _, inode, *_ in [line.split()]
        if kind == SEQPACKET
    }
    with _opened(pid) as process:
        return [
            message for descriptor, inode in _sockets(pid) if inode in pipes for message in _peek(process, descriptor)
        ]


def cannot_look() -> str:
    """Why this machine does not let one see the messages of another process, or ``""``."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other, _opened(os.getpid()) as process:
        one.send(b'"seen"')
        try:
            return "" if _peek(process, other.fileno()) == ["seen"] else "what waits in a pipe can't be seen"
        except OSError as exc:
            return f"pidfd_getfd: {exc.strerror}"


@contextmanager
def _opened(pid: int) -> Iterator[int]:
    process = os.pidfd_open(pid)
    try:
        yield process
    finally:
        os.close(process)


def _peek(process: int, descriptor: int) -> list[Any]:
    libc = ctypes.CDLL(None, use_errno=True)
    copy = libc.syscall(PIDFD_GETFD, process, descriptor, 0)
    if copy < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    messages = []
    with socket.socket(fileno=copy) as sock, ExitStack() as stack:
        sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 0)
        stack.callback(sock.setsockopt, socket.SOL_SOCKET, SO_PEEK_OFF, -1)
        with suppress(BlockingIOError):
            while packet := sock.recv(2**16, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                if packet.startswith((b"{", b'"')):
                    messages.append(json.loads(packet))
    return messages
