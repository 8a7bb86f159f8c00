"""Where a server is, as Sentinels and nodes tell it. Their answers are input, so they may hold anything."""

from __future__ import annotations

from wsd.deployment import check_host
from wsd.errors import LinkError
from wsd.redis.wire import Reply, public

__all__ = ["Place", "told_number", "told_place"]

Place = tuple[str, int]
"""Host and port of a server."""

DIGITS_MOST = 20  # of a number: as many as 64 bits need. Python refuses to read some thousands


def told_place(host: Reply, port: Reply) -> Place:
    """Take a place as a Sentinel or a node tells it.

    Raises:
        LinkError: if no server can be there. The text says why.
    """
    try:
        name = host.decode() if isinstance(host, bytes) else host
        if not isinstance(name, str):
            raise ValueError("a name or an address as the host")
        check_host(name)
    except ValueError as exc:  # UnicodeDecodeError is one
        wanted = "UTF-8" if isinstance(exc, UnicodeDecodeError) else exc
        raise LinkError(f"it announces a server at host '{public(host)}', which can't be; allowed: {wanted}") from None
    number = told_number(port)
    if number is None or not 1 <= number <= 65535:
        raise LinkError(
            f"it announces a server at host '{public(host)}' and port '{public(port)}', which can't be;"
            " allowed: a port from 1 to 65535"
        )
    return name, number


def told_number(reply: Reply) -> int | None:
    """Read a number from a reply, an integer or its digits; None if the reply is no number, or a negative one."""
    if type(reply) is int:  # True is one to isinstance()
        return reply if reply >= 0 else None
    if isinstance(reply, bytes) and reply.isdigit() and len(reply) <= DIGITS_MOST:  # of bytes: 0 to 9 alone
        return int(reply)
    return None
