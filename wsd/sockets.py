"""Listening sockets: made, bound and named here, and handed to the servers.

The event loop's ``create_server(host, port)`` would not do: it makes ``::`` a socket for IPv6 alone, and its errors
don't say which setting is wrong.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple, TypeAlias

from wsd.errors import StartupError

__all__ = ["BACKLOG", "another", "describe", "is_taken", "listen", "port_of"]

BACKLOG = 4096
"""Connections that may wait to be accepted: a storm of reconnects. Linux caps it at net.core.somaxconn."""

ATTEMPTS = 20
"""How often a free port is looked for that is free on all addresses."""

_SocketAddress: TypeAlias = "tuple[str, int] | tuple[str, int, int, int]"


class _Place(NamedTuple):
    """Where a socket is to listen."""

    host: str  # as it was given
    family: socket.AddressFamily
    address: _SocketAddress


def listen(hosts: Sequence[str], port: int, names: tuple[str, str]) -> list[socket.socket]:
    """Listen on all addresses of some hosts, on one port.

    ``::`` is every address of both families, unless an IPv4 address is given beside it.

    Args:
        hosts: IP addresses and host names.
        port: the port; 0 takes one that is free on all of them.
        names: the settings of hosts and port, for the error.

    Returns:
        Sockets that listen. Clients may connect from now on, but nobody accepts them yet.

    Raises:
        StartupError: if it can't listen there, with what to do about it.
    """
    for attempt in range(ATTEMPTS):
        place = _Place(hosts[0], socket.AF_INET, (hosts[0], port))
        try:
            with ExitStack() as stack:
                sockets: list[socket.socket] = []
                places = _places(hosts, port, names)
                dual = all(place.family == socket.AF_INET6 for place in places)
                for place in places:
                    try:
                        sockets.append(stack.enter_context(_bind(place, port_of(sockets) or port, dual=dual)))
                    except OSError as exc:
                        if not _may_do_without(place, places, exc):
                            raise
                if not sockets:
                    raise OSError(errno.EADDRNOTAVAIL, "")
                stack.pop_all()
                return sockets
        except OSError as exc:
            if port or exc.errno != errno.EADDRINUSE or attempt == ATTEMPTS - 1:
                raise StartupError(_explain(exc, place, port, names)) from None
    raise AssertionError("the last attempt returns or raises")


def is_taken(hosts: Sequence[str], port: int) -> bool:
    """Whether somebody else listens on a port at one of the hosts."""
    try:
        with ExitStack() as stack:
            places = _places(hosts, port, ("host", "port"))
            for place in places:
                stack.enter_context(_bind(place, port, dual=all(other.family == socket.AF_INET6 for other in places)))
    except OSError as exc:
        return exc.errno == errno.EADDRINUSE
    except StartupError:
        return False  # no such host; listen() says so
    return False


def another(sock: socket.socket) -> socket.socket:
    """Make one more socket that listens where one listens already (SO_REUSEPORT, socket(7)).

    The kernel spreads new connections over all of them, at random, and each has a queue of its own. The first socket
    was bound without the option, so that a port that somebody else has was an error, and gets it now.

    Raises:
        OSError: if the system has no room.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made = socket.socket(sock.family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            only = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        made.bind(sock.getsockname())
        made.listen(BACKLOG)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made


def port_of(sockets: Sequence[socket.socket]) -> int:
    """The port that these sockets listen on; 0 if there are none."""
    return int(sockets[0].getsockname()[1]) if sockets else 0


def describe(scheme: str, sockets: Sequence[socket.socket]) -> str:
    """Where these sockets listen, as URLs."""
    addresses = (sock.getsockname()[:2] for sock in sockets)
    return " and ".join(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}" for host, port in addresses)


def _places(hosts: Sequence[str], port: int, names: tuple[str, str]) -> list[_Place]:
    """Look up the hosts, each address once."""
    places: dict[object, _Place] = {}
    for host in hosts:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (socket.gaierror, UnicodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else str(exc)
            raise StartupError(
                f"can't listen on {host!a} ({names[0]}): it has no address ({reason}); give an IP address of this"
                " machine, 0.0.0.0 for every IPv4 address, or :: for every address of both families"
            ) from None
        for family, _, _, _, address in found:
            if family in (socket.AF_INET, socket.AF_INET6):
                place = _Place(host, family, address)  # type: ignore[arg-type]
                places.setdefault(address, place)
    # 0.0.0.0 and :: cover every other address of their family, and can't be bound beside one.
    wild = {place.family: place for place in places.values() if place.address[0] in ("0.0.0.0", "::")}
    return [place for place in places.values() if wild.get(place.family, place) is place]


def _bind(place: _Place, port: int, *, dual: bool) -> socket.socket:
    sock = socket.socket(place.family, socket.SOCK_STREAM)
    try:
        # Without it a restart has to wait until the kernel forgets the connections of the old process (TIME_WAIT).
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if place.family == socket.AF_INET6:
            both = dual and place.address[0] == "::"
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
        sock.bind((place.address[0], port, *place.address[2:]))
        sock.listen(BACKLOG)  # only now is a port refused that two sockets with SO_REUSEADDR have bound
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _may_do_without(place: _Place, places: list[_Place], exc: OSError) -> bool:
    """Whether the name has other addresses: where there is no IPv6, localhost may still be ::1 and 127.0.0.1."""
    if exc.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) or _is_address(place.host):
        return False
    return sum(other.host == place.host for other in places) > 1


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _explain(exc: OSError, place: _Place, port: int, names: tuple[str, str]) -> str:
    host_name, port_name = names
    where = place.address[0]
    host = where if where == place.host else f"{place.host} ({where})"
    match exc.errno:
        case errno.EADDRINUSE:
            reason = f"the port is taken (`ss -ltnp 'sport = :{port}'` says by whom); choose another {port_name}"
        case errno.EADDRNOTAVAIL:
            reason = (
                f"this machine has no such address (`ip address` lists those it has); choose another {host_name},"
                " or 0.0.0.0 or :: for every address"
            )
        case errno.EAFNOSUPPORT:
            reason = f"this machine has no IPv6; choose an IPv4 address as {host_name}, or 0.0.0.0 for every one"
        case errno.EACCES:
            reason = (
                f"a port below 1024 needs CAP_NET_BIND_SERVICE (AmbientCapabilities= in systemd); grant it, or choose"
                f" another {port_name}"
            )
        case errno.EMFILE | errno.ENFILE:
            reason = "out of descriptors; raise the limit of open files (ulimit -n, LimitNOFILE= in systemd)"
        case _:
            reason = f"{exc.strerror or exc}; look at {host_name} and {port_name}"
    return f"can't listen on {host} port {port} ({host_name}, {port_name}): {reason}"
