"""One handshake against the library's own protocol. The reasons to refuse one are in tests/whole/clients."""

from __future__ import annotations

import gc
import weakref

import pytest
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from wsd.clients.handshake import Handshake
from wsd.codes import HandshakeReason

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def test_a_request_is_accepted_when_its_head_is_whole_and_what_comes_behind_it_is_kept() -> None:
    handshake = Handshake(ServerProtocol())
    assert handshake.receive(REQUEST[:50]) is None
    accepted = handshake.receive(REQUEST[50:] + b"behind")
    assert accepted is not None
    assert (accepted.response.status_code, accepted.rest, accepted.subprotocols) == (101, b"behind", False)


def test_the_library_holds_on_to_the_request_and_nothing_is_left_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 KiB of headers for each connection. If a version of the library lets go of the request, clear() can go, too."""
    protocol = ServerProtocol()
    requests: list[weakref.ref[Request]] = []

    def accept(request: Request) -> Response:
        requests.append(weakref.ref(request))
        return ServerProtocol.accept(protocol, request)

    monkeypatch.setattr(protocol, "accept", accept)
    assert Handshake(protocol).receive(REQUEST) is not None
    gc.collect()
    request = requests[0]()
    assert request is not None
    assert list(request.headers.raw_items()) == []


def test_what_is_broken_off_before_the_first_byte_was_silent() -> None:
    handshake = Handshake(ServerProtocol())
    assert handshake.broken_off(HandshakeReason.EOF).reason is HandshakeReason.SILENT
    handshake.receive(b"GET /")
    assert handshake.broken_off(HandshakeReason.EOF).reason is HandshakeReason.EOF
