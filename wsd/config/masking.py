"""What of a ``redis_url`` may be shown, whether it is one or somebody's mistake."""

from __future__ import annotations

import re
from urllib.parse import unquote

from wsd.config.redis_url import BARE_PLACE, MASTER, OPTIONS

__all__ = ["has_password", "mask_url"]

# What may be shown beside the options: places, and then a database or the name of a master.
_PLACE = r"(\[[^]]*\]|[^][:/#,]*)(:[0-9]{1,5})?"
_PUBLIC = rf"{_PLACE}(,{_PLACE})*(/[0-9]*)?"
_PUBLIC_SENTINEL = rf"{_PLACE}(,{_PLACE})*(/({MASTER}(/[0-9]*)?)?)?"


def has_password(url: str) -> bool:
    """Say whether a URL seems to hold a password, whatever shape it is in."""
    userinfo = url.partition("://")[2].rpartition("@")[0]
    return ":" in userinfo or "password" in unquote(url.partition("?")[2])


def mask_url(url: str) -> str:
    """Return a URL in which nothing secret is left, whatever shape it is in.

    Everything up to the last ``@`` goes, because a password that was not escaped may hold ``/`` or ``?``. What is
    neither host, port, database nor the name of a master goes too, because it may be a password: one that lost its
    ``@``, or one that holds an ``@`` and is the value of an option.
    """
    if re.fullmatch(BARE_PLACE, url):
        return url
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return "***"
    hidden, at, rest = rest.rpartition("@")
    if "?" in hidden:
        return f"{scheme}://***"
    address, question, query = rest.partition("?")
    public = _PUBLIC_SENTINEL if scheme.endswith("+sentinel") else _PUBLIC
    if scheme != "unix" and not re.fullmatch(public, address):
        address = "***"
    options = "&".join(map(_mask_option, query.split("&"))) if question else ""
    return f"{scheme}://{'***@' if at else ''}{address}{question}{options}"


def _mask_option(text: str) -> str:
    name, equals, value = text.partition("=")
    public = equals and name in OPTIONS and not OPTIONS[name].secret and "#" not in value
    return text if public else "***"
