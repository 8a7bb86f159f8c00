"""Tokens: who a client is, which topics it may hear, and until when."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jwt

from wsd.errors import TokenError

__all__ = ["Authenticator", "Grant", "JWTAuthenticator", "OpenAuthenticator"]

MAX_LIFETIME = 10 * 365 * 86400.0
"""Seconds. A later ``exp`` counts as this: a claim of 10**400 is valid JSON, but must not reach a timer."""


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


class JWTAuthenticator:
    """Checks JSON Web Tokens (RFC 7519).

    ``exp`` is required; ``nbf`` and ``iat`` are checked where present. A token that names an audience is refused unless
    ``audience`` is configured (RFC 7519, section 4.1.3).

    Args:
        key: the HMAC secret, or a public key as PEM.
        algorithms: the algorithms that are accepted, whatever the token's header says (RFC 8725, section 3.1).
        audience: the ``aud`` that a token must have, if any.
        issuer: the ``iss`` that a token must have, if any.
        leeway: seconds by which clocks may differ.
        require_topics: refuse a token without the claim ``topics``.
    """

    initial: Grant | None = None

    def __init__(
        self,
        key: bytes,
        algorithms: Sequence[str],
        *,
        audience: str | None = None,
        issuer: str | None = None,
        leeway: float = 0.0,
        require_topics: bool = False,
    ) -> None:
        self._algorithms = tuple(algorithms)
        self.use_key(key)
        self._audience = audience
        self._issuer = issuer
        self._leeway = leeway
        self._require_topics = require_topics

    def use_key(self, key: bytes) -> None:
        """Check tokens with another key from now on."""
        # A public key is parsed once, and not for every token.
        first = self._algorithms[0]
        self._key = key if first.startswith("HS") else jwt.get_algorithm_by_name(first).prepare_key(key)

    def verify(self, token: str) -> Grant:
        """Check a token.

        Raises:
            TokenError: if it grants nothing. The text says why and holds nothing of the token.
        """
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=self._algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway,
                options={"require": ["exp"]},
            )
        except jwt.PyJWTError as exc:
            raise TokenError(f"{type(exc).__name__}: {_public_text(exc)}") from None
        except Exception as exc:
            # Whatever a hostile token makes the decoder raise is a refusal: UnicodeEncodeError for a lone surrogate,
            # RecursionError for a deep header, ValueError for a number of 5,000 digits.
            raise TokenError(f"not a token ({type(exc).__name__})") from None
        return self._grant(claims)

    def _grant(self, claims: dict[str, Any]) -> Grant:
        exp = claims["exp"]
        # PyJWT takes "123" for a number; RFC 7519 (NumericDate) doesn't.
        if type(exp) not in (int, float):
            raise TokenError("exp is not a number")
        if "topics" not in claims and self._require_topics:
            raise TokenError("the claim topics is missing (require_topics_claim is set)")
        topics = claims.get("topics", ["*"])
        if type(topics) is not list or not all(type(topic) is str for topic in topics):
            raise TokenError("the claim topics is not a list of strings")
        return Grant(
            subject=claims.get("sub", ""),
            # An empty frozenset of its own takes 216 bytes, in every session.
            topics=frozenset(topic for topic in topics if not topic.endswith("*")) or EVERYTHING.topics,
            prefixes=tuple(topic[:-1] for topic in topics if topic.endswith("*")),
            expires_at=min(exp, time.time() + MAX_LIFETIME) + self._leeway,
        )


def _public_text(exc: jwt.PyJWTError) -> str:
    """PyJWT's reason, without what it quotes: some texts repeat a part of the token (``kid``, ``crit``, claims)."""
    known = (
        jwt.ExpiredSignatureError,
        jwt.ImmatureSignatureError,
        jwt.InvalidSignatureError,
        jwt.MissingRequiredClaimError,
        jwt.InvalidAudienceError,
        jwt.InvalidIssuerError,
        jwt.InvalidAlgorithmError,
    )
    return str(exc) if isinstance(exc, known) else "it can't be decoded"
