"""The kinds of values that a setting may have, each with the words for what it allows.

Where a validator here raises a bare ValueError, those words are the whole answer; the text of any other ValueError
takes their place. What was given is repeated in one readable line, whatever it was.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, Secret, SecretStr
from pydantic_settings import NoDecode

from wsd.config.jwt_key import ALGORITHMS
from wsd.config.masking import mask_url
from wsd.config.redis_url import FORMS, parse_deployment

__all__ = [
    "Algorithms",
    "Allowed",
    "Auth",
    "BacklogSize",
    "Count",
    "CountOrNone",
    "Hosts",
    "Key",
    "KeyFile",
    "Leeway",
    "LogFormat",
    "LogLevel",
    "MessageSize",
    "Origins",
    "Port",
    "Prefix",
    "PubSub",
    "Rate",
    "RedisUrl",
    "Seconds",
    "SecondsOrNone",
    "Subprotocols",
    "Switch",
    "Text",
    "Url",
    "WorkerTimeout",
    "Workers",
    "nearest",
    "quoted",
]

DAY = 86_400  # seconds; no time here is meant to be longer, and a timer can carry it

SHORTEST = 0.001  # seconds; no timer is more precise

MAX_WORKERS = 128  # more cores than a Redis can feed; the memory that workers share has room for twice as many

MAX_GIVEN = 80  # characters of a refused value that a mistake repeats: enough to recognise it, and one line


ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[0-9a-f:.]+\]|[^/\s?#@*:\[\]\\,]+)(?::(?P<port>[0-9]{1,5}))?"
)

DEFAULT_PORTS = {"http": 80, "https": 443}  # those that browsers leave out of an origin


class Allowed(NamedTuple):
    """What a setting accepts, for its mistake, ``--help`` and the papers. Travels in the field's metadata."""

    text: str


class RedisUrl(Secret[str]):
    """The URL of a Redis, parsed; printed without its user, its password and whatever else may be secret in it.

    Args:
        url: the URL. Two are equal if their text is.

    Raises:
        ValueError: see `parse_deployment`.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.deployment = parse_deployment(url)

    def _display(self) -> str:
        return mask_url(self.get_secret_value())


def quoted(value: object) -> str:
    """Repeat a value, escaped and cut to a length that leaves the line readable."""
    shown = repr(str(value) if isinstance(value, Path) else value)
    return shown if len(shown) <= MAX_GIVEN else f"{shown[: MAX_GIVEN - 3]}..."


def nearest(name: str, known: Iterable[str]) -> str:
    """Propose the known name that is most like `name`; an empty text if none is."""
    match = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {match[0]}?" if match else ""


# Before pydantic's own validation: other ways of writing a value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _items(value: object) -> object:
    # A flag, the environment and a credential bring one text, TOML a text or an array.
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value


def _size(value: object) -> object:
    # ByteSize looks at the start only and takes "64KiB or so" for 64KiB.
    if isinstance(value, str) and not re.fullmatch(r"\s*[0-9]+(\.[0-9]+)?\s*([kmgt]i?)?b?\s*", value, re.IGNORECASE):
        raise ValueError
    return value


def _not_blank(value: object) -> object:
    # An empty path would be the working directory. It mostly comes from a variable that was left empty by mistake.
    if isinstance(value, str) and not value.strip():
        raise ValueError
    return value


# After it: rules of our own


def _solid(value: str) -> str:
    if not value.isprintable() or " " in value:
        raise ValueError
    return value


def _bare(value: str | None) -> str | None:
    # No token would match a text with the line end or the blank that a file or a shell has added.
    if value is not None and (value != value.strip() or not value.isprintable()):
        raise ValueError("a text without white space around it and without control characters")
    return value


def _timer(value: float) -> float:
    # 1e-300 is a number, but as an interval it is a busy loop.
    if value < SHORTEST:
        raise ValueError(f"seconds, {SHORTEST:g} or more")
    return value


def _hosts(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError
    return tuple(dict.fromkeys(map(_host, value)))


def _host(value: str) -> str:
    allowed = f"a comma list of IP addresses and host names, unlike {quoted(value)}"
    if value == "*":
        raise ValueError("0.0.0.0 for every IPv4 address, :: for every address of both families, unlike '*'")
    if value.startswith("["):
        raise ValueError(f"an IPv6 address without brackets and port, unlike {quoted(value)}")
    try:
        if ":" in value or re.fullmatch(r"[0-9.]+", value):
            ipaddress.ip_address(value)
        else:
            value.encode("idna")  # as the resolver does; it refuses an empty label, or one longer than 63 bytes
    except ValueError:
        raise ValueError(allowed) from None
    if len(value) > 255 or not value.isprintable() or re.search(r"[\s/\[\]@?#\\]", value):
        raise ValueError(allowed)
    return value


def _prefix(value: str) -> str:
    # With a prefix of `_` a topic `_keyspace@0__:x` would be a channel that Redis itself writes to.
    if value.startswith("_"):
        raise ValueError
    return _solid(value)


def _algorithms(value: tuple[str, ...]) -> tuple[str, ...]:
    for name in value:
        if name not in ALGORITHMS:
            raise ValueError(f"{', '.join(ALGORITHMS)}, unlike {quoted(name)}{nearest(name, ALGORITHMS)}")
    if not value:
        raise ValueError
    # With both families in the list, a public key, which anyone may have, would do as an HMAC secret.
    if len({name.startswith("HS") for name in value}) > 1:
        raise ValueError("either HS* alone (shared secret) or others alone (public key)")
    return tuple(dict.fromkeys(value))


def _origins(value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(_origin, value)))


def _origin(given: str) -> str:
    """Write an origin as browsers send it (RFC 6454, section 6.2), because it is compared as text."""
    origin = given.lower()
    if origin == "null":
        return origin
    match = ORIGIN.fullmatch(origin)
    if match is None or int(match["port"] or 1) not in range(1, 65_536):
        raise ValueError(f"scheme://host or scheme://host:port, unlike {quoted(given)}")
    scheme, host = match["scheme"], match["host"]
    if scheme in ("ws", "wss"):
        raise ValueError(f"the page's origin, with http or https in place of {scheme}, unlike {quoted(given)}")
    if not host.isascii():
        raise ValueError(f"the host as browsers send it (xn--…), unlike {quoted(given)}")
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            raise ValueError(f"scheme://host or scheme://host:port, unlike {quoted(given)}") from None
    port = match["port"] and int(match["port"])
    return f"{scheme}://{host}" if port in (None, DEFAULT_PORTS.get(scheme)) else f"{scheme}://{host}:{port}"


def _subprotocols(value: tuple[str, ...]) -> tuple[str, ...]:
    for name in value:
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}", name):  # a token of RFC 9110, section 5.6.2
            raise ValueError(f"a name without blanks and separators, unlike {quoted(name)}")
    return tuple(dict.fromkeys(value))


# The kinds

Switch = Annotated[bool, Allowed("true or false")]
Text = Annotated[str | None, Field(min_length=1), AfterValidator(_bare), Allowed("a text that is not empty")]

Count = Annotated[int, Field(ge=1, le=10**6), Allowed("a whole number from 1 to 1000000")]
CountOrNone = Annotated[int, Field(ge=0, le=10**7), Allowed("a whole number from 0 to 10000000")]
Rate = Annotated[float, Field(ge=0, le=10**6, allow_inf_nan=False), Allowed("a number from 0 to 1000000")]

Seconds = Annotated[
    float,
    Field(gt=0, le=DAY, allow_inf_nan=False),
    AfterValidator(_timer),
    Allowed("seconds, more than 0 and up to 86400"),
]
SecondsOrNone = Annotated[float, Field(ge=0, le=DAY, allow_inf_nan=False), Allowed("seconds from 0 to 86400")]
Leeway = Annotated[float, Field(ge=0, le=300, allow_inf_nan=False), Allowed("seconds from 0 to 300")]

Workers = Annotated[int, Field(ge=0, le=MAX_WORKERS), Allowed(f"a whole number from 0 to {MAX_WORKERS}")]
# A worker gives a sign of life each second.
WorkerTimeout = Annotated[float, Field(ge=2, le=DAY, allow_inf_nan=False), Allowed("seconds from 2 to 86400")]

MessageSize = Annotated[
    ByteSize, BeforeValidator(_size), Field(ge=2**10, le=2**30), Allowed("a size from 1KiB to 1GiB")
]
BacklogSize = Annotated[
    ByteSize, BeforeValidator(_size), Field(ge=2**10, le=2**34), Allowed("a size from 1KiB to 16GiB")
]

Hosts = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(_items),
    AfterValidator(_hosts),
    Allowed("a comma list of IP addresses and host names, IPv6 without brackets"),
]
Port = Annotated[int, Field(ge=0, le=65_535), Allowed("a port from 0 to 65535; 0 is any free one")]
Url = Annotated[RedisUrl, Allowed(FORMS)]
PubSub = Annotated[Literal["auto", "classic", "sharded"], BeforeValidator(_lower), Allowed("auto, classic or sharded")]
Prefix = Annotated[
    str,
    Field(max_length=256),
    AfterValidator(_prefix),
    Allowed("up to 256 characters without white space and control characters, the first of them not _"),
]
Origins = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(_items),
    AfterValidator(_origins),
    Allowed("a comma list of origins such as https://example.org, without a path"),
]
Subprotocols = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(_items),
    AfterValidator(_subprotocols),
    Allowed("a comma list of names such as chat.v2"),
]

Auth = Annotated[Literal["jwt", "none"], BeforeValidator(_lower), Allowed("jwt or none")]
Algorithms = Annotated[
    tuple[str, ...],
    NoDecode,
    BeforeValidator(_items),
    AfterValidator(_algorithms),
    Allowed(f"a comma list of {', '.join(ALGORITHMS)}, HS* not together with others"),
]
Key = Annotated[SecretStr | None, Allowed("a shared secret of 32 bytes or more, or a PEM public key")]
KeyFile = Annotated[Path | None, BeforeValidator(_not_blank), Allowed("the path of a file that can be read")]

LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"],
    BeforeValidator(_lower),
    Allowed("debug, info, warning or error"),
]
LogFormat = Annotated[Literal["text", "json"], BeforeValidator(_lower), Allowed("text or json")]
