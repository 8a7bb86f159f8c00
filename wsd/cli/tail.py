"""``wsd tail``: a client that prints what it receives, and reconnects as PROTOCOL.md asks clients to."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import stat
import sys
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidProxy,
    InvalidStatus,
    InvalidURI,
    ProtocolError,
    ProxyError,
)
from websockets.uri import WebSocketURI, parse_uri

from wsd.backoff import Backoff
from wsd.cli.arguments import TOKEN_VARIABLE, settings
from wsd.cli.output import close_stdout, say, write
from wsd.cli.token import sign, signs_with_shared_secret
from wsd.config import Settings, is_loopback
from wsd.deployment import check_host
from wsd.errors import CommandError, RequestError
from wsd.protocol.codes import Close, ErrorCode, Reaction, Remedy
from wsd.protocol.messages import check_topic

__all__ = ["Tail", "cut", "run", "server_url"]

BACKOFF_FIRST, BACKOFF_MAX = 1.0, 30.0
"""Seconds: bounds of the growing wait before connecting again."""

MAX_RETRY_AFTER = 300.0  # seconds that a server's Retry-After can make us wait

CLOSE_TIMEOUT = 1.0  # seconds that Ctrl-C waits for a server that does not answer

OWN_TOKEN_SECONDS = (
    86_400  # how long a token is valid that tail signs for itself; it signs another when that has expired
)

_LATER = frozenset(code for code in ErrorCode if code.remedy is Remedy.WAIT)
_REACTIONS = {int(close): close.reaction for close in Close}

# The head of a message, as wsd.protocol.messages.message_head writes it.
_HEAD = re.compile(rb'\{"action":"message","topic":("(?:[^"\\]|\\.)*"),"snapshot":')
_BASE64 = b',"encoding":"base64"}'


def run(args: Namespace) -> int:
    """Print the snapshots of topics until Ctrl-C, or until as many as asked for have come.

    Raises:
        SettingsError: if the settings can't be used.
        CommandError: if the server refuses for good.
    """
    for topic in args.topics:
        _check(topic)
    chosen = settings(args, defaults={"auth": "none"})  # it needs no key
    url = _default_url(chosen) if args.url is None else args.url
    uri = _parse(url)
    topics = list(dict.fromkeys(args.topics))
    tail = Tail(
        url,
        topics,
        token=_token(args.token_file, chosen, uri, topics),
        count=args.count,
        write=write,
    )
    try:
        return asyncio.run(_until_stdout_closes(tail, args.timeout))
    except KeyboardInterrupt:
        return 0  # how one ends it


async def _until_stdout_closes(tail: Tail, seconds: float | None) -> int:
    """Run; end also when nobody reads what is printed (``| head``), without a message to find it out by."""
    following = asyncio.current_task()
    assert following is not None
    closed = False

    def stop() -> None:
        nonlocal closed
        closed = True
        following.cancel()

    descriptor = sys.stdout.fileno()
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        # The writing end of a pipe becomes readable when its reading end is closed; so does asyncio see it itself.
        asyncio.get_running_loop().add_reader(descriptor, stop)
    try:
        async with asyncio.timeout(seconds):
            await tail.run()
    except TimeoutError:
        if unmet := tail.unmet():
            raise CommandError(f"{unmet} within {seconds:g} s") from None
    except asyncio.CancelledError:
        if not closed:
            raise
        close_stdout()
    return 0


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


class _Lost(Exception):
    """The connection could not be made, or has ended; another may do.

    Args:
        reason: why.
        wait: seconds to wait at least.
    """

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


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
            except _Lost as exc:
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
            raise self._unconnected(exc) from None

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
            raise CommandError(f"{_text(self._uri)} does not speak the protocol of wsd") from None
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
            say(f"subscribed to {', '.join(self._topics)} at {_text(self._uri)}")

    def _receive_error(self, code: str, text: str) -> None:
        # Replies come in the order of the requests.
        reason = f"{self._asked[0]}: {text}" if self._asked else text
        if code in _LATER:
            raise _Lost(reason)
        raise CommandError(f"{reason} ({code})")

    # The end of a connection.

    def _closed(self, exc: ConnectionClosed) -> Exception:
        if exc.rcvd is None:
            return _Lost(f"lost the connection{f': {exc.sent.reason}' if exc.sent and exc.sent.reason else ''}")
        code, reason = exc.rcvd.code, exc.rcvd.reason
        closed = f"the server closed the connection with {code}{f': {reason}' if reason else ''}"
        match _REACTIONS.get(code, Reaction.RECONNECT):
            case Reaction.STOP:
                return CommandError(closed)
            case Reaction.NEW_TOKEN if self._get_token() == self._token:
                return CommandError(f"{closed}; a new token is needed")
            case _:
                return _Lost(closed)

    # Why there is no connection. What another try may mend is _Lost; what only the user can mend is a CommandError.

    def _unconnected(self, exc: Exception) -> Exception:
        place = _text(self._uri)
        plain = place.replace("wss://", "ws://", 1)
        match exc:
            case InvalidStatus():
                return self._refused(exc)
            case ssl.SSLCertVerificationError():
                return CommandError(f"can't trust {place}: {exc.verify_message}")
            case ssl.SSLEOFError() | ConnectionResetError() if self._uri.secure:
                return self._lost(f"it closed the connection during the TLS handshake; without TLS it is {plain}")
            case ssl.SSLError(reason="WRONG_VERSION_NUMBER" | "PACKET_LENGTH_TOO_LONG" | "RECORD_LAYER_FAILURE"):
                return CommandError(f"what answers at {place} does not speak TLS: use {plain}, or another port")
            case ssl.SSLError():
                return CommandError(f"no TLS with {place}: {exc.reason or exc}")
            case InvalidMessage(__cause__=EOFError() | ConnectionError()):
                hint = "" if self._uri.secure else f"; with TLS it is {place.replace('ws://', 'wss://', 1)}"
                return self._lost(f"it closed the connection without an answer{hint}")
            case InvalidMessage():
                hint = "" if self._uri.secure else f", or TLS: {place.replace('ws://', 'wss://', 1)}"
                return CommandError(f"what answers at {place} does not speak HTTP; is it another port{hint}?")
            case ProxyError():
                return self._lost(f"the proxy in the environment refuses: {_reason(exc)}")
            case InvalidHandshake() | ProtocolError():
                return CommandError(f"what answers at {place} does not speak WebSocket: {_reason(exc)}")
            case TimeoutError():
                return self._lost("no answer in time")
            case _:
                return self._lost(_reason(exc))

    def _lost(self, reason: str) -> _Lost:
        return _Lost(f"can't connect to {_text(self._uri)}: {reason}")

    def _refused(self, exc: InvalidStatus) -> Exception:
        response, place = exc.response, _text(self._uri)
        status = f"{response.status_code} {response.reason_phrase}".rstrip()
        body = bytes(response.body or b"").decode(errors="replace").strip()
        # A page of HTML, which a proxy in between may send, says nothing on a terminal.
        body = f": {body}" if 0 < len(body) <= 200 and not body.startswith("<") else ""
        if response.status_code in (401, 403, 414, 431):  # they are said of this request, not of the place
            return CommandError(f"{place} refused the connection with {status}{body}")
        if response.status_code < 500 and response.status_code not in (408, 429):
            return CommandError(f"an HTTP server that does not speak WebSocket answers at {place}: {status}{body}")
        wait = response.headers.get("Retry-After", "")
        return _Lost(
            f"{place} refused the connection with {status}{body}",
            min(float(wait), MAX_RETRY_AFTER) if re.fullmatch(r"[0-9]{1,9}", wait) else 0.0,
        )


# What is given


def _check(topic: str) -> None:
    try:
        check_topic(topic)
    except RequestError as exc:
        raise CommandError(f"{topic!r}: {exc.message}", status=2) from None


def server_url(hosts: Sequence[str], port: int) -> str:
    """Return where a client on this machine reaches a daemon that listens on `hosts`: at the first of them."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(hosts[0], hosts[0])
    return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"


def _default_url(chosen: Settings) -> str:
    if not chosen.port:
        raise CommandError("port is 0, any free one: give --url ws://HOST:PORT", status=2)
    return server_url(chosen.host, chosen.port)


def _parse(url: str) -> WebSocketURI:
    wanted = "expected ws://HOST:PORT or wss://HOST"
    if not url.isprintable() or " " in url:
        raise CommandError(f"url: white space or a control character in it; {wanted}", status=2)
    try:
        uri = parse_uri(url)
        port = urlsplit(url).port
    except InvalidURI as exc:
        hint = f"; did you mean ws://{url}?" if re.fullmatch(r"[\w.-]+(:[0-9]+)?", url) else ""
        raise CommandError(f"url: {exc.msg}; {wanted}{hint}", status=2) from None
    except ValueError:  # a port that is none, brackets that don't close
        raise CommandError(f"url: {wanted}", status=2) from None
    if port == 0:  # which the library takes for none
        raise CommandError(f"url: nobody listens on port 0; {wanted}", status=2)
    try:
        check_host(uri.host)
    except ValueError as exc:
        raise CommandError(f"url: allowed: {exc}; {wanted}", status=2) from None
    return uri


def _token(file: str | None, chosen: Settings, uri: WebSocketURI, topics: Sequence[str]) -> Callable[[], str | None]:
    """Return what gets a token for each connection."""
    if file == "-":
        standard_input = _clean(sys.stdin.read(), "standard input")
        return lambda: standard_input
    if file is not None:
        return lambda: _read(file)
    if TOKEN_VARIABLE in os.environ:
        variable = _clean(os.environ[TOKEN_VARIABLE], TOKEN_VARIABLE)
        return lambda: variable
    # A token signed with this machine's secret is none of another machine's business.
    if signs_with_shared_secret(chosen) and is_loopback(uri.host):
        algorithm, key = chosen.jwt_algorithms[0], chosen.key()
        return lambda: sign(chosen, algorithm, key, subject="wsd-tail", topics=topics, seconds=OWN_TOKEN_SECONDS)
    return lambda: None


def _read(file: str) -> str:
    try:
        return _clean(Path(file).read_text("ascii"), file)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no path, or no text"
        raise CommandError(f"token_file: can't read {file!r}: {reason}") from None


def _clean(token: str, place: str) -> str:
    # base64url and dots (RFC 7515, section 7.1); with authentication off any text will do.
    token = token.strip()
    if not token.isascii() or not token.isprintable() or not token:
        raise CommandError(f"{place} holds no token", status=2)
    return token


def _text(uri: WebSocketURI) -> str:
    """Write a URI without what may be secret in it: user, password and query."""
    host = f"[{uri.host}]" if ":" in uri.host else uri.host
    return f"{'wss' if uri.secure else 'ws'}://{host}:{uri.port}{uri.path.removesuffix('/')}"


def _reason(exc: Exception) -> str:
    # asyncio puts the address, which the line names already, where the system's words should be.
    if isinstance(exc, ConnectionError) and exc.errno:
        return os.strerror(exc.errno)
    if isinstance(exc, socket.gaierror):
        return f"the host's name can't be resolved: {exc.strerror}"
    return str(exc) or type(exc).__name__
