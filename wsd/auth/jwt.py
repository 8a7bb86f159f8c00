"""Tokens: who a client is, which topics it may hear, and until when.

A token is a JWS in its compact form (RFC 7515, section 7.1): three parts of base64url with dots between. It is judged
in this order, so that a client without a key causes little work and learns nothing:

1. its size and its form,
2. its header: ``alg`` is one that the operator allows, and there is no extension that must be understood (``crit``),
3. its signature,
4. only then its claims.

PyJWT verifies the signatures, but doesn't take the token apart, for two reasons. ``jwt.decode`` (2.15) looks at every
character in Python before it looks at the signature: a bogus token of 12 KB takes it 507 µs of CPU on an AMD EPYC, here
18 µs, and a good one of 200 bytes 27 µs, here 12 µs. And its exceptions don't say which rule a claim breaks. A test
holds every token that is accepted here to ``jwt.decode``.

**Clocks.** ``exp`` and ``nbf`` are judged with `leeway`. ``iat`` isn't compared with the clock: it tells a token's age,
and no RFC asks to refuse one from the future (RFC 7519, section 4.1.6). With an issuer 0.3 s ahead, a quarter of all
fresh tokens would be refused.
"""

from __future__ import annotations

import json
import math
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Never

import jwt

from wsd.auth.grant import EVERYTHING, Grant
from wsd.codes import TokenReason
from wsd.errors import TokenError

__all__ = ["MAX_TOKEN", "JWTAuthenticator"]

MAX_LIFETIME = 10 * 365 * 86400.0
"""Seconds. A later ``exp`` counts as this: a claim of 10**400 is valid JSON, but must not reach a timer."""

MAX_TOKEN = 16_384
"""Characters. HTTP servers take 8 to 16 KiB of headers, so no issuer makes larger tokens."""

KNOWN_ALGORITHMS = frozenset(jwt.PyJWS().get_algorithms())
"""What a token may say of its algorithm and have it repeated in the log: it is no secret."""


class JWTAuthenticator:
    """Checks JSON Web Tokens (RFC 7519).

    ``exp`` is required; ``nbf`` is checked where present. A token that names an audience is refused unless ``audience``
    is configured (RFC 7519, section 4.1.3).

    Args:
        key: the HMAC secret, or a public key as PEM.
        algorithms: the algorithms that are accepted, whatever the token's header says (RFC 8725, section 3.1).
        audience: the ``aud`` that a token must have, if any.
        issuer: the ``iss`` that a token must have, if any.
        leeway: seconds by which clocks may differ.
        require_topics: refuse a token without the claim ``topics``.
        max_size: characters that a token may have.
        wall: the clock that ``exp`` and ``nbf`` are about, in seconds since the epoch.

    Raises:
        jwt.InvalidKeyError: if the key is for none of the algorithms; `wsd.config.jwt_key` returns no such key.
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
        max_size: int = MAX_TOKEN,
        wall: Callable[[], float] = time.time,
    ) -> None:
        # A public key is parsed once, and not for every token.
        self._verifiers = {
            name: (algorithm, algorithm.prepare_key(key))
            for name in algorithms
            for algorithm in (jwt.get_algorithm_by_name(name),)
        }
        self._audience = audience
        self._issuer = issuer
        self._leeway = leeway
        self._require_topics = require_topics
        self._max_size = max_size
        self._wall = wall

    def verify(self, token: str) -> Grant:
        """Check a token.

        Raises:
            TokenError: if it grants nothing. The text says why and holds nothing of the token.
        """
        try:
            claims = self._claims(token)
        except TokenError:
            raise
        except Exception as exc:
            # Whatever a hostile token makes the decoders raise is a refusal.
            raise TokenError(f"the token can't be read ({type(exc).__name__})") from None
        subject = claims.get("sub", "")
        if type(subject) is not str:
            raise TokenError("the claim sub is not a string (RFC 7519, section 4.1.2)", TokenReason.WRONG_CLAIMS)
        try:
            return self._grant(claims, subject)
        except TokenError as exc:
            exc.subject = subject
            raise

    # The token as a JWS (RFC 7515).

    def _claims(self, token: str) -> dict[str, Any]:
        """Return the claims of a token whose signature is good."""
        if len(token) > self._max_size:
            raise TokenError(f"the token is {len(token)} characters long; at most {self._max_size} are read")
        if token.count(".") != 2 or token[:7].lower() == "bearer ":
            raise TokenError(_wrong_parts(token))
        parts = token.split(".")
        name = self._algorithm_of(_read_object("header", parts[0]))
        signature = _decode("signature", parts[2])
        algorithm, key = self._verifiers[name]
        if not algorithm.verify(f"{parts[0]}.{parts[1]}".encode(), key, signature):
            problem = "does not fit the key: it is of another one, or the token was changed"
            raise TokenError(f"the signature {problem if signature else 'is missing'} ({name})")
        try:
            return _read_object("payload", parts[1])
        except TokenError as exc:
            exc.reason = TokenReason.WRONG_CLAIMS
            raise

    def _algorithm_of(self, header: Mapping[str, Any]) -> str:
        """Check a header, and return the algorithm that it names."""
        name = header.get("alg")
        if type(name) is not str or name not in self._verifiers:
            shown = name if type(name) is str and name in KNOWN_ALGORITHMS else "missing or unknown"
            raise TokenError(f"the header's alg is {shown}; jwt_algorithms allows {', '.join(self._verifiers)}")
        if type(header.get("kid", "")) is not str:
            raise TokenError("the header's kid is not a string (RFC 7515, section 4.1.4)")
        # No extension is known here, so each that is critical must be refused; `b64` changes what is signed (RFC 7797).
        if "crit" in header or header.get("b64", True) is not True:
            raise TokenError("the header asks for an extension (crit, b64), and wsd knows none")
        return name

    # The claims (RFC 7519, section 4.1).

    def _grant(self, claims: Mapping[str, Any], subject: str) -> Grant:
        exp = self._check_times(claims)
        self._check_audience(claims)
        self._check_issuer(claims)
        if type(claims.get("jti", "")) is not str:
            raise TokenError("the claim jti is not a string (RFC 7519, section 4.1.7)", TokenReason.WRONG_CLAIMS)
        if "topics" not in claims and self._require_topics:
            raise TokenError("the claim topics is missing (require_topics_claim is set)", TokenReason.WRONG_CLAIMS)
        topics = claims.get("topics", ["*"])
        if type(topics) is not list or not all(type(topic) is str for topic in topics):
            raise TokenError("the claim topics is not a list of strings", TokenReason.WRONG_CLAIMS)
        return Grant(
            subject=subject,
            # An empty frozenset of its own takes 216 bytes, in every session.
            topics=frozenset(topic for topic in topics if not topic.endswith("*")) or EVERYTHING.topics,
            prefixes=tuple(topic[:-1] for topic in topics if topic.endswith("*")),
            expires_at=exp + self._leeway,
        )

    def _check_times(self, claims: Mapping[str, Any]) -> float:
        """Check when the token is valid, and return until when."""
        now, leeway = self._wall(), self._leeway
        if claims.get("exp") is None:
            raise TokenError("the claim exp is missing: a token must say when it expires", TokenReason.WRONG_CLAIMS)
        exp = _read_date(claims, "exp", now)
        if exp <= now - leeway:
            raise TokenError(
                f"the token expired {now - exp:.1f} s ago (exp; jwt_leeway is {leeway:g})", TokenReason.EXPIRED
            )
        if "nbf" in claims and (nbf := _read_date(claims, "nbf", now)) > now + leeway:
            ahead = f"becomes valid in {nbf - now:.1f} s (nbf; jwt_leeway is {leeway:g})"
            raise TokenError(f"the token {ahead}: is a clock wrong?", TokenReason.NOT_YET_VALID)
        if "iat" in claims:
            _read_date(claims, "iat", now)
        return exp

    def _check_audience(self, claims: Mapping[str, Any]) -> None:
        aud = claims.get("aud")
        if self._audience is None:
            if aud:
                raise TokenError(
                    "the token names an audience (aud), and jwt_audience is not set", TokenReason.WRONG_AUDIENCE
                )
            return
        if not aud:
            raise TokenError("the claim aud is missing (jwt_audience is set)", TokenReason.WRONG_AUDIENCE)
        names = [aud] if type(aud) is str else aud
        if type(names) is not list or not all(type(name) is str for name in names):
            raise TokenError("the claim aud is neither a string nor a list of strings", TokenReason.WRONG_AUDIENCE)
        if self._audience not in names:
            raise TokenError("the audience (aud) is another than jwt_audience", TokenReason.WRONG_AUDIENCE)

    def _check_issuer(self, claims: Mapping[str, Any]) -> None:
        if self._issuer is None:
            return
        if "iss" not in claims:
            raise TokenError("the claim iss is missing (jwt_issuer is set)", TokenReason.WRONG_ISSUER)
        if type(claims["iss"]) is not str:
            raise TokenError("the claim iss is not a string (RFC 7519, section 4.1.1)", TokenReason.WRONG_ISSUER)
        if claims["iss"] != self._issuer:
            raise TokenError("the issuer (iss) is another than jwt_issuer", TokenReason.WRONG_ISSUER)


def _refuse_constant(constant: str) -> Never:
    raise ValueError(f"{constant} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_refuse_constant)


def _wrong_parts(token: str) -> str:
    count = token.count(".") + 1
    if not token:
        return "the token is empty"
    if token[:7].lower() == "bearer ":
        return "the token begins with the word Bearer, which belongs to HTTP: send the token alone"
    if count == 5:
        return "the token has 5 parts, so it is encrypted (JWE); wsd reads signed ones (JWS)"
    return f"the token has {count} part{'s' * (count > 1)} between dots, not 3"


def _decode(name: str, part: str) -> bytes:
    """Decode base64url as RFC 7515 (section 2) has it, or with the padding that some issuers (AWS ALB) add."""
    digits = part.rstrip("=")
    padding = "=" * (-len(digits) % 4)
    try:
        decoded = urlsafe_b64decode(digits + padding)
    except ValueError:
        decoded = b""
    # The decoder skips what it doesn't know, and takes `+` and `/` too. Encoding again finds all of that.
    if part not in (digits, digits + padding) or urlsafe_b64encode(decoded).rstrip(b"=").decode() != digits:
        raise TokenError(f"the {name} is not base64url")
    return decoded


def _read_object(name: str, part: str) -> dict[str, Any]:
    decoded = _decode(name, part)
    try:
        value = _JSON.decode(decoded.decode())
    except (ValueError, RecursionError):
        raise TokenError(f"the {name} is not JSON") from None
    if type(value) is not dict:
        raise TokenError(f"the {name} is not a JSON object")
    return value


def _read_date(claims: Mapping[str, Any], name: str, now: float) -> float:
    """Return a NumericDate (RFC 7519, section 2), bounded to `MAX_LIFETIME` before and after now."""
    value = claims[name]
    # A boolean is an int in Python; and `inf` is what 1e999 becomes.
    if type(value) not in (int, float) or value in (math.inf, -math.inf):
        raise TokenError(f"the claim {name} is not a number of seconds (RFC 7519, section 2)", TokenReason.WRONG_CLAIMS)
    # Compared before it is made a float, because 10**400 is valid JSON and no float.
    return float(max(now - MAX_LIFETIME, min(value, now + MAX_LIFETIME)))
