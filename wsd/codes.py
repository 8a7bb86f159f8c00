"""Every code that a client, a metric or a log line may show. Each kind of code is one table.

An enum's member is its code; beside the code stand what it means and what follows from it. The rest of wsd reads that
here: the session counts violations by it, the metrics have a label for each, ``wsd tail`` decides by it whether to try
again, and the tables of the papers are made of it. So a new code is a new row, and a test of what causes it.
"""

from __future__ import annotations

from enum import Enum, IntEnum, StrEnum
from typing import Final, Literal, Self

__all__ = [
    "MAX_HEADERS",
    "MAX_LINE",
    "MAX_REQUEST",
    "UNAUTHORIZED",
    "Close",
    "ErrorCode",
    "HandshakeReason",
    "Move",
    "Reaction",
    "Refusal",
    "Remedy",
    "Restart",
    "TokenReason",
]

MAX_REQUEST = 32_768
"""Bytes of an opening handshake, cookies included. The library alone would buffer 1 MiB for each half-open client."""

MAX_LINE = 8192
"""Bytes of the request line and of each header line: the limit of ``websockets``. Not imported from there, because the
supervisor needs codes and not the library."""

MAX_HEADERS = 128
"""Header lines of an opening handshake: the limit of ``websockets``, too."""


class Remedy(Enum):
    """What a client can do about a request that was refused with an ``error``."""

    MEND = "mend the client: the request can never succeed; `max_violations` counts this error"
    CHANGE = "do first what the text of the error says: authorize with another token, or unsubscribe"
    WAIT = "send the request again after a wait"


class ErrorCode(StrEnum):
    """The codes of ``error`` messages."""

    meaning: str  # what happened, for the papers
    remedy: Remedy

    def __new__(cls, code: str, remedy: Remedy, meaning: str) -> Self:
        member = str.__new__(cls, code)
        member._value_ = code
        member.remedy, member.meaning = remedy, meaning
        return member

    MALFORMED = (
        "malformed",
        Remedy.MEND,
        "the message is not text, not a JSON object, or a key is missing or of the wrong type",
    )
    UNKNOWN_ACTION = "unknown_action", Remedy.MEND, "there is no such action"
    WRONG_SESSION = "wrong_session", Remedy.MEND, "the session is not the session of this connection"
    INVALID_TOPIC = "invalid_topic", Remedy.MEND, "the topic breaks the rules for topics"
    FORBIDDEN_TOPIC = "forbidden_topic", Remedy.CHANGE, "the token does not permit the topic"
    TOO_MANY_TOPICS = (
        "too_many_topics",
        Remedy.CHANGE,
        "the session has as many topics as a session may have (`max_topics`)",
    )
    RATE_LIMITED = (
        "rate_limited",
        Remedy.WAIT,
        "too many requests a second (`max_request_rate`); five seconds' worth of requests may come at once",
    )
    UNAVAILABLE = (
        "unavailable",
        Remedy.WAIT,
        (
            "Redis did not confirm the subscription within 5 seconds, or refuses the channel. May come unasked for a "
            "topic that is subscribed: then a gap comes when the topic is delivered again"
        ),
    )


UNAUTHORIZED: Final = "unauthorized"
"""The label of ``session unauthorized`` among the refused requests: it is no ``error``, but a message of its own."""

Refusal = ErrorCode | Literal["unauthorized"]
"""How a request may be refused."""


class TokenReason(StrEnum):
    """Why a client gets ``session unauthorized``: the ``reason`` for clients that sent an ``id``."""

    advice: str  # what the client should do, for the papers

    def __new__(cls, reason: str, advice: str) -> Self:
        member = str.__new__(cls, reason)
        member._value_ = reason
        member.advice = advice
        return member

    NO_TOKEN = "no_token", "authorize first"
    EXPIRED = "expired", "get a new token"
    NOT_YET_VALID = "not_yet_valid", "send the token again later; the issuer's clock may be wrong"
    WRONG_AUDIENCE = "wrong_audience", "get a token for this daemon: the token's `aud` names another"
    WRONG_ISSUER = "wrong_issuer", "get a token from the issuer that this daemon trusts: the token's `iss` is another"
    WRONG_CLAIMS = "wrong_claims", "have the issuer mended: a claim is missing or of the wrong type"
    INVALID = (
        "invalid",
        "get a new token: this is no token, or another key has signed it. Nothing more is told of such a token",
    )


class Reaction(Enum):
    """What a client should do when the connection was closed."""

    STOP = "stop: the client has a bug"
    RECONNECT = "reconnect with jitter"
    NEW_TOKEN = "get a new token, then reconnect with jitter"


class Close(IntEnum):
    """The close codes that wsd sends of its own accord (RFC 6455, section 7.4).

    1002, 1009 and 1011 are sent by the library. A close code that a client sends comes back to it (section 5.5.1).
    """

    meaning: str  # for the papers
    reaction: Reaction
    note: str  # what the client should know besides, for the papers

    def __new__(cls, code: int, reaction: Reaction, meaning: str, note: str = "") -> Self:
        member = int.__new__(cls, code)
        member._value_ = code
        member.reaction, member.meaning, member.note = reaction, meaning, note
        return member

    PROTOCOL_ERROR = (
        1002,
        Reaction.STOP,
        "the client broke RFC 6455",
        "but a 1002 with the reason `service restart` is a 1012: some libraries (faye-websocket) don't know 1012",
    )
    INVALID_DATA = 1007, Reaction.STOP, "a text message, or the reason of a close frame, was not UTF-8"
    POLICY_VIOLATION = (
        1008,
        Reaction.STOP,
        (
            "too many bad requests (`max_violations`), ten refused tokens in a row, or more than 256 KiB of replies "
            "waited for a subscription"
        ),
    )
    MESSAGE_TOO_BIG = (
        1009,
        Reaction.STOP,
        "a message was larger than `max_message_size`, or than 20 KiB before authorization",
    )
    INTERNAL_ERROR = 1011, Reaction.RECONNECT, "a bug in wsd or in the library; the log of wsd has it"
    SERVICE_RESTART = 1012, Reaction.RECONNECT, "service restart: this replica is going away"
    AUTHORIZATION_TIMEOUT = 4001, Reaction.RECONNECT, "no valid token within `auth_timeout`", "authorize sooner"
    TOKEN_EXPIRED = 4003, Reaction.NEW_TOKEN, "the token has expired"
    SLOW_CONSUMER = (
        4008,
        Reaction.RECONNECT,
        "slow consumer: what waited for the client passed `max_backlog` or `max_backlog_age`",
        "fetch the state anew",
    )


class HandshakeReason(StrEnum):
    """Why opening handshakes are refused."""

    status: int  # of the answer; 0 if there is none
    cause: str  # what the client or the operator should know

    def __new__(cls, reason: str, status: int, cause: str) -> Self:
        member = str.__new__(cls, reason)
        member._value_ = reason
        member.status, member.cause = status, cause
        return member

    # No HTTP.
    TLS = "tls", 0, "TLS on the plain port: use ws://, or end TLS in a proxy that speaks plain HTTP to wsd"
    PROXY_PROTOCOL = (
        "proxy_protocol",
        400,
        "a PROXY protocol header: switch it off in the load balancer (HAProxy: send-proxy)",
    )
    HTTP2 = "http2", 505, "HTTP/2 without negotiation: let the proxy in front speak HTTP/1.1 to wsd"
    NOT_HTTP = "not_http", 400, "not an HTTP/1.1 request"
    # HTTP, but no request that could be read.
    BARE_LF = "bare_lf", 400, "a line that ends in LF alone: the lines of a request end in CRLF (RFC 9112, section 2.2)"
    MALFORMED = "malformed", 400, "a request line or a header that breaks RFC 9112"
    BODY = "body", 400, "a GET with a body"
    URI_TOO_LONG = "uri_too_long", 414, f"a request line longer than {MAX_LINE} bytes"
    HEADER_TOO_LONG = (
        "header_too_long",
        431,
        f"a header line longer than {MAX_LINE} bytes: mostly cookies that have grown",
    )
    TOO_MANY_HEADERS = "too_many_headers", 431, f"more than {MAX_HEADERS} header lines"
    TOO_LONG = "too_long", 431, f"a request longer than {MAX_REQUEST} bytes: mostly cookies that have grown"
    # A request, but no opening handshake.
    METHOD = "method", 405, "a method other than GET"
    HTTP_VERSION = "http_version", 505, "HTTP/1.0: a proxy in front must speak HTTP/1.1 (nginx: proxy_http_version 1.1)"
    UPGRADE = (
        "upgrade",
        426,
        "a GET without upgrade: no WebSocket client, or a proxy that drops Upgrade and Connection",
    )
    VERSION = "version", 426, "a Sec-WebSocket-Version other than 13"
    KEY = "key", 400, "Sec-WebSocket-Key is missing, given twice, or not 16 bytes of base64"
    # An opening handshake, but not welcome.
    ORIGIN = "origin", 403, "an origin that is not in allowed_origins"
    FULL = "full", 503, "full: as many clients as max_connections allows; try again later"
    DRAINING = "draining", 503, "draining: this replica is going away; try again"
    CROWD = "crowd", 0, "full, and too many sockets that are being refused: closed unread"
    # A request that did not come.
    TIMEOUT = "timeout", 408, "the request did not come in time"
    EOF = "eof", 0, "the client closed before its request was complete"
    SILENT = "silent", 0, "closed without a byte: a TCP health check, or a browser's connection in advance"
    # A bug.
    ERROR = "error", 500, "a bug in wsd or in the library; the log has it"


class _Explained(StrEnum):
    """A label whose meaning stands beside it."""

    meaning: str  # for the papers

    def __new__(cls, label: str, meaning: str) -> Self:
        member = str.__new__(cls, label)
        member._value_ = label
        member.meaning = meaning
        return member


class Restart(_Explained):
    """Why the supervisor has started a worker in the place of one that it had not sent away."""

    EXITED = "exited", "the worker has ended by itself, with an error; the log says which"
    KILLED = "killed", "a signal has ended the worker: the kernel was out of memory, a bug in C, or somebody sent it"
    STOPPED = "stopped", "somebody has sent SIGTERM to the worker alone, which has drained and ended"
    STUCK = "stuck", "the worker's event loop had stood still for `worker_timeout`, so the supervisor has ended it"
    UNSTARTED = "unstarted", "the worker has ended before it served, or did not serve in time"


class Move(_Explained):
    """What becomes of a connection that is to move to another process of the host."""

    OUT = "out", "another process has the connection now"
    IN = "in", "the connection has come from another process"
    GAP = "gap", "the connection is one of `in`, and messages may have been missed on its way; the log says why"
    BACK = (
        "back",
        "the connection stayed where it was for now: the other process had no room, had died, or the time was over",
    )
    SENT_AWAY = (
        "sent_away",
        "the connection could not be moved from a worker that was replaced, and was closed with 1012; the log says why",
    )
    LOST = (
        "lost",
        "the connection was closed on its way: the system did not let the new process have the socket",
    )
