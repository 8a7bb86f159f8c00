"""``wsd publish``: publishes an argument, or lines of standard input."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator

from wsd.cli.output import say, write
from wsd.cli.publish.publisher import Publisher
from wsd.cli.settings import settings
from wsd.errors import CommandError, RequestError
from wsd.protocol.messages import check_topic

__all__ = ["payloads", "run"]

STDIN = 0

CHUNK = 65_536  # bytes read at a time: what a pipe holds


def run(args: Namespace) -> int:
    """Publish one payload, or those of standard input.

    Raises:
        SettingsError: if the settings can't be used.
        CommandError: if the topic can't be, or Redis is away.
    """
    try:
        check_topic(args.topic)
        topic = args.topic.encode()
    except RequestError as exc:
        raise CommandError(exc.message, status=2) from None
    chosen = settings(args, defaults={"auth": "none"})  # it needs no key
    channel = chosen.channel_prefix.encode() + topic
    publisher = Publisher(chosen.redis_url.deployment, chosen.pubsub, channel)
    if args.payload is not None:
        publisher.publish([os.fsencode(args.payload)])
    else:
        if os.isatty(STDIN):
            say("each line is a payload; Ctrl-D ends")
        for batch in payloads(STDIN):
            publisher.publish(batch)
    write(publisher.report(many=args.payload is None))
    return 0


def payloads(descriptor: int) -> Iterator[list[bytes]]:
    """Read lines without their ends, in batches of what is there: a slow writer's lines are not held back."""
    unfinished: list[bytes] = []  # the pieces of the last line
    while chunk := _read(descriptor):
        first, *others = chunk.split(b"\n")
        unfinished.append(first)
        if others:
            *whole, last = others
            yield [b"".join(unfinished), *whole]
            unfinished = [last]
    if last := b"".join(unfinished):
        yield [last]


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, CHUNK)
    except OSError as exc:  # a directory, or a descriptor that is closed
        raise CommandError(f"can't read standard input: {exc.strerror}") from None
