"""How a client of each server comes to be subscribed.

A :class:`Setup` leads one connection from its first byte to the moment when every message published from then on
reaches it. It is without I/O: it is told what came, and returns what to send. From then on only ``scan`` looks at the
connection.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench.load.wire import client_frame, topic_name

__all__ = ["DIALECTS", "Refused", "Setup"]

_SESSION = re.compile(rb'"session": ?"([^"]+)"')


class Refused(Exception):
    """The server refused the client.

    Args:
        text: how.
        final: whether it would refuse the client again.
    """

    def __init__(self, text: str, *, final: bool = False) -> None:
        super().__init__(text)
        self.final = final


class Setup:
    """The base of all: an HTTP upgrade (RFC 6455, section 4.1) and nothing more.

    Args:
        host: for the Host header.
        topics: numbers of the topics to subscribe to.
        token: the client's token.
    """

    joined = False  # whether the server's frames may hold several messages, or parts of them

    def __init__(self, host: str, topics: Sequence[int], token: str) -> None:
        self.topics = [topic_name(topic) for topic in topics]
        self.token = token
        self.done = False  # whether the connection is subscribed
        self.pipelined = True  # whether requests are sent without waiting for the reply to the one before
        self._host = host

    def path(self) -> str:
        """What the request asks for."""
        return "/"

    def request(self) -> bytes:
        """The request."""
        return (
            f"GET {self.path()} HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            # The nonce must be 16 bytes; it guards against caches, which this load doesn't meet.
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()

    def upgraded(self, status: bytes) -> bytes:
        """The response has come; its first line is given. Returns what to send.

        Raises:
            Refused: if it is no 101.
        """
        if status.split(b" ")[1:2] != [b"101"]:
            raise Refused(status.decode(errors="replace"))
        return self.begin()

    def begin(self) -> bytes:
        """What to send first."""
        self.done = True
        return b""

    def hear(self, data: bytes) -> bytes:
        """A data frame with this payload has come that is no message. Returns what to send.

        Raises:
            Refused: if it says no.
        """
        raise Refused(f"unexpected: {data[:80]!r}")


class Wsd(Setup):
    """wsd's protocol, which the naive server and the one on Node speak too: see PROTOCOL.md."""

    def begin(self) -> bytes:
        """Wait for the session."""
        self._due = 1 + len(self.topics)  # replies
        self._requests: list[bytes] = []  # that are still to be sent, the next one last
        return b""

    def hear(self, data: bytes) -> bytes:
        """The greeting, and the replies in their order."""
        if b'"connection established"' in data:
            return b""
        if found := _SESSION.search(data):
            session = found[1].decode()
            requests = [("authorization", self.token)] + [("subscribe", topic) for topic in self.topics]
            frames = [
                client_frame(f'{{"action":"{action}","session":"{session}","context":"{context}"}}'.encode())
                for action, context in requests
            ]
            if self.pipelined:
                return b"".join(frames)
            self._requests = frames[::-1]
            return self._requests.pop()
        if b'"session authenticated"' not in data and b'"context subscribed"' not in data:
            raise Refused(data[:120].decode(errors="replace"))
        self._due -= 1
        self.done = not self._due
        return self._requests.pop() if self._requests else b""


class Nats(Setup):
    """The protocol of NATS inside binary frames: docs.nats.io, "Client Protocol"."""

    joined = True

    def begin(self) -> bytes:
        """Wait for INFO."""
        return b""

    def hear(self, data: bytes) -> bytes:
        """INFO, then what answers our PING."""
        if data.startswith(b"INFO"):
            lines = ['CONNECT {"verbose":false,"pedantic":false,"protocol":1}']
            lines += [f"SUB {topic} {number}" for number, topic in enumerate(self.topics, 1)]
            # PONG comes once everything before PING is carried out.
            return client_frame("\r\n".join([*lines, "PING", ""]).encode(), opcode=2)
        if b"-ERR" in data:
            raise Refused(data[:120].decode(errors="replace"))
        self.done = b"PONG" in data
        return b""


class Nchan(Setup):
    """nginx with nchan: the path is the subscription."""

    def path(self) -> str:
        """See the template in servers."""
        return f"/sub/{self.topics[0]}"


class Raw(Setup):
    """The floor: the path names the topics."""

    def path(self) -> str:
        """Names with commas between them."""
        return "/" + ",".join(self.topics)


DIALECTS: dict[str, type[Setup]] = {"wsd": Wsd, "nats": Nats, "nchan": Nchan, "raw": Raw}
"""By the name that a server in ``servers`` has for it."""
