"""The opening handshake: which bytes are the request, how it is answered, and why one is refused. Without I/O.

The library gets the head of the request and nothing behind it, because it takes whatever follows for frames, also
behind a request that is about to be refused, and answers frames before the handshake.

Every way in which a handshake can fail is a :class:`~wsd.codes.HandshakeReason`: the label in
``wsd_refused_handshakes_total``, the status that is answered, and the likely cause, which is what an operator needs to
know.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import NamedTuple, cast

from websockets.exceptions import (
    HeaderLineTooLong,
    InvalidHandshake,
    InvalidHeader,
    InvalidMessage,
    InvalidMethod,
    InvalidOrigin,
    InvalidProtocol,
    InvalidUpgrade,
    RequestLineTooLong,
    TooManyHeaders,
)
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from wsd.codes import MAX_HEADERS, MAX_LINE, MAX_REQUEST, HandshakeReason
from wsd.errors import HandshakeError

__all__ = ["RETRY_AFTER", "Accepted", "Handshake", "RequestHead"]

RETRY_AFTER = 5
"""Seconds, for clients that are refused with 503."""

MAX_DETAIL = 200
"""Characters of what a client sent that a log line repeats, for example its origin."""


_PROXY_V1, _PROXY_V2 = b"PROXY ", b"\r\n\r\n\x00\r\nQUIT\n"
_TLS = b"\x16\x03"
"""The first bytes of a TLS handshake record (RFC 8446, section 5.1: type 22, then the version's major number)."""
_HTTP2 = b"PRI * HTTP/2.0"
_PREFACES = {
    _PROXY_V1: HandshakeReason.PROXY_PROTOCOL,
    _PROXY_V2: HandshakeReason.PROXY_PROTOCOL,
    _TLS: HandshakeReason.TLS,
    _HTTP2: HandshakeReason.HTTP2,
}
"""What other protocols begin with, and the reasons."""

_LONGEST_PREFACE = max(map(len, _PREFACES))

_NO_METHOD = re.compile(rb"[^!#$%&'*+.^_`|~0-9A-Za-z-]")
"""A byte with which no request begins, because it can't be in a method (RFC 9110, section 9.1)."""

_END = re.compile(rb"\r?\n(\r?\n)")
"""The end of a head, also one that doesn't keep to CRLF."""

_REQUEST_LINE = re.compile(rb"[^ \n]+ [^ \n]+ HTTP/1\.[01]\r?\n")
"""The first line of a request that the library can read."""

_METHOD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ")


class Accepted(NamedTuple):
    """A request that the library accepts."""

    response: Response  # to be sent if the client is let in
    rest: bytes  # what came behind the request: frames, if the client is let in
    subprotocols: bool  # whether the client offers some


class Handshake:
    """One opening handshake.

    Args:
        protocol: the library's.
    """

    __slots__ = ("_head", "_protocol")

    def __init__(self, protocol: ServerProtocol) -> None:
        self._head = RequestHead()
        self._protocol = protocol

    def receive(self, data: bytes) -> Accepted | None:
        """Take bytes from the client.

        Returns:
            The request, accepted, or None if there is more of it to come.

        Raises:
            HandshakeError: if the request must be refused. :meth:`refuse` makes the answer.
        """
        parts = self._head.receive(data)
        if parts is None:
            return None
        head, rest = parts
        self._protocol.receive_data(head)
        events = self._protocol.events_received()
        if not events:
            raise _reason_of(self._protocol, self._head.method)
        request = cast(Request, events[0])
        response = self._protocol.accept(request)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            raise _reason_of(self._protocol, request.method)
        accepted = Accepted(response, rest, "Sec-WebSocket-Protocol" in request.headers)
        # The library's parser holds on to the request; its headers are 2 KiB that nobody will look at.
        request.headers.clear()
        return accepted

    def broken_off(self, reason: HandshakeReason) -> HandshakeError:
        """Say why there is no request.

        Args:
            reason: why no more will come. If nothing has come at all, that is the reason.
        """
        return HandshakeError(reason if self._head else HandshakeReason.SILENT)

    def refuse(self, error: HandshakeError) -> Response | None:
        """Make the answer to a request that is refused, if there is one."""
        return _refusal(self._protocol, error, self._head.method)


class RequestHead:
    """Collects the head of a request: everything up to the first empty line."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = bytearray()

    def __len__(self) -> int:
        """How many bytes have come."""
        return len(self._bytes)

    def receive(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Take bytes from the client.

        Returns:
            The head and what came behind it, or None if there is more of the head to come.

        Raises:
            HandshakeError: if it can't become a request.
        """
        head = self._bytes
        before = len(head)
        head += data
        if before < _LONGEST_PREFACE and not self._begins_like_http():
            return None
        found = _END.search(head, max(before - 3, 0))  # the end of an end may be all that is new
        if found is None:
            self._check_part()
            return None
        # The library looks for an end of its own, and must find the same one.
        if head.find(b"\r\n\r\n") != found.end() - 4:
            raise HandshakeError(HandshakeReason.BARE_LF)
        if found.end() > MAX_REQUEST:
            raise HandshakeError(HandshakeReason.TOO_LONG)
        return bytes(head[: found.end()]), bytes(head[found.end() :])

    def _begins_like_http(self) -> bool:
        """Look for other protocols, whose clients would wait for an answer and never send an empty line.

        Returns:
            Whether that is decided; if not, more must come first.
        """
        head = self._bytes
        for preface, reason in _PREFACES.items():
            if head.startswith(preface):
                raise HandshakeError(reason)
            if preface.startswith(head):
                return False
        while head.startswith(b"\r\n"):
            del head[:2]  # RFC 9112, section 2.2: a server should ignore empty lines before the request
        if _NO_METHOD.match(head):
            raise HandshakeError(HandshakeReason.NOT_HTTP)
        return True

    def _check_part(self) -> None:
        """Refuse what can't become a request any more. The library has the same limits, but sees whole heads only."""
        head = self._bytes
        line = head.rfind(b"\n") + 1  # where the last line begins
        if line and not _REQUEST_LINE.match(head):
            raise HandshakeError(HandshakeReason.NOT_HTTP)
        if len(head) - line > MAX_LINE:
            raise HandshakeError(HandshakeReason.HEADER_TOO_LONG if line else HandshakeReason.URI_TOO_LONG)
        if head.count(b"\n") > MAX_HEADERS + 1:
            raise HandshakeError(HandshakeReason.TOO_MANY_HEADERS)
        if len(head) > MAX_REQUEST:
            raise HandshakeError(HandshakeReason.TOO_LONG)

    @property
    def method(self) -> str:
        """The request's method, or ``""`` if that can't be read."""
        found = _METHOD.match(self._bytes)
        return found[1].decode() if found else ""


def _reason_of(protocol: ServerProtocol, method: str) -> HandshakeError:
    """Say why the library refuses a request.

    Args:
        protocol: the library's, which has got the whole head.
        method: of the request.
    """
    exc = protocol.handshake_exc
    if method not in ("GET", ""):
        # Whatever else is wrong with it. The library looks at the body of a POST first.
        return HandshakeError(HandshakeReason.METHOD, method)
    if isinstance(exc, InvalidHeader) and not isinstance(exc, InvalidUpgrade | InvalidOrigin):
        if exc.name == "Sec-WebSocket-Version":
            return HandshakeError(HandshakeReason.VERSION, ascii(exc.value)[:MAX_DETAIL])
        if exc.name == "Sec-WebSocket-Key":
            return HandshakeError(HandshakeReason.KEY)
        return HandshakeError(HandshakeReason.MALFORMED, exc.name)
    reason = next((reason for kind, reason in _REASONS_OF_LIBRARY if isinstance(exc, kind)), HandshakeReason.ERROR)
    if isinstance(exc, InvalidOrigin):
        return HandshakeError(reason, ascii(exc.value)[:MAX_DETAIL])
    if isinstance(exc, InvalidMessage):
        return _reason_of_parser(exc.__cause__)
    return HandshakeError(reason)


_REASONS_OF_LIBRARY: tuple[tuple[type[Exception], HandshakeReason], ...] = (
    (RequestLineTooLong, HandshakeReason.URI_TOO_LONG),
    (HeaderLineTooLong, HandshakeReason.HEADER_TOO_LONG),
    (TooManyHeaders, HandshakeReason.TOO_MANY_HEADERS),
    (InvalidOrigin, HandshakeReason.ORIGIN),
    (InvalidMethod, HandshakeReason.METHOD),
    (InvalidProtocol, HandshakeReason.HTTP_VERSION),
    (InvalidUpgrade, HandshakeReason.UPGRADE),
    (InvalidHandshake, HandshakeReason.MALFORMED),
)
"""The library's exceptions, the special before the general."""


def _reason_of_parser(cause: BaseException | None) -> HandshakeError:
    """Tell apart what the library calls an invalid message. Its texts repeat the request, so they are not passed on."""
    text = str(cause)
    if isinstance(cause, EOFError):
        return HandshakeError(HandshakeReason.BARE_LF)  # the head is whole, so this is a line that doesn't end in CRLF
    if isinstance(cause, NotImplementedError) or text == "unsupported request body":
        return HandshakeError(HandshakeReason.BODY)
    if text.startswith(("invalid HTTP request line", "unsupported protocol")):
        return HandshakeError(HandshakeReason.NOT_HTTP)
    return HandshakeError(HandshakeReason.MALFORMED)


def _refusal(protocol: ServerProtocol, error: HandshakeError, method: str) -> Response | None:
    """Build the answer to a request that is refused, if there is one.

    Args:
        protocol: the library's.
        error: why.
        method: of the request.
    """
    status, cause = error.reason.status, error.reason.cause
    if not status:
        return None
    text = f"{cause} ({error.detail})\n" if error.detail else f"{cause}\n"
    response = protocol.reject(HTTPStatus(status), text)
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["Allow"] = "GET"
    elif status == HTTPStatus.UPGRADE_REQUIRED:
        response.headers["Upgrade"] = "websocket"
        response.headers["Sec-WebSocket-Version"] = "13"
    elif status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = str(RETRY_AFTER)
    if method == "HEAD":
        response.body = b""  # RFC 9110, section 9.3.2; Content-Length stays
    return response
