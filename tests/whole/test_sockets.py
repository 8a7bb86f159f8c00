"""Listening sockets: real ones, of both families where the machine has them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from bench.processes import free_port
from tests.lib.marks import needs_ipv6
from wsd import sockets
from wsd.errors import StartupError

NAMES = ("admin_host", "admin_port")


@contextmanager
def listening(hosts: Sequence[str], port: int = 0) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(sock) for sock in sockets.listen(hosts, port, NAMES)]


def reaches(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=10).close()
    except OSError:
        return False
    return True


def test_one_address() -> None:
    with listening(["127.0.0.1"]) as made:
        port = sockets.port_of(made)
        assert sockets.describe("ws", made) == f"ws://127.0.0.1:{port}"
        assert reaches("127.0.0.1", port)
        assert not reaches("127.0.0.2", port)
    assert not reaches("127.0.0.1", port)


def test_several_addresses_share_a_free_port() -> None:
    with listening(["127.0.0.1", "127.0.0.2", "127.0.0.3"]) as made:
        port = sockets.port_of(made)
        assert [sock.getsockname() for sock in made] == [(f"127.0.0.{number}", port) for number in (1, 2, 3)]
        assert all(reaches(f"127.0.0.{number}", port) for number in (1, 2, 3))


def test_a_free_port_is_looked_for_until_all_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel gives the first address a port that is taken on the second."""
    with socket.create_server(("127.0.0.2", 0)) as other:
        taken = other.getsockname()[1]
        bind, given = sockets._bind, []

        def unlucky(place: sockets._Place, port: int, *, dual: bool) -> socket.socket:
            given.append(port)
            return bind(place, taken if len(given) == 1 else port, dual=dual)

        monkeypatch.setattr(sockets, "_bind", unlucky)
        with listening(["127.0.0.1", "127.0.0.2"]) as made:
            assert taken != sockets.port_of(made)
            assert given == [0, taken, 0, sockets.port_of(made)]


@needs_ipv6
def test_both_families_by_a_list() -> None:
    with listening(["127.0.0.1", "::1"]) as made:
        port = sockets.port_of(made)
        assert sockets.describe("http", made) == f"http://127.0.0.1:{port} and http://[::1]:{port}"
        assert reaches("127.0.0.1", port) and reaches("::1", port)


@needs_ipv6
@pytest.mark.parametrize(
    ("hosts", "reached", "number"),
    [
        (["::"], ["127.0.0.1", "127.0.0.2", "::1"], 1),
        (["0::0"], ["127.0.0.1", "::1"], 1),
        (["0.0.0.0"], ["127.0.0.1", "127.0.0.2"], 1),
        (["0.0.0.0", "::"], ["127.0.0.1", "::1"], 2),
        (["::", "0.0.0.0"], ["127.0.0.1", "::1"], 2),
        (["127.0.0.1", "::"], ["127.0.0.1", "::1"], 2),
        (["::", "::1"], ["127.0.0.1", "::1"], 1),
        (["127.0.0.1", "0.0.0.0"], ["127.0.0.1", "127.0.0.2"], 1),
        (["127.0.0.1", "127.0.0.1"], ["127.0.0.1"], 1),
    ],
)
def test_addresses_that_stand_for_many(hosts: list[str], reached: list[str], number: int) -> None:
    with listening(hosts) as made:
        assert len(made) == number
        port = sockets.port_of(made)
        everything = ["127.0.0.1", "127.0.0.2", "::1"]
        assert {host for host in everything if reaches(host, port)} >= set(reached)
        if "::" not in hosts and "0::0" not in hosts:
            assert not reaches("::1", port)


def test_a_name_is_looked_up() -> None:
    with listening(["localhost"]) as made:
        assert reaches("localhost", sockets.port_of(made))


def test_a_name_may_have_addresses_that_the_machine_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = socket.getaddrinfo

    def found(host: str, port: int, **options: object) -> list[object]:
        both = ["203.0.113.1", "127.0.0.1"] if host == "both" else ["203.0.113.1", "203.0.113.2"]
        return [answer for address in both for answer in look_up(address, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    with listening(["both"]) as made:
        assert [sock.getsockname()[0] for sock in made] == ["127.0.0.1"]
    with pytest.raises(StartupError, match=r"can't listen on none \(203.0.113.2\) .* no such address"):
        sockets.listen(["none"], 0, NAMES)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("203.0.113.1", ["203.0.113.1 port 0", "no such address", "admin_host", "0.0.0.0"]),
        ("no-such-host.invalid", ["no-such-host.invalid", "has no address", "admin_host"]),
        ("a..b", ["a..b", "has no address", "admin_host"]),
        ("x" * 64 + ".example", ["x" * 64, "has no address", "admin_host"]),
    ],
)
def test_errors_name_the_value_the_setting_and_what_to_do(host: str, words: list[str]) -> None:
    with pytest.raises(StartupError) as caught:
        sockets.listen([host], 0, NAMES)
    assert "\n" not in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_port_that_is_taken_and_that_nothing_is_left_open() -> None:
    with socket.create_server(("127.0.0.2", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartupError) as caught:
            sockets.listen(["127.0.0.1", "127.0.0.2"], port, NAMES)
        assert f"127.0.0.2 port {port} (admin_host, admin_port): the port is taken" in str(caught.value)
        assert f"sport = :{port}" in str(caught.value) and "choose another admin_port" in str(caught.value)
        assert not reaches("127.0.0.1", port)
        assert sockets.is_taken(["127.0.0.1", "127.0.0.2"], port)
        assert not sockets.is_taken(["127.0.0.1"], port)
    assert not sockets.is_taken(["127.0.0.2"], port)
    assert not sockets.is_taken(["a..b"], port)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "CAP_NET_BIND_SERVICE"),
        (errno.EAFNOSUPPORT, "no IPv6"),
        (errno.EMFILE, "out of descriptors"),
        (errno.ENOBUFS, "No buffer space available; look at admin_host and admin_port"),
    ],
)
def test_errors_that_need_another_machine(number: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> socket.socket:
        raise OSError(number, "No buffer space available" if number == errno.ENOBUFS else "")

    monkeypatch.setattr(sockets, "_bind", refuse)
    with pytest.raises(StartupError, match=words):
        sockets.listen(["127.0.0.1"], free_port(), NAMES)


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::", marks=needs_ipv6)])
def test_more_sockets_where_one_listens_each_with_a_queue_of_its_own(host: str) -> None:
    with ExitStack() as stack:
        made = [stack.enter_context(sock) for sock in sockets.listen([host], 0, NAMES)]
        with pytest.raises(StartupError):  # as long as nobody shares the port, it is taken
            sockets.listen([host], sockets.port_of(made), NAMES)
        made += [stack.enter_context(sockets.another(made[0])) for _ in range(3)]
        assert len({sock.getsockname()[1] for sock in made}) == 1
        for _ in range(200):
            stack.enter_context(socket.create_connection(("127.0.0.1", sockets.port_of(made)), timeout=10))
        counts = [len(accepted(sock, stack)) for sock in made]
        assert sum(counts) == 200
        assert min(counts) > 10  # that one of four gets so few of 200 happens once in 10**12 runs


def accepted(sock: socket.socket, stack: ExitStack) -> list[socket.socket]:
    """Accept those who wait."""
    found: list[socket.socket] = []
    while True:
        try:
            found.append(stack.enter_context(sock.accept()[0]))
        except BlockingIOError:
            return found
