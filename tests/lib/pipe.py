"""A connection to a Redis by hand: for servers that are frozen or away, and for many commands in one write."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import hiredis

from tests.lib.servers import RedisServer
from tests.lib.waiting import PATIENCE

__all__ = ["Pipe", "ask", "redis_subscriber"]

Command = tuple[str | bytes | int, ...]

Reply = Any
"""What hiredis makes of a reply; an error is a ``hiredis.ReplyError``."""


class Pipe:
    """A connection to a Redis that takes several commands in one write.

    Args:
        port: where Redis listens.
        login: arguments of AUTH, if it asks for it.
        patience: seconds to wait for an answer.
    """

    def __init__(self, port: int, login: Sequence[str] = (), patience: float = 30.0) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=patience)
        self._reader = hiredis.Reader(encoding="utf-8", errors="replace")
        if login:
            self.run([("AUTH", *login)])

    def run(self, commands: Sequence[Command]) -> list[Reply]:
        """Run commands; return the replies, with None for those that did not come."""
        replies: list[Reply] = []
        with suppress(OSError):
            self._socket.sendall(b"".join(map(hiredis.pack_command, commands)))  # type: ignore[arg-type]  # its stub
            while len(replies) < len(commands) and (data := self._socket.recv(65_536)):
                self._reader.feed(data)
                while (reply := self._reader.gets()) is not False:
                    replies.append(reply)
        return replies + [None] * (len(commands) - len(replies))

    def repeat(self, command: Command, times: int) -> None:
        """Run one command many times at little cost for this process; it must have a short answer."""
        self._socket.sendall(hiredis.pack_command(command) * times)  # type: ignore[arg-type]  # its stub
        answers = 0
        while answers < times:
            answers += self._socket.recv(65_536).count(b"\n")

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def ask(port: int, *command: str | bytes | int, patience: float = PATIENCE) -> Reply:
    """Run one command on a connection of its own; return the reply.

    Raises:
        hiredis.ReplyError: if that is an error.
        OSError: if there is none in time.
    """
    pipe = Pipe(port, patience=patience)
    try:
        (reply,) = pipe.run([command])
    finally:
        pipe.close()
    if reply is None:
        raise ConnectionError(f"no answer to {command[0]!r}")
    if isinstance(reply, hiredis.ReplyError):
        raise reply
    return reply


class redis_subscriber:
    """A subscriber of a channel that is no daemon; gives an iterator over what it receives."""

    def __init__(self, server: RedisServer, channel: str, command: str = "SUBSCRIBE") -> None:
        self._connection = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
        self._file = self._connection.makefile("rb")
        self._connection.sendall(f"{command} {channel}\r\n".encode())
        assert len([self._file.readline() for _ in range(6)]) == 6

    def __enter__(self) -> Iterator[bytes]:
        return self._messages()

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self._connection.close()

    def _messages(self) -> Iterator[bytes]:
        while True:
            yield [self._file.readline() for _ in range(7)][6].removesuffix(b"\r\n")
