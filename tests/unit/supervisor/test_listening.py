"""Which worker gets which of the listening sockets."""

from __future__ import annotations

import socket
from typing import cast

from wsd.supervisor.listening import Listening

SETS = [cast(list[socket.socket], [f"{number}a", f"{number}b"]) for number in range(4)]


def test_each_worker_has_sockets_of_its_own() -> None:
    listening = Listening([], SETS, shared=False)
    assert [listening.of_worker(number, 4) for number in range(4)] == SETS


def test_with_fewer_workers_than_before_no_socket_is_without_one() -> None:
    listening = Listening([], SETS, shared=False)
    shares = [listening.of_worker(number, 3) for number in range(3)]
    assert shares == [SETS[0] + SETS[3], SETS[1], SETS[2]]


def test_what_systemd_has_passed_is_for_all() -> None:
    listening = Listening([], SETS[:1], shared=True)
    listening.provide(5)
    assert [listening.of_worker(number, 5) for number in range(5)] == [SETS[0]] * 5
