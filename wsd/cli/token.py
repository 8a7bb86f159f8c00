"""``wsd token``: signs a token for tests."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm

from wsd.authenticator import jwt_authenticator
from wsd.cli.output import write
from wsd.cli.settings import settings
from wsd.config import Settings
from wsd.errors import CommandError, RequestError, TokenError
from wsd.protocol.messages import check_topic

__all__ = ["run", "sign", "signs_with_shared_secret"]

MAX_PRIVATE_KEY = 65_536  # bytes; an RSA key of 16384 bits takes 13 KiB


def run(args: Namespace) -> int:
    """Print a token.

    Raises:
        SettingsError: if the settings can't be used, for example because there is no key.
        CommandError: if nothing can be signed with them.
    """
    # With a private key at hand the public one isn't needed.
    chosen = settings(args, defaults={"auth": "none"} if args.private_key_file and not args.auth else None)
    algorithm, key = _private_key(chosen, args.private_key_file) if args.private_key_file else _shared_secret(chosen)
    for topic in args.topics or ():
        _check_permission(topic)
    token = sign(chosen, algorithm, key, subject=args.subject, topics=args.topics, seconds=args.expires)
    if chosen.jwt_key is not None or chosen.jwt_key_file is not None:
        _verify(chosen, token)
    write(token)
    return 0


def sign(
    chosen: Settings, algorithm: str, key: Any, *, subject: str | None, topics: Sequence[str] | None, seconds: int
) -> str:
    """Sign a token that a daemon with these settings accepts.

    Args:
        chosen: the settings; audience and issuer are taken from them.
        algorithm: one of the settings' algorithms.
        key: what it signs with: a secret, or a private key of ``cryptography``.
        subject: who the client is.
        topics: what the claim ``topics`` holds; None leaves it out.
        seconds: how long it is valid.
    """
    now = int(time.time())
    claims = {
        "sub": subject,
        "aud": chosen.jwt_audience,
        "iss": chosen.jwt_issuer,
        "iat": now,
        "exp": now + seconds,
        "topics": topics,
    }
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, key, algorithm)


def signs_with_shared_secret(chosen: Settings) -> bool:
    """Tell whether the settings hold a key that also signs."""
    has_key = chosen.jwt_key is not None or chosen.jwt_key_file is not None
    return has_key and chosen.jwt_algorithms[0].startswith("HS")


def _shared_secret(chosen: Settings) -> tuple[str, bytes]:
    if chosen.auth == "none":
        raise CommandError("auth is none: clients need no token; with a key, --auth jwt signs one")
    algorithm = chosen.jwt_algorithms[0]
    if not signs_with_shared_secret(chosen):
        raise CommandError(
            f"{algorithm} signs with a private key, which the daemon has not: give --private-key-file PEM"
        )
    return algorithm, chosen.key()


def _private_key(chosen: Settings, file: str) -> tuple[str, Any]:
    """Read a private key, and choose the first of the settings' algorithms that it is for."""
    algorithms = chosen.jwt_algorithms
    if algorithms[0].startswith("HS"):
        raise CommandError(
            f"private_key_file: jwt_algorithms are {','.join(algorithms)}, which sign with the shared secret;"
            " give the one of the key, such as --jwt-algorithms ES256"
        )
    try:
        with Path(file).open("rb") as opened:
            pem = opened.read(MAX_PRIVATE_KEY)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no path"
        raise CommandError(f"private_key_file: can't read {file!r}: {reason}") from None
    if b"PRIVATE KEY-----" not in pem:
        raise CommandError(f"private_key_file: {file!r} holds no PEM private key")
    if (keys := pem.count(b"PRIVATE KEY-----") // 2) > 1:  # at BEGIN and at END
        raise CommandError(f"private_key_file: {file!r} holds {keys} private keys; leave the one that signs")
    if b"ENCRYPTED" in pem:
        raise CommandError(f"private_key_file: {file!r} is encrypted: `openssl pkey -in FILE` decrypts it")
    for algorithm in algorithms:
        try:
            return algorithm, jwt.get_algorithm_by_name(algorithm).prepare_key(pem)
        except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError):
            continue
    raise CommandError(f"private_key_file: {file!r} is damaged, or not a key for {' or '.join(algorithms)}")


def _check_permission(topic: str) -> None:
    prefix = topic.removesuffix("*")
    try:
        if prefix:
            check_topic(prefix)
    except RequestError as exc:
        raise CommandError(f"topics: {topic!r} permits nothing: {exc.message}", status=2) from None


def _verify(chosen: Settings, token: str) -> None:
    """Check that the key which the daemon verifies with belongs to the one that signed."""
    authenticator = jwt_authenticator(chosen)
    try:
        authenticator.verify(token)
    except TokenError as exc:
        raise CommandError(f"a daemon with these settings would refuse the token: {exc}") from None
