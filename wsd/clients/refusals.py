"""What clients do wrong: counted, and logged within bounds, because a client decides how often.

A line is bounded by its kind, which has one remedy, and by the client: its address, and its token's ``sub``.
"""

from __future__ import annotations

import logging
import re

from websockets.frames import Close as CloseFrame

from wsd.clients.replies import Reply
from wsd.codes import UNAUTHORIZED, Close, HandshakeReason
from wsd.errors import HandshakeError
from wsd.logs import BoundedLogger
from wsd.metrics import Metrics

__all__ = ["Refusals"]


class Refusals:
    """Counts and logs what clients do wrong.

    The subject of a client is the ``sub`` of its token, ``""`` if it has none, and None before there can be one.

    Args:
        metrics: counts.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._log = BoundedLogger(logging.getLogger("wsd.refusals"))

    def handshake(self, error: HandshakeError, peer: str) -> None:
        """A handshake is refused."""
        reason = error.reason
        self._metrics.refused_handshakes[reason] += 1
        if reason is HandshakeReason.SILENT:
            return
        detail = f" ({error.detail})" if error.detail else ""
        self._warn(
            f"handshake: {reason}",
            "refused a handshake of %s with %s: %s%s",
            peer,
            reason.status or "no answer",
            reason.cause,
            detail,
            peer=peer,
            code=reason.status,
            reason=reason,
        )

    def subprotocols(self, peer: str) -> None:
        """A client offers subprotocols, and none is ours. Their names may hold a token, so they are not logged."""
        self._warn(
            "subprotocol",
            "%s offers subprotocols, of which none is in the setting subprotocols; browsers then close",
            peer,
            peer=peer,
        )

    def request(self, reply: Reply, peer: str, subject: str) -> None:
        """A request is refused, with this reply."""
        assert reply.refusal is not None
        self._metrics.refused_requests[reply.refusal] += 1
        subject = reply.subject or subject
        # A refused token has other remedies than a missing one; both are unauthorized. The reason holds numbers that
        # differ each time: "expired 3.2 s ago". The reasons of other refusals hold what the client chose, a topic for
        # one, so they make no kinds.
        kind = reply.refusal
        self._warn(
            re.sub(r"\d[\d.]*", "N", f"unauthorized: {reply.reason}") if kind == UNAUTHORIZED else kind,
            "refused a request of %a at %s: %s %a",
            subject,
            peer,
            reply.refusal,
            reply.reason,
            peer=peer,
            subject=subject,
            code=reply.refusal,
            reason=reply.reason,
        )

    def closed(self, close: CloseFrame, peer: str, subject: str) -> None:
        """A connection is closed for what its client did: a bug in the client, or an attack."""
        code = int(close.code)
        self._warn(
            f"close {code}",
            "closing the connection of %a at %s with %d: %a",
            subject,
            peer,
            code,
            close.reason,
            peer=peer,
            subject=subject,
            code=code,
            reason=close.reason,
        )

    def slow(self, bound: str, waiting: int, age: float, peer: str, subject: str) -> None:
        """A client can't keep up.

        Args:
            bound: the one that it passed: ``bytes`` or ``age``.
            waiting: bytes that wait for it.
            age: seconds for which the oldest of them has waited.
            peer: its address.
            subject: its token's ``sub``.
        """
        self._metrics.slow_consumers[bound] += 1
        self._metrics.dropped_bytes += waiting
        self._warn(
            "slow consumer",
            "closing the slow consumer %a at %s: %d bytes wait for it, the oldest for %.1f s",
            subject,
            peer,
            waiting,
            age,
            peer=peer,
            subject=subject,
            code=int(Close.SLOW_CONSUMER),
            bytes=waiting,
            seconds=round(age, 1),
        )

    def bug(self, exc: Exception | None) -> None:
        """The library failed on what a client sent. Its bugs are logged as bugs."""
        self._metrics.internal_errors += 1
        exc = exc or AssertionError("the library gave no reason")
        self._log.exception("library", "the library failed on what a client sent", exc=exc)

    def _warn(
        self, kind: str, message: str, *args: object, peer: str, subject: str | None = None, **values: object
    ) -> None:
        client = peer.rpartition(":")[0]
        if subject is not None:
            values["subject"] = subject
            client = f"{subject!a} at {client}" if subject else client
        self._log.warning(kind, message, *args, client=client, peer=peer, **values)
