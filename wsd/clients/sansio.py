"""What is ours in the library's protocol, and what is read of it that its documentation doesn't name."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from typing import cast

from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.streams import StreamReader
from websockets.typing import Subprotocol

__all__ = ["LIBRARY", "Protocol", "adopt", "close_code", "go_on", "undo_circle", "unread"]

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


class _Reader(StreamReader):
    """What the parser reads from: a frame stays in the buffer until it is whole.

    The library's reader deletes each part of a head when the parser takes it, so of a frame in progress the head would
    be known to a suspended generator alone, and the frame could not go on in another process. Ours counts what is
    taken, and deletes it before the next frame: once for each frame and not three times, which is no slower.
    """

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0  # bytes of the frame in progress that the parser has taken

    def at_eof(self) -> Generator[None, None, bool]:
        """Wait for the first byte of a frame, or for the end. The parser asks before each frame."""
        if self.taken:
            del self.buffer[: self.taken]
            self.taken = 0
        while not self.buffer:
            if self.eof:
                return True
            yield
        return False

    def read_exact(self, n: int) -> Generator[None, None, bytearray]:
        """Take so many bytes of a frame."""
        start, end = self.taken, self.taken + n
        while len(self.buffer) < end:
            if self.eof:
                raise EOFError("the stream ends within a frame")
            yield
        self.taken = end
        return self.buffer[start:end]


def adopt(protocol: ServerProtocol) -> Protocol:
    """Make a protocol ours, before it has read anything: the library makes one of its own class."""
    protocol.__class__ = Protocol
    # A reader whose class were changed would have a dictionary, and take 0.1 µs more for each part of a frame.
    protocol.reader = _Reader()
    protocol.parser = protocol.parse()
    next(protocol.parser)
    return cast(Protocol, protocol)


def unread(protocol: Protocol) -> bytes:
    """The beginning of a frame that has not come whole."""
    return bytes(protocol.reader.buffer)


def go_on(max_size: int, fragments: int | None) -> Protocol:
    """Make the protocol of a connection that was opened in another process.

    Args:
        max_size: bytes of a client's message.
        fragments: bytes of the message of which some fragments have come; None if none is in progress.
    """
    protocol = adopt(ServerProtocol(state=OPEN, max_size=max_size, logger=LIBRARY))
    protocol.current_size = fragments
    return protocol


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
