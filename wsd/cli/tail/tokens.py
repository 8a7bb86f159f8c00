"""Where the token of ``wsd tail`` comes from."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from websockets.uri import WebSocketURI

from wsd.cli.settings import TOKEN_VARIABLE
from wsd.cli.token import sign, signs_with_shared_secret
from wsd.config import Settings, is_loopback
from wsd.errors import CommandError

__all__ = ["token_source"]

OWN_TOKEN_SECONDS = 86_400
"""How long a token is valid that tail signs for itself. When it has expired, tail signs another."""


def token_source(
    file: str | None, chosen: Settings, uri: WebSocketURI, topics: Sequence[str]
) -> Callable[[], str | None]:
    """Return what gets a token for each connection, or None where it does without.

    Args:
        file: the argument ``--token-file``, if it was given.
        chosen: the settings.
        uri: the server.
        topics: what a token that is signed here permits.

    Raises:
        CommandError: if what should be a token is none.
    """
    if file == "-":
        standard_input = _clean(sys.stdin.read(), "standard input")
        return lambda: standard_input
    if file is not None:
        return lambda: _read(file)
    if TOKEN_VARIABLE in os.environ:
        variable = _clean(os.environ[TOKEN_VARIABLE], TOKEN_VARIABLE)
        return lambda: variable
    # A token signed with this machine's secret is none of another machine's business.
    if signs_with_shared_secret(chosen) and is_loopback(uri.host):
        algorithm, key = chosen.jwt_algorithms[0], chosen.key()
        return lambda: sign(chosen, algorithm, key, subject="wsd-tail", topics=topics, seconds=OWN_TOKEN_SECONDS)
    return lambda: None


def _read(file: str) -> str:
    try:
        return _clean(Path(file).read_text("ascii"), file)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no path, or no text"
        raise CommandError(f"token_file: can't read {file!r}: {reason}") from None


def _clean(token: str, place: str) -> str:
    # base64url and dots (RFC 7515, section 7.1); with authentication off any text will do.
    token = token.strip()
    if not token.isascii() or not token.isprintable() or not token:
        raise CommandError(f"{place} holds no token", status=2)
    return token
