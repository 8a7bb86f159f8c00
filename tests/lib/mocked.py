"""A server that shakes hands as WebSocket servers do, and then does what a test wants."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.servers.floor import accept_response

__all__ = ["Behaviour", "mocked"]

Behaviour = Callable[[socket.socket, int], bool]
"""What a server of the tests does for a connection; whether it then waits for the client to leave, or closes."""


@contextmanager
def mocked(behave: Behaviour) -> Iterator[int]:
    """A server that shakes hands and then does as told, for each connection in a thread."""
    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(connection: socket.socket, number: int) -> None:
            with connection:
                connection.sendall(accept_response(connection.recv(65536)))
                if behave(connection, number):
                    try:
                        while connection.recv(65536):
                            pass
                    except ConnectionError:
                        pass  # the shard resets

        def accept() -> None:
            number = 0
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threads.append(threading.Thread(target=serve, args=(connection, number)))
                threads[-1].start()
                number += 1

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for thread in threads:
                thread.join()
