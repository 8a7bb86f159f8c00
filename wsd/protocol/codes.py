"""Every code that a client, a metric or a log line may show, each in one table."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from websockets.http11 import MAX_LINE_LENGTH, MAX_NUM_HEADERS

__all__ = ["MAX_REQUEST", "REASONS", "Close"]

MAX_REQUEST = 32_768
"""Bytes of an opening handshake, cookies included. The library alone would buffer 1 MiB for each half-open client. Its
own limits hold besides: 8,192 bytes for the request line and for each header line, and 128 headers."""


class Close(IntEnum):
    """Close codes that wsd sends, with what they tell the client (RFC 6455, section 7.4, and PROTOCOL.md)."""

    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    SERVICE_RESTART = 1012
    AUTHORIZATION_TIMEOUT = 4001
    TOKEN_EXPIRED = 4003
    SLOW_CONSUMER = 4008


class Reason(NamedTuple):
    """Why handshakes are refused."""

    status: int  # of the answer; 0 if there is none
    cause: str  # what the client or the operator should know


REASONS = {
    # No HTTP.
    "tls": Reason(0, "TLS on the plain port: use ws://, or end TLS in a proxy that speaks plain HTTP to wsd"),
    "proxy_protocol": Reason(400, "a PROXY protocol header: switch it off in the load balancer (HAProxy: send-proxy)"),
    "http2": Reason(505, "HTTP/2 without negotiation: let the proxy in front speak HTTP/1.1 to wsd"),
    "not_http": Reason(400, "not an HTTP/1.1 request"),
    # HTTP, but no request that could be read.
    "bare_lf": Reason(400, "a line that ends in LF alone: the lines of a request end in CRLF (RFC 9112, section 2.2)"),
    "malformed": Reason(400, "a request line or a header that breaks RFC 9112"),
    "body": Reason(400, "a GET with a body"),
    "uri_too_long": Reason(414, f"a request line longer than {MAX_LINE_LENGTH} bytes"),
    "header_too_long": Reason(
        431, f"a header line longer than {MAX_LINE_LENGTH} bytes: mostly cookies that have grown"
    ),
    "too_many_headers": Reason(431, f"more than {MAX_NUM_HEADERS} header lines"),
    "too_long": Reason(431, f"a request longer than {MAX_REQUEST} bytes: mostly cookies that have grown"),
    # A request, but no opening handshake.
    "method": Reason(405, "a method other than GET"),
    "http_version": Reason(505, "HTTP/1.0: a proxy in front must speak HTTP/1.1 (nginx: proxy_http_version 1.1)"),
    "upgrade": Reason(426, "a GET without upgrade: no WebSocket client, or a proxy that drops Upgrade and Connection"),
    "version": Reason(426, "a Sec-WebSocket-Version other than 13"),
    "key": Reason(400, "Sec-WebSocket-Key is missing, given twice, or not 16 bytes of base64"),
    # An opening handshake, but not welcome.
    "origin": Reason(403, "an origin that is not in allowed_origins"),
    "full": Reason(503, "full: as many clients as max_connections allows; try again later"),
    "draining": Reason(503, "draining: this replica is going away; try again"),
    "crowd": Reason(0, "full, and too many sockets that are being refused: closed unread"),
    # A request that did not come.
    "timeout": Reason(408, "the request did not come in time"),
    "eof": Reason(0, "the client closed before its request was complete"),
    "silent": Reason(0, "closed without a byte: a TCP health check, or a browser's connection in advance"),
    # A bug.
    "error": Reason(500, "a bug in wsd or in the library; the log has it"),
}
"""All reasons to refuse a handshake, by their label."""
