"""What an authorized client may do, and who decides that."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

__all__ = ["EVERYTHING", "Authenticator", "Grant", "OpenAuthenticator"]


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token permits.

    ``topics`` holds the permitted topics, ``prefixes`` the beginnings of permitted topics. A grant for everything has
    the prefix ``""``.
    """

    subject: str  # names the client in logs
    topics: frozenset[str]
    prefixes: tuple[str, ...]
    expires_at: float  # seconds since the epoch; infinity if it never expires

    def permits(self, topic: str) -> bool:
        """Tell whether the grant covers a topic."""
        return topic in self.topics or topic.startswith(self.prefixes)


EVERYTHING = Grant(subject="", topics=frozenset(), prefixes=("",), expires_at=math.inf)
"""The grant of a client that needs none: authentication is off."""


class Authenticator(Protocol):
    """Turns a token into a grant."""

    initial: Grant | None
    """What a client may do before it has shown a token."""

    def verify(self, token: str) -> Grant:
        """Check a token; raise :exc:`~wsd.errors.TokenError` if it grants nothing."""
        ...


class OpenAuthenticator:
    """Takes any string for a token. For development."""

    initial: Grant | None = EVERYTHING

    def verify(self, token: str) -> Grant:
        """Accept."""
        return EVERYTHING
