"""``wsd check``: are the settings right, what are they, where do they come from, and does Redis agree?"""

from __future__ import annotations

import asyncio
from argparse import Namespace

from wsd.cli.output import say, write
from wsd.cli.settings import settings_and_places
from wsd.config import describe, warnings
from wsd.logs import printable

__all__ = ["run"]

MAX_ALIGNED = 40  # characters of a value; behind a longer one its place is not aligned


def run(args: Namespace) -> int:
    """Print every setting, secrets masked, and where it comes from. If asked to, try Redis.

    Raises:
        SettingsError: if the settings can't be used.
        CommandError: if the daemon could not serve with this Redis.
    """
    chosen, places = settings_and_places(args)
    lines = [(name, printable(value), printable(places.get(name, "default"))) for name, value in describe(chosen)]
    names = max(len(name) for name, _, _ in lines)
    values = max(len(value) for _, value, _ in lines if len(value) <= MAX_ALIGNED)
    for name, value, place in lines:
        write(f"{name:<{names}}  {value:<{values}}  {place}")
    for line in warnings(chosen):
        say(f"warning: {line}")
    if args.connect:
        # Imported when needed: it brings the daemon's links.
        from wsd.cli.connecting import connect

        for line in asyncio.run(connect(chosen)):
            write(printable(line))
    return 0
