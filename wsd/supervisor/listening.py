"""The listening sockets of the service: who has them, and which worker gets which.

The supervisor has all of them as long as it lives. A worker gets copies, and so does the one that comes in its place:
clients who wait to be accepted in the meantime are not lost.

Where the supervisor binds by itself, each worker has a socket of its own at each address (SO_REUSEPORT). 1,000 clients
that came one by one, and 6,000 that came at once, spread evenly over two and four workers then (498 and 502; 3,588 and
3,412). With one socket for all it was 191 and 809, because the kernel wakes the worker that waited last. Sockets that
systemd has passed are shared all the same, because a second one could be bound by root alone, or not at all: there the
clients are evened out later, by hand-over.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from wsd import sockets, systemd
from wsd.errors import StartupError
from wsd.supervisor.chosen import Chosen

__all__ = ["Listening", "listen"]


class Listening:
    """The listening sockets.

    Args:
        admin: those of the admin port, on which the supervisor answers.
        sets: those for clients. Each set has one socket for each address; a set is never given up, because those who
            wait in it would be reset.
        shared: whether all workers get the same set.
    """

    def __init__(self, admin: list[socket.socket], sets: list[list[socket.socket]], *, shared: bool) -> None:
        self.admin = admin
        self.sets = sets
        self.shared = shared

    def provide(self, workers: int) -> None:
        """See to it that so many workers can have sockets of their own.

        Raises:
            StartupError: if the system has no room for more.
        """
        try:
            while not self.shared and len(self.sets) < workers:
                self.sets.append([sockets.another(sock) for sock in self.sets[0]])
        except OSError as exc:
            raise StartupError(f"can't listen once more on {self.clients_at()} for another worker: {exc}") from None

    def of_worker(self, number: int, workers: int) -> list[socket.socket]:
        """The sockets that a worker gets. Where there were more workers before, some get those of several.

        Args:
            number: the worker's, from 0.
            workers: how many there are.
        """
        mine = self.sets if self.shared else self.sets[number::workers]
        return [sock for chosen in mine for sock in chosen]

    def clients_at(self) -> str:
        """Where clients can connect, as URLs."""
        return sockets.describe("ws", self.sets[0])

    def admin_at(self) -> str:
        """Where health checks and metrics are, as URLs."""
        return sockets.describe("http", self.admin)

    def close(self) -> None:
        """Close all of them."""
        for sock in [*self.admin, *(sock for chosen in self.sets for sock in chosen)]:
            sock.close()


def listen(chosen: Chosen, passed: Sequence[systemd.Listening]) -> Listening:
    """Open the listening sockets, or take those that systemd has passed.

    Raises:
        StartupError: if it can't listen there, with what to do about it.
    """
    clients, admin = systemd.assign(passed, chosen.port, chosen.admin_port)
    shared = bool(clients)
    made = not admin
    admin = admin or sockets.listen(chosen.admin_host, chosen.admin_port, ("admin_host", "admin_port"))
    try:
        clients = clients or sockets.listen(chosen.host, chosen.port, ("host", "port"))
        listening = Listening(admin, [clients], shared=shared)
        listening.provide(chosen.workers)
    except StartupError:
        for sock in admin if made else ():
            sock.close()
        raise
    return listening
