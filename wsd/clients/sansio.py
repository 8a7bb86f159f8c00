"""What is ours in the library's protocol, and what is read of it that its documentation doesn't name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import cast

from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

__all__ = ["LIBRARY", "Protocol", "adopt", "close_code", "undo_circle"]

LIBRARY = logging.getLogger("wsd.websockets")
LIBRARY.setLevel(logging.CRITICAL + 1)
"""For the library, which would log a traceback for each connection. Its bugs are logged by us, bounded."""


class Protocol(ServerProtocol):
    """The library's protocol, with two rules of its own."""

    def select_subprotocol(self, subprotocols: Sequence[Subprotocol]) -> Subprotocol | None:
        """Select the first of the operator's that the client offers. No common one is no reason to refuse a client."""
        return next((ours for ours in self.available_subprotocols or () if ours in subprotocols), None)

    def recv_frame(self, frame: Frame) -> None:
        """Take a frame. The library calls a close frame between fragments a breach; RFC 6455 (5.4) permits it."""
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
        super().recv_frame(frame)


def adopt(protocol: ServerProtocol) -> Protocol:
    """Make a protocol ours: the library makes one of its own class."""
    protocol.__class__ = Protocol
    return cast(Protocol, protocol)


def undo_circle(protocol: Protocol) -> None:
    """Free a protocol that is done with.

    The protocol, its parser (a generator) and the exception that ended the parser are a reference cycle. Broken here,
    the cycle is freed now and not by the garbage collector, which runs rarely (`wsd.worker`): 5 MiB more after 30,000
    clients had come and gone in ten minutes.
    """
    protocol.parser.close()
    protocol.parser_exc = protocol.handshake_exc = None


def close_code(protocol: Protocol) -> str:
    """The close code of a connection as a label: few values, although clients may send any."""
    if protocol.close_sent is not None and not protocol.close_rcvd_then_sent:
        return str(int(protocol.close_sent.code))
    if protocol.close_rcvd is None:
        return "1006"
    code = int(protocol.close_rcvd.code)
    return str(code) if code in range(1000, 1016) else "other"
