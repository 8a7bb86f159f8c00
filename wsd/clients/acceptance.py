"""The way into a connection for a client that comes anew: an accepted socket, and the opening handshake.

``websockets.serve`` makes one :class:`AcceptedConnection` for each accepted socket, and gives it the library's sans-I/O
:class:`~websockets.server.ServerProtocol`. The handshake is answered where its bytes arrive
(:mod:`wsd.clients.handshake` decides), and the greeting leaves in the same write.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from websockets.asyncio.server import Server
from websockets.server import ServerProtocol

from wsd.backoff import spread
from wsd.clients import sansio
from wsd.clients.connection import Shared
from wsd.clients.handshake import Accepted, Handshake
from wsd.clients.moving import MovableConnection
from wsd.clients.phases import Phase
from wsd.clients.session import Session
from wsd.codes import HandshakeReason
from wsd.errors import HandshakeError
from wsd.protocol.frames import text_frame
from wsd.protocol.messages import CONNECTED, session_created

__all__ = ["AcceptedConnection"]

_GREETING = text_frame(CONNECTED)

logger = logging.getLogger(__name__)


class AcceptedConnection(MovableConnection):
    """A client's socket from its opening handshake on.

    Args:
        shared: what all connections share.
        protocol: the library's sans-I/O protocol.
        server: the library's server, which has no part in what follows.
        options: the library's options for its own connections; they have no effect.
    """

    __slots__ = ("_accepted_at", "_handshake")

    def __init__(
        self, shared: Shared, protocol: ServerProtocol, server: Server | None = None, **options: object
    ) -> None:
        super().__init__(shared, sansio.adopt(protocol), Phase.HANDSHAKE)
        self._accepted_at = shared.sweep.time()
        self._handshake: Handshake | None = Handshake(self.protocol)  # until it is answered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new socket."""
        super().connection_made(transport)
        if self._shared.door.entered(self):
            self._shared.sweep.schedule(self, self._ends_at)
        else:
            self._refuse_handshake(HandshakeError(HandshakeReason.CROWD))

    def _receive_early(self, data: bytes) -> bytes:
        """Take a part of the request, and answer it when its head is whole."""
        assert self._handshake is not None
        try:
            accepted = self._handshake.receive(data)
            if accepted is None:
                return b""
            if (reason := self._shared.door.refusal()) is not None:
                raise HandshakeError(reason)
        except HandshakeError as exc:
            self._refuse_handshake(exc)
            return b""
        self._open(accepted)
        return accepted.rest

    def _open(self, accepted: Accepted) -> None:
        """Let the client in. The greeting leaves in the same write as the response."""
        shared, protocol = self._shared, self.protocol
        shared.door.admitted()
        if accepted.subprotocols and protocol.subprotocol is None:
            shared.refusals.subprotocols(self.peer)
        protocol.send_response(accepted.response)
        self._handshake = None
        now = shared.sweep.time()
        session = Session(shared.authenticator, shared.limits, now)
        # A random first interval, so that the pings of a reconnected fleet don't come in step.
        self._begin(session, now + spread(shared.ping_interval))
        shared.metrics.handshakes += 1
        shared.metrics.handshake_seconds.observe(now - self._accepted_at)
        if logger.isEnabledFor(logging.DEBUG):
            self._debug("connected")
        self.write(b"".join((*protocol.data_to_send(), _GREETING, text_frame(session_created(session.id)))))

    def _break_off(self, reason: HandshakeReason) -> bool:
        """Refuse a handshake of which nothing more will come; return whether there is one."""
        if self._handshake is None:
            return False
        self._refuse_handshake(self._handshake.broken_off(reason))
        return True

    def _refuse_handshake(self, error: HandshakeError) -> None:
        """Answer with something else than 101 where there is somebody to answer, and end the connection."""
        assert self._handshake is not None
        shared, handshake = self._shared, self._handshake
        self._handshake = None
        if error.reason is HandshakeReason.ERROR:
            shared.refusals.bug(self.protocol.handshake_exc)
        shared.refusals.handshake(error, self.peer)
        response = handshake.refuse(error)
        if response is None:
            self.abort()
            return
        self._enter(Phase.ENDING)
        with suppress(OSError, RuntimeError):  # uvloop raises RuntimeError on a closing transport
            self.transport.write(response.serialize())
            self._write_end()
        shared.door.refused(self)
