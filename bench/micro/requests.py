"""Requests: a client's text to what the session wants done; and a client's bytes to the reply's."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import jwt
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from bench.micro.fakes import Nowhere
from bench.micro.parts import KEY, LIMITS, MAX_SIZE, REQUEST, House, authenticator, make_token
from bench.micro.work import Comparison, Work, clock
from wsd.auth.grant import OpenAuthenticator
from wsd.clients.session import Effect, Session
from wsd.protocol.messages import PONG

__all__ = ["COMPARISONS", "Authorize", "Exchange", "LibraryExchange", "LoadJson", "LoadToken", "Ping", "Subscribe"]

SESSION = "abcdefghijklmnopqrstuv"  # as long as the real ones
SUBSCRIPTIONS = 64  # in one session
PING = json.dumps({"action": "ping", "id": 17})
SUBSCRIBES = tuple(
    json.dumps({"action": "subscribe", "session": SESSION, "context": f"room.{number}", "id": number})
    for number in range(SUBSCRIPTIONS)
)


class Ping(Work):
    """wsd: receive() of a ping."""

    def __init__(self) -> None:
        self.session = Session(OpenAuthenticator(), LIMITS, 0.0)
        self.effects: list[Effect] = []  # of the last run

    def run(self) -> None:
        """Take a ping."""
        self.effects = self.session.receive(PING, 0.0)


class Subscribe(Work):
    """wsd: receive() of subscriptions, and their confirmations by Redis, in a new session for each run."""

    def __init__(self) -> None:
        self._authenticator = OpenAuthenticator()
        self.effects: list[Effect] = []  # of the last run

    async def time(self, loops: int) -> float:
        """Subscribe; the session is made off the clock."""
        seconds = 0.0
        for _ in range(loops):
            session = Session(self._authenticator, LIMITS, 0.0)
            session.id = SESSION
            effects: list[Effect] = []
            began = clock()
            for number, text in enumerate(SUBSCRIBES):
                effects += session.receive(text, 0.0)
                effects += session.confirmed(f"room.{number}")
            seconds += clock() - began
            self.effects = effects
        return seconds


class Authorize(Work):
    """wsd: receive() of an authorization with an HS256 token."""

    def __init__(self) -> None:
        self.session = Session(authenticator(), LIMITS, 0.0)
        request = {"action": "authorization", "session": self.session.id, "context": make_token(), "id": 17}
        self._text = json.dumps(request)
        self.effects: list[Effect] = []  # of the last run

    def run(self) -> None:
        """Take a token."""
        self.effects = self.session.receive(self._text, 0.0)


class LoadJson(Work):
    """The floor: json.loads() of the same texts."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        self._texts = texts
        self.loaded: Any = None  # the last one

    def run(self) -> None:
        """Load."""
        for text in self._texts:
            self.loaded = json.loads(text)


class LoadToken(Work):
    """The floor: jwt.decode() of the same token."""

    def __init__(self) -> None:
        self._token = make_token()
        self.claims: dict[str, Any] = {}  # the last ones

    def run(self) -> None:
        """Decode."""
        self.claims = jwt.decode(self._token, KEY, algorithms=["HS256"])


def client_frame(text: str) -> bytes:
    """A request on the wire: RFC 6455 has clients mask their frames."""
    return Frame(Opcode.TEXT, text.encode()).serialize(mask=True)


class Exchange(Work):
    """wsd: the bytes of a ping through a connection, to the bytes of its reply."""

    def __init__(self) -> None:
        self.transport = Nowhere()
        self._frame = client_frame(PING)
        self._connection = House(asyncio.get_running_loop().call_soon).connection()
        self._connection.connection_made(self.transport.as_transport())
        self._connection.data_received(REQUEST)

    def run(self) -> None:
        """Receive and reply."""
        self._connection.data_received(self._frame)

    async def close(self) -> None:
        """Disconnect."""
        self._connection.connection_lost(None)


class LibraryExchange(Work):
    """The library's protocol alone: the frame parsed, a reply made beforehand framed."""

    def __init__(self) -> None:
        self._frame = client_frame(PING)
        self._protocol = ServerProtocol(state=OPEN, max_size=MAX_SIZE)
        self.written: list[bytes] = []  # of the last run

    def run(self) -> None:
        """Receive and reply."""
        protocol = self._protocol
        protocol.receive_data(self._frame)
        for _ in protocol.events_received():
            protocol.send_text(PONG)
        self.written = protocol.data_to_send()


COMPARISONS = (
    Comparison(
        "ping",
        "request",
        1,
        "the text of a ping to its reply: Session.receive()",
        Ping,
        {"json.loads alone": partial(LoadJson, (PING,))},
    ),
    Comparison(
        "subscribe",
        "request",
        SUBSCRIPTIONS,
        "the text of a subscription, and its confirmation, to its reply: Session.receive() and confirmed()",
        Subscribe,
        {"json.loads alone": partial(LoadJson, SUBSCRIBES)},
    ),
    Comparison(
        "authorization, HS256",
        "request",
        1,
        "the text of an authorization to its reply: Session.receive()",
        Authorize,
        {"jwt.decode alone": LoadToken},
    ),
    Comparison(
        "ping, bytes to bytes",
        "request",
        1,
        "the frame of a ping to the frame of its reply: Connection.data_received() on a transport that does nothing",
        Exchange,
        {"ServerProtocol alone": LibraryExchange},
    ),
)
