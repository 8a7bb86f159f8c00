"""``wsd tail``: prints what is published on topics, as a client of wsd gets it."""

from __future__ import annotations

import asyncio
from argparse import Namespace

from wsd.cli.output import while_read, write
from wsd.cli.settings import settings
from wsd.cli.tail.client import Tail
from wsd.cli.tail.tokens import token_source
from wsd.cli.tail.uri import default_url, parse
from wsd.errors import CommandError, RequestError
from wsd.protocol.messages import check_topic

__all__ = ["run"]


def run(args: Namespace) -> int:
    """Print the snapshots of topics until Ctrl-C, or until as many as asked for have come.

    Raises:
        SettingsError: if the settings can't be used.
        CommandError: if the server refuses for good.
    """
    for topic in args.topics:
        _check(topic)
    chosen = settings(args, defaults={"auth": "none"})  # it needs no key
    url = default_url(chosen) if args.url is None else args.url
    uri = parse(url)
    topics = list(dict.fromkeys(args.topics))
    tail = Tail(
        url,
        topics,
        token=token_source(args.token_file, chosen, uri, topics),
        count=args.count,
        write=write,
    )
    try:
        return asyncio.run(_follow(tail, args.timeout))
    except KeyboardInterrupt:
        return 0  # how one ends it


async def _follow(tail: Tail, seconds: float | None) -> int:
    try:
        async with asyncio.timeout(seconds):
            await while_read(tail.run())
    except TimeoutError:
        if unmet := tail.unmet():
            raise CommandError(f"{unmet} within {seconds:g} s") from None
    return 0


def _check(topic: str) -> None:
    try:
        check_topic(topic)
    except RequestError as exc:
        raise CommandError(f"{topic!r}: {exc.message}", status=2) from None
