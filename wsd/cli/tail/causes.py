"""Why there is no connection to a server.

What another try may mend is :exc:`Lost`; what only the user can mend is a :exc:`~wsd.errors.CommandError`.
"""

from __future__ import annotations

import os
import re
import socket
import ssl

from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidStatus, ProtocolError, ProxyError
from websockets.uri import WebSocketURI

from wsd.cli.tail.uri import shown
from wsd.errors import CommandError

__all__ = ["Lost", "unconnected"]

MAX_RETRY_AFTER = 300.0  # seconds that a server's Retry-After can make us wait


class Lost(Exception):
    """The connection could not be made, or has ended; another may do.

    Args:
        reason: why.
        wait: seconds to wait at least.
    """

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def unconnected(exc: Exception, uri: WebSocketURI) -> Lost | CommandError:
    """Say why there is no connection, in words for the user.

    Args:
        exc: what connecting has raised.
        uri: where to.
    """
    place = shown(uri)
    fails = f"can't connect to {place}: "
    plain = place.replace("wss://", "ws://", 1)
    match exc:
        case InvalidStatus():
            return _refused(exc, place)
        case ssl.SSLCertVerificationError():
            return CommandError(f"can't trust {place}: {exc.verify_message}")
        case ssl.SSLEOFError() | ConnectionResetError() if uri.secure:
            return Lost(f"{fails}it closed the connection during the TLS handshake; without TLS it is {plain}")
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER" | "PACKET_LENGTH_TOO_LONG" | "RECORD_LAYER_FAILURE"):
            return CommandError(f"what answers at {place} does not speak TLS: use {plain}, or another port")
        case ssl.SSLError():
            return CommandError(f"no TLS with {place}: {exc.reason or exc}")
        case InvalidMessage(__cause__=EOFError() | ConnectionError()):
            hint = "" if uri.secure else f"; with TLS it is {place.replace('ws://', 'wss://', 1)}"
            return Lost(f"{fails}it closed the connection without an answer{hint}")
        case InvalidMessage():
            hint = "" if uri.secure else f", or TLS: {place.replace('ws://', 'wss://', 1)}"
            return CommandError(f"what answers at {place} does not speak HTTP; is it another port{hint}?")
        case ProxyError():
            return Lost(f"{fails}the proxy in the environment refuses: {_reason(exc)}")
        case InvalidHandshake() | ProtocolError():
            return CommandError(f"what answers at {place} does not speak WebSocket: {_reason(exc)}")
        case TimeoutError():
            return Lost(f"{fails}no answer in time")
        case _:
            return Lost(f"{fails}{_reason(exc)}")


def _refused(exc: InvalidStatus, place: str) -> Lost | CommandError:
    response = exc.response
    status = f"{response.status_code} {response.reason_phrase}".rstrip()
    body = bytes(response.body or b"").decode(errors="replace").strip()
    # A page of HTML, which a proxy in between may send, says nothing on a terminal.
    body = f": {body}" if 0 < len(body) <= 200 and not body.startswith("<") else ""
    if response.status_code in (401, 403, 414, 431):  # they are said of this request, not of the place
        return CommandError(f"{place} refused the connection with {status}{body}")
    if response.status_code < 500 and response.status_code not in (408, 429):
        return CommandError(f"an HTTP server that does not speak WebSocket answers at {place}: {status}{body}")
    wait = response.headers.get("Retry-After", "")
    return Lost(
        f"{place} refused the connection with {status}{body}",
        min(float(wait), MAX_RETRY_AFTER) if re.fullmatch(r"[0-9]{1,9}", wait) else 0.0,
    )


def _reason(exc: Exception) -> str:
    # asyncio puts the address, which the line names already, where the system's words should be.
    if isinstance(exc, ConnectionError) and exc.errno:
        return os.strerror(exc.errno)
    if isinstance(exc, socket.gaierror):
        return f"the host's name can't be resolved: {exc.strerror}"
    return str(exc) or type(exc).__name__
