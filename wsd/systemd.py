"""What systemd is told about the daemon's life, and the sockets with which it listens for the daemon.

The daemon needs none of it: where systemd did not start the process, nothing is sent and no socket is found. Both
protocols are a few lines over environment variables and datagrams, so no library is used for them.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Iterable
from typing import NamedTuple

from wsd.errors import StartupError

__all__ = [
    "Listening",
    "assign",
    "extend_timeout",
    "listen_sockets",
    "notify",
    "ready",
    "reloading",
    "status",
    "stopping",
    "watchdog",
    "watchdog_interval",
]

PATIENCE = 1.0
"""Seconds that systemd may be too busy to take a state. A READY that is lost costs the whole start, a loop that stands
still costs all clients."""

FIRST_DESCRIPTOR = 3
"""Where passed sockets begin: SD_LISTEN_FDS_START of sd_listen_fds(3)."""

CLIENTS, ADMIN = "clients", "admin"
"""The names that FileDescriptorName= gives to our sockets."""


# What systemd is told.


def notify(state: str) -> bool:
    """Send a state to systemd: ``READY=1``, ``STOPPING=1``, ``RELOADING=1``, ``STATUS=...``, one a line.

    The protocol is one datagram to the socket in ``$NOTIFY_SOCKET`` (sd_notify(3)). Nothing is raised, because no
    trouble with systemd may stop the daemon.

    Returns:
        Whether the datagram was handed over; False also where systemd did not start the process.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        # A socket in the abstract name space (unix(7)).
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(PATIENCE)
            # The kernel says that there is room again for a connected socket only.
            sender.connect(address)
            sender.sendall(state.encode(errors="backslashreplace"))
    except (OSError, ValueError):
        return False
    return True


def ready(text: str = "") -> bool:
    """Say that the start is over, or the reload that :func:`reloading` began. The text is a :func:`status`."""
    return notify("READY=1" + _status(text))


def reloading(text: str = "") -> bool:
    """Say that a reload begins. :func:`ready` must follow, also when the reload has failed."""
    # systemd 253 and later compares this with the time at which it asked for the reload; time.monotonic() is
    # CLOCK_MONOTONIC on Linux, which is what sd_notify(3) asks for.
    return notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}" + _status(text))


def stopping(text: str = "") -> bool:
    """Say that the end begins."""
    return notify("STOPPING=1" + _status(text))


def status(text: str) -> bool:
    """Say what `systemctl status` shows: one line for people."""
    return notify(f"STATUS={_one_line(text)}")


def extend_timeout(seconds: float) -> bool:
    """Ask for more time than the unit's TimeoutStartSec= or TimeoutStopSec= gives, if that is needed.

    Args:
        seconds: from now on, within which the start, the reload or the end will be over, or more time is asked for.
            A limit of the unit that is later stays.
    """
    return notify(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")


def watchdog() -> bool:
    """Say that the daemon lives. Due every :func:`watchdog_interval`."""
    return notify("WATCHDOG=1")


def watchdog_interval() -> float | None:
    """Seconds between two signs of life: half of WatchdogSec=, as sd_watchdog_enabled(3) advises; None: none is due.

    It is looked up each time, because a process that executes itself keeps its process id and its environment.
    """
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None  # our parent's
    usec = os.environ.get("WATCHDOG_USEC", "")
    return int(usec) / 2e6 if usec.isascii() and usec.isdigit() and int(usec) else None


def _status(text: str) -> str:
    return f"\nSTATUS={_one_line(text)}" if text else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())  # a line end would begin another state


# The sockets with which systemd listens.


class Listening(NamedTuple):
    """A listening socket that systemd has passed."""

    name: str
    """FileDescriptorName= of its unit; by default the name of the unit."""

    socket: socket.socket
    """TCP; listens, does not block, is closed at an exec."""


def listen_sockets() -> list[Listening]:
    """Take the sockets with which systemd listens for us (sd_listen_fds(3)); empty where there are none.

    Call it once, at the start. The environment variables are removed, because a child would take whatever has these
    numbers for its sockets, and so would this process when it has executed itself.

    Raises:
        StartupError: if one of them is not a listening TCP socket, with what to do about it. None is taken then.
    """
    pid, count, names = (os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return []
    descriptors = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count))
    named = names.split(":") if names else []
    for descriptor in descriptors:
        _check(descriptor)
    listening = []
    for place, descriptor in enumerate(descriptors):
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
        sock.setblocking(False)
        listening.append(Listening(named[place] if place < len(named) else "", sock))
    return listening


def assign(
    listening: Iterable[Listening], port: int, admin_port: int
) -> tuple[list[socket.socket], list[socket.socket]]:
    """Tell the sockets for clients from those for health checks and metrics: by name, or else by port.

    Args:
        listening: what :func:`listen_sockets` returned.
        port: the setting.
        admin_port: the setting.

    Returns:
        The sockets for clients and those for admin. Of each there may be none: then the daemon binds its own.

    Raises:
        StartupError: if a socket has neither one of our names nor one of our ports.
    """
    names = {CLIENTS: CLIENTS, ADMIN: ADMIN}
    ports = {admin_port: ADMIN, port: CLIENTS}
    found: dict[str, list[socket.socket]] = {CLIENTS: [], ADMIN: []}
    for name, sock in listening:
        whose = names.get(name) or ports.get(sock.getsockname()[1])
        if whose is None:
            raise StartupError(
                f"systemd listens on port {sock.getsockname()[1]}, which is neither port ({port}) nor admin_port"
                f" ({admin_port}), and the name of the socket is {name!a}; put FileDescriptorName={CLIENTS} or"
                f" FileDescriptorName={ADMIN} into its unit, or change the port"
            )
        found[whose].append(sock)
    return found[CLIENTS], found[ADMIN]


def _check(descriptor: int) -> None:
    """Raise if a passed descriptor is of no use to us."""
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise _unfit(descriptor, "is no socket")
        # It stays open: detach() takes it away from the object that would close it.
        sock = socket.socket(fileno=descriptor)
    except OSError:
        raise _unfit(descriptor, "is not open") from None
    family, kind = sock.family, sock.type
    try:
        accepts = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    finally:
        sock.detach()
    if family == socket.AF_UNIX:
        raise _unfit(descriptor, "is a Unix socket")
    if family not in (socket.AF_INET, socket.AF_INET6) or kind != socket.SOCK_STREAM:
        raise _unfit(descriptor, "is not TCP, but what ListenDatagram= or ListenNetlink= make")
    if not accepts:
        raise _unfit(descriptor, "is a connection (Accept=yes passes these), or does not listen")


def _unfit(descriptor: int, fault: str) -> StartupError:
    return StartupError(
        f"descriptor {descriptor}, which systemd passed (LISTEN_FDS), {fault}; wsd takes listening TCP sockets: let the"
        " socket unit have ListenStream=PORT or ListenStream=ADDRESS:PORT, Accept=no, and nothing else that listens"
    )
