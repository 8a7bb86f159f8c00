"""``wsd check``: are the settings right, and what are they?"""

from __future__ import annotations

from argparse import Namespace

from wsd.cli.arguments import settings
from wsd.cli.output import printable, say, write
from wsd.config import describe, warnings

__all__ = ["run"]


def run(args: Namespace) -> int:
    """Print every setting, secrets masked.

    Raises:
        SettingsError: if the settings can't be used.
    """
    chosen = settings(args)
    lines = describe(chosen)
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        write(f"{name:<{width}}  {printable(value)}".rstrip())
    for line in warnings(chosen):
        say(f"warning: {line}")
    return 0
