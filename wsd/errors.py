"""The exceptions of wsd.

::

    WsdError
    ├── SettingsError       wrong settings: one line per mistake, exit status 2
    ├── StartupError        right settings, but the machine says no (a port is taken): exit status 1
    ├── TokenError          a token that grants nothing
    ├── CommandError        a command that can't do what it was asked to: exit status 1 or 2
    ├── HandshakeError      an opening handshake that is refused
    ├── RequestError        a client's request that is answered with an ``error`` message
    ├── RecordError         the record of a connection that this wsd can't read
    └── LinkError           the link to Redis could not be made, or was lost

Exceptions of libraries are mapped to these at the edge where the library is called.
"""

from __future__ import annotations

from wsd.codes import ErrorCode, HandshakeReason, TokenReason

__all__ = [
    "CommandError",
    "HandshakeError",
    "LinkError",
    "RecordError",
    "RequestError",
    "SettingsError",
    "StartupError",
    "TokenError",
    "WsdError",
]


class WsdError(Exception):
    """Base class of everything that wsd raises on purpose."""


class SettingsError(WsdError):
    """The settings can't be used.

    Args:
        mistakes: one line for each mistake: which setting, what was given, what is allowed.
            Secrets are masked in them.
    """

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class StartupError(WsdError):
    """The daemon can't start although its settings are right, for example because a port is taken."""


class CommandError(WsdError):
    """A command can't do what it was asked to. Its text is one line for the user, without secrets.

    Args:
        line: what happened and what to do about it.
        status: the exit status: 1, or 2 for wrong arguments.
    """

    def __init__(self, line: str, status: int = 1) -> None:
        super().__init__(line)
        self.status = status


class TokenError(WsdError):
    """A token was refused.

    Args:
        text: why, for the log. It never holds a part of the token.
        reason: why, for the client. ``invalid`` until the signature has been verified: a client that makes tokens up
            learns nothing more.
        subject: the ``sub`` of a token whose signature is good, for the log; else empty.
    """

    def __init__(self, text: str, reason: TokenReason = TokenReason.INVALID, subject: str = "") -> None:
        super().__init__(text)
        self.reason = reason
        self.subject = subject


class HandshakeError(WsdError):
    """An opening handshake is refused.

    Args:
        reason: says what to answer and what the likely cause is.
        detail: what is particular about this one, for the log and for the client. It never holds what may be secret:
            paths, cookies and tokens.
    """

    def __init__(self, reason: HandshakeReason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class RequestError(WsdError):
    """A request was refused with an ``error`` message.

    Args:
        code: of the ``error``.
        message: what happened and what to do about it, for the client.
        request_id: the request's ``id``, where it could be read.
    """

    def __init__(self, code: ErrorCode, message: str, request_id: str | int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.request_id = request_id


class RecordError(WsdError):
    """The record of a connection can't be read: another version of wsd wrote it, or it is broken.

    Its text names the version or the field. It holds nothing of what the record holds, which may be secret.
    """


class LinkError(WsdError):
    """The link to Redis could not be made, or was lost. The text says why, without credentials."""
