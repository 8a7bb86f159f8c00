"""Where the server of ``wsd tail`` is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from websockets.exceptions import InvalidURI
from websockets.uri import WebSocketURI, parse_uri

from wsd.config import Settings
from wsd.deployment import check_host
from wsd.errors import CommandError

__all__ = ["default_url", "parse", "server_url", "shown"]


def server_url(hosts: Sequence[str], port: int) -> str:
    """Return where a client on this machine reaches a daemon that listens on `hosts`: at the first of them."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(hosts[0], hosts[0])
    return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"


def default_url(chosen: Settings) -> str:
    """Return where the daemon with these settings listens, if it is on this machine."""
    if not chosen.port:
        raise CommandError("port is 0, any free one: give --url ws://HOST:PORT", status=2)
    return server_url(chosen.host, chosen.port)


def parse(url: str) -> WebSocketURI:
    """Take apart what was given.

    Raises:
        CommandError: if it is no URL of a WebSocket server.
    """
    wanted = "expected ws://HOST:PORT or wss://HOST"
    if not url.isprintable() or " " in url:
        raise CommandError(f"url: white space or a control character in it; {wanted}", status=2)
    try:
        uri = parse_uri(url)
        port = urlsplit(url).port
    except InvalidURI as exc:
        hint = f"; did you mean ws://{url}?" if re.fullmatch(r"[\w.-]+(:[0-9]+)?", url) else ""
        raise CommandError(f"url: {exc.msg}; {wanted}{hint}", status=2) from None
    except ValueError:  # a port that is none, brackets that don't close
        raise CommandError(f"url: {wanted}", status=2) from None
    if port == 0:  # which the library takes for none
        raise CommandError(f"url: nobody listens on port 0; {wanted}", status=2)
    try:
        check_host(uri.host)
    except ValueError as exc:
        raise CommandError(f"url: allowed: {exc}; {wanted}", status=2) from None
    return uri


def shown(uri: WebSocketURI) -> str:
    """Write a URI without what may be secret in it: user, password and query."""
    host = f"[{uri.host}]" if ":" in uri.host else uri.host
    return f"{'wss' if uri.secure else 'ws'}://{host}:{uri.port}{uri.path.removesuffix('/')}"
