"""A ``redis_url``, parsed into a `wsd.deployment.Deployment` or refused.

Where a URL lists several servers, each is read as a URL of its own, with the login and the options of the whole.

The URLs are those of redis-py, because users know them. But redis-py's ``parse_url`` is not used: it drops the ``x`` of
``redis://h/x``, takes ``redis://`` for localhost, cuts a password off at ``#``, and replaces bytes of a password that
are no UTF-8. Here a URL is refused, or each word of it means what it says. No text that is made here holds anything
secret of the URL.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlsplit
from urllib.parse import unquote as _unquote

from wsd.deployment import REDIS_PORT, Address, Cluster, Deployment, Sentinel, Standalone, check_host
from wsd.tls import OPTIONS as TLS_OPTIONS
from wsd.tls import TLS, check_options

__all__ = ["BARE_PLACE", "FORMS", "MASTER", "OPTIONS", "parse_deployment"]

FORMS = (
    "redis://HOST:PORT/DB, unix:///PATH, redis+sentinel://HOST:PORT,HOST:PORT/MASTER or"
    " redis+cluster://HOST:PORT,HOST:PORT; USER:PASSWORD@ after // if need be, rediss in place of redis for TLS"
)

SENTINEL_PORT = 26379  # Sentinel's own default

PATH_MOST = 107  # bytes of a unix socket's path on Linux (unix(7)), without the zero at its end

unquote = partial(_unquote, errors="surrogateescape")
"""Undoes %XX. Bytes that are no UTF-8 become surrogates, which `Address.login` turns back into the same bytes."""


class Option(NamedTuple):
    """What may stand after the ``?`` of a URL."""

    pattern: str  # what the value must match
    schemes: str  # of which URLs
    secret: bool = False


OPTIONS = {
    "db": Option("[0-9]+", "rediss?|unix"),
    "password": Option(".+", ".+", secret=True),
    "sentinel_password": Option(".+", r"rediss?\+sentinel", secret=True),
    "sentinel_username": Option(".+", r"rediss?\+sentinel", secret=True),
    **{name: Option(pattern, "rediss.*", secret=name == "ssl_password") for name, pattern in TLS_OPTIONS.items()},
    "username": Option(".+", ".+", secret=True),
}
"""By redis-py's names, those for Sentinel excepted. The other options of redis-py concern its own client."""

MASTER = "[A-Za-z0-9._-]+"
"""The name of a master, as sentinel.conf permits it."""

BARE_PLACE = r"(localhost|[0-9]{1,3}(\.[0-9]{1,3}){3}|[A-Za-z0-9._-]+:[0-9]{1,5})(/[0-9]{0,5})?"
"""A place that somebody wrote without a scheme. A word alone is none, because it may be a password."""


# Taking a URL apart


class _Parts(NamedTuple):
    """A URL, as far as it can be cut without looking closely."""

    scheme: str
    login: str  # with the @
    places: list[str]
    path: str
    query: str

    def single(self, place: str) -> str:
        """Write the URL of one of the places."""
        query = f"?{self.query}" if self.query else ""
        return f"{self.scheme.partition('+')[0]}://{self.login}{place}{query}"


def _cut(url: str) -> _Parts:
    scheme, separator, rest = url.partition("://")
    whole, _, query = rest.partition("?")
    netloc, slash, path = whole.partition("/")
    login, at, hosts = netloc.rpartition("@")
    return _Parts(scheme.lower() if separator else "", login + at, hosts.split(","), slash + path, query)


def parse_deployment(url: str) -> Deployment:
    """Take a URL apart. Looks at the URL, at no file and no server.

    Args:
        url: one of the `FORMS`. A database number is accepted and means nothing: Pub/Sub knows no databases.

    Raises:
        ValueError: if the URL can't be used, or would not be done as it is written. The text says what is allowed and
            holds nothing of the URL, unless that is host and port alone.
    """
    _check(url)
    parts = _cut(url)
    options = _options(parts)
    username, _, password = parts.login.rpartition("@")[0].partition(":")
    login = Address(
        username=unquote(username) or options.get("username", ""),
        password=unquote(password) or options.get("password", ""),
        tls=TLS(_only_tls(options)) if parts.scheme.startswith("rediss") else None,
    )
    if parts.scheme == "unix":
        return Standalone(replace(login, path=unquote(parts.path)))
    if parts.scheme.endswith("+sentinel"):
        asked = replace(
            login, username=options.get("sentinel_username", ""), password=options.get("sentinel_password", "")
        )
        return Sentinel(_servers(parts, asked, SENTINEL_PORT), parts.path.split("/")[1], login)
    servers = _servers(parts, login, REDIS_PORT)
    return Cluster(servers) if parts.scheme.endswith("+cluster") else Standalone(servers[0])


def _servers(parts: _Parts, login: Address, port: int) -> tuple[Address, ...]:
    split = (_split(parts, place) for place in parts.places)
    servers = (login.at(unquote(server.hostname or ""), server.port or port) for server in split)
    return tuple(dict.fromkeys(servers))


def _only_tls(options: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in options.items() if name in TLS_OPTIONS}


def _options(parts: _Parts) -> dict[str, str]:
    return dict(_pairs(parts))


def _pairs(parts: _Parts) -> list[tuple[str, str]]:
    return parse_qsl(parts.query, keep_blank_values=True, errors="surrogateescape")


# Refusing one


def _check(url: str) -> None:
    if not url.isprintable() or " " in url:
        raise ValueError("a URL without white space and control characters (write them as %XX)")
    if "#" in url:
        raise ValueError("a URL without # (write it as %23 in a password)")
    parts = _cut(url)
    match parts.scheme.partition("+"):
        case "redis" | "rediss", "", "":
            _check_server(parts)
        case "redis" | "rediss", "+", "sentinel":
            _check_servers(parts, "10.0.0.1:26379,10.0.0.2:26379/mymaster")
            wanted = "the name of the master, in letters, digits, '.', '-' and '_',"
            _check_path(parts, rf"/{MASTER}(/[0-9]*)?", wanted, "10.0.0.1:26379,10.0.0.2:26379/mymaster")
        case "redis" | "rediss", "+", "cluster":
            _check_servers(parts, "10.0.0.1:7000,10.0.0.2:7001")
            _check_path(parts, "(/0?)?", "nothing or /0", "10.0.0.1:7000,10.0.0.2:7001")
        case "unix", "", "":
            _check_socket(parts)
        case "", "", "" if re.fullmatch(BARE_PLACE, url):
            raise ValueError(f"a scheme before it, as in redis://{url}")
        case _:
            raise ValueError(FORMS)
    _check_options(parts)


def _check_server(parts: _Parts) -> None:
    _check_places(parts, "a host after //, as in redis://127.0.0.1:6379/0")
    if len(parts.places) > 1:
        raise ValueError("one host; a list of them is for redis+sentinel:// and redis+cluster://")
    _check_path(parts, "(/[0-9]*)?", "nothing or the number of a database", "127.0.0.1:6379/0")


def _check_servers(parts: _Parts, example: str) -> None:
    if parts.login.count("@") > 1:
        raise ValueError(
            "one USER:PASSWORD@ before the first host, for all of them, and @ in a password written as %40"
        )
    _check_places(parts, f"a host after // and after each comma, as in {parts.scheme}://{example}")


def _check_socket(parts: _Parts) -> None:
    _split(parts, "")
    path = unquote(parts.path)
    if parts.places != [""] or path in ("", "/"):
        raise ValueError("the path of a socket after three slashes, as in unix:///run/redis/redis.sock")
    if not path.isprintable() or len(path.encode()) > PATH_MOST:
        raise ValueError(f"the path of a socket in at most {PATH_MOST} bytes, without control characters")


def _check_places(parts: _Parts, wanted: str) -> None:
    for place in parts.places:
        if place.count(":") > 1 and "[" not in place and re.fullmatch("[0-9A-Fa-f:.]+", place):
            raise ValueError("brackets around an IPv6 address, as in redis://[::1]:6379")
        server = _split(parts, place)
        if not server.hostname:
            raise ValueError(wanted)
        check_host(unquote(server.hostname))
        if server.port == 0:
            raise ValueError("a port from 1 to 65535")


def _split(parts: _Parts, place: str) -> SplitResult:
    try:
        server = urlsplit(parts.single(place))
        _ = server.port  # looked at when it is asked for
    except ValueError:
        # urlsplit's own text repeats what it takes for the port, which may be half a password.
        raise ValueError(
            "a port from 1 to 65535 after the host, and /, ?, @ and : of a password written as %XX"
        ) from None
    return server


def _check_path(parts: _Parts, pattern: str, wanted: str, example: str) -> None:
    if not re.fullmatch(pattern, parts.path):
        raise ValueError(f"{wanted} after the host, as in {parts.scheme}://{example}")


def _check_options(parts: _Parts) -> None:
    known = [name for name, option in OPTIONS.items() if re.fullmatch(option.schemes, parts.scheme)]
    pairs = _pairs(parts)
    for name, value in pairs:
        if name not in known:
            raise ValueError(f"only these after ?: {', '.join(known)}")
        pattern = OPTIONS[name].pattern
        if not re.fullmatch(pattern, value):
            raise ValueError(f"after {name}= only what matches {pattern}")
    if "+" in parts.query:
        raise ValueError("a + after ? written as %2B, and a space as %20, because some programs read + as a space")
    for name, times in Counter(name for name, _ in pairs).items():
        if times > 1:
            raise ValueError(f"{name}= once")
    options = dict(pairs)
    if parts.login and {"username", "password"} & options.keys():
        raise ValueError("user and password either before the @ or as username= and password=")
    check_options(options)
