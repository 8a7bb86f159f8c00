"""RFC 6455 frames, as a server sends them: unmasked, unfragmented, without extensions.

A message is framed once and the same bytes go to every connection. That is allowed because nothing in a server's
frame depends on the connection: servers don't mask (section 5.1), and a frame without RSV1 is valid whatever
extensions were negotiated (RFC 7692, section 6).
"""

from __future__ import annotations

from struct import Struct

__all__ = ["PING", "text_frame"]

# Section 5.2: FIN with opcode 1 (text), then the payload's length in 7 bits, 7 + 16 bits or 7 + 64 bits.
_FIN_TEXT = 0x81
_MEDIUM = Struct("!BBH").pack
_LONG = Struct("!BBQ").pack
_SHORT_HEADERS = tuple(bytes((_FIN_TEXT, length)) for length in range(126))

PING = b"\x89\x00"
"""A ping without application data (section 5.5.2): FIN with opcode 9."""


def text_frame(payload: bytes) -> bytes:
    """Frame one text message.

    Args:
        payload: the message as UTF-8; not checked here.

    Returns:
        The frame's bytes on the wire.
    """
    length = len(payload)
    if length < 126:
        return _SHORT_HEADERS[length] + payload
    if length < 65536:
        return _MEDIUM(_FIN_TEXT, 126, length) + payload
    return _LONG(_FIN_TEXT, 127, length) + payload
