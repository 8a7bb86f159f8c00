"""A client of wsd: it prints what it receives, and reconnects as PROTOCOL.md asks clients to."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidProxy, ProtocolError
from websockets.uri import parse_uri

from wsd.backoff import Backoff
from wsd.cli.output import say
from wsd.cli.settings import TOKEN_VARIABLE
from wsd.cli.tail.causes import Lost, unconnected
from wsd.cli.tail.uri import shown
from wsd.codes import Close, ErrorCode, Reaction, Remedy
from wsd.config import is_loopback
from wsd.errors import CommandError

__all__ = ["Tail", "cut"]

BACKOFF_FIRST, BACKOFF_MAX = 1.0, 30.0
"""Seconds: bounds of the growing wait before connecting again."""

CLOSE_TIMEOUT = 1.0  # seconds that Ctrl-C waits for a server that does not answer

_LATER = frozenset(code for code in ErrorCode if code.remedy is Remedy.WAIT)
_REACTIONS = {int(close): close.reaction for close in Close}

# The head of a message, as wsd.protocol.messages.message_head writes it.
_HEAD = re.compile(rb'\{"action":"message","topic":("(?:[^"\\]|\\.)*"),"snapshot":')
_BASE64 = b',"encoding":"base64"}'


def cut(message: bytes) -> tuple[str, bytes] | None:
    """Cut topic and snapshot out of a message; return None if it is another kind of message.

    Cut, not parsed: the snapshot's bytes stay the publisher's, and it may be JSON that no parser here takes.
    """
    head = _HEAD.match(message)
    if head is None:
        return None
    # Inside a snapshot these bytes can't be the last: a JSON value does not end so.
    tail = _BASE64 if message.endswith(_BASE64) else b"}"
    return orjson.loads(head[1]), message[head.end() : -len(tail)]


class Tail:
    """A client of wsd.

    Args:
        url: the server.
        topics: what to subscribe to, each once.
        token: returns the token for the next connection, or None to go without.
        count: how many messages to print; None for no limit.
        write: takes a line.
    """

    def __init__(
        self,
        url: str,
        topics: Sequence[str],
        *,
        token: Callable[[], str | None],
        count: int | None,
        write: Callable[[bytes], None],
    ) -> None:
        self._url = url
        self._uri = parse_uri(url)
        self._topics = topics
        self._get_token = token
        self._token: str | None = None  # the one of this connection
        self._count = count
        self._left = count  # messages to print
        self._write = write
        self._session = ""
        self._asked: deque[str] = deque()  # topics whose subscription is unanswered, in order
        self._trouble = "not subscribed"  # why there is no subscription now; "" if there is one
        self._waits = Backoff(BACKOFF_FIRST, BACKOFF_MAX)  # grow while no connection gets as far as being subscribed

    async def run(self) -> None:
        """Print messages until `count` have come.

        Raises:
            CommandError: if the server refuses for good.
        """
        while True:
            try:
                return await self._converse()
            except Lost as exc:
                self._trouble = f"not subscribed ({exc})"
                delay = exc.wait + next(self._waits)
                say(f"{exc}; reconnecting in {delay:.1f} s")
                await asyncio.sleep(delay)

    def unmet(self) -> str:
        """What is wanting if it must end now, or ``""`` if it may."""
        if self._trouble or self._count is None or self._left is None:
            return self._trouble
        return f"{self._count - self._left} of {self._count} messages came"

    async def _converse(self) -> None:
        self._token = self._get_token()
        self._asked.clear()
        connection = await self._connect()
        try:
            await self._follow(connection)
        except ConnectionClosed as exc:
            raise self._closed(exc) from None
        finally:
            # With 1000. An exception that leaves ``async with connection`` would close it with 1011, which looks like a
            # fault of the server in its metrics.
            await connection.close()

    async def _connect(self) -> ClientConnection:
        try:
            return await connect(
                self._url,
                # A proxy can't reach what only this machine can.
                proxy=None if is_loopback(self._uri.host) else True,
                compression=None,
                close_timeout=CLOSE_TIMEOUT,
                max_size=None,  # a payload may be as large as Redis allows
            )
        except InvalidProxy as exc:
            raise CommandError(f"the proxy in the environment can't be used: {exc.msg}") from None
        except (OSError, InvalidHandshake, ProtocolError) as exc:
            raise unconnected(exc, self._uri) from None

    async def _follow(self, connection: ClientConnection) -> None:
        while self._left is None or self._left > 0:
            message = await connection.recv(decode=False)
            if (found := cut(message)) is not None:
                self._print(*found)
            else:
                for request in self._receive(message):
                    await connection.send(orjson.dumps(request), text=True)

    def _print(self, topic: str, snapshot: bytes) -> None:
        # In JSON a line end is white space between two tokens; a line of output stays a line.
        line = snapshot.replace(b"\n", b" ").replace(b"\r", b" ")
        self._write(line if len(self._topics) == 1 else topic.encode() + b"\t" + line)
        if self._left is not None:
            self._left -= 1

    # The conversation: a message in, requests out.

    def _receive(self, message: bytes) -> list[dict[str, str]]:
        try:
            received: dict[str, Any] = orjson.loads(message)
            text = str(received.get("message", ""))
            match received.get("action"):
                case "session":
                    return self._receive_session(received, text)
                case "subscribe":
                    self._receive_subscribed()
                case "error":
                    self._receive_error(str(received.get("code", "")), text)
                case "gap":
                    say(f"{received.get('topic', '')}: {text}")
        except (orjson.JSONDecodeError, AttributeError):
            raise CommandError(f"{shown(self._uri)} does not speak the protocol of wsd") from None
        return []

    def _receive_session(self, received: dict[str, Any], text: str) -> list[dict[str, str]]:
        if "session" in received:
            self._session = str(received["session"])
            return [self._request("authorization", self._token)] if self._token else self._subscribe()
        if text == "session authenticated":
            return self._subscribe()
        if self._token:
            raise CommandError("the server refused the token; its log says why")
        raise CommandError(
            f"the server asks for a token: give --token-file or {TOKEN_VARIABLE} (`wsd token` signs one for tests)"
        )

    def _subscribe(self) -> list[dict[str, str]]:
        self._asked.extend(self._topics)
        return [self._request("subscribe", topic) for topic in self._topics]

    def _request(self, action: str, context: str) -> dict[str, str]:
        return {"action": action, "session": self._session, "context": context}

    def _receive_subscribed(self) -> None:
        if self._asked:
            self._asked.popleft()
        if not self._asked:
            self._waits.reset()
            self._trouble = ""
            say(f"subscribed to {', '.join(self._topics)} at {shown(self._uri)}")

    def _receive_error(self, code: str, text: str) -> None:
        # Replies come in the order of the requests.
        reason = f"{self._asked[0]}: {text}" if self._asked else text
        if code in _LATER:
            raise Lost(reason)
        raise CommandError(f"{reason} ({code})")

    # The end of a connection.

    def _closed(self, exc: ConnectionClosed) -> Exception:
        if exc.rcvd is None:
            return Lost(f"lost the connection{f': {exc.sent.reason}' if exc.sent and exc.sent.reason else ''}")
        code, reason = exc.rcvd.code, exc.rcvd.reason
        closed = f"the server closed the connection with {code}{f': {reason}' if reason else ''}"
        match _REACTIONS.get(code, Reaction.RECONNECT):
            case Reaction.STOP:
                return CommandError(closed)
            case Reaction.NEW_TOKEN if self._get_token() == self._token:
                return CommandError(f"{closed}; a new token is needed")
            case _:
                return Lost(closed)
