"""``wsd serve``, where it is not the process's own command line. Else `wsd.cli` starts the supervisor at once."""

from __future__ import annotations

import sys
from argparse import Namespace

from wsd.cli.settings import settings
from wsd.supervisor import run as supervise

__all__ = ["run"]


def run(args: Namespace) -> int:
    """Serve until a signal comes, then drain.

    Raises:
        SettingsError: if the settings can't be used.
    """
    settings(args)  # a caller of main() hears of a mistake here, and not from another process
    return supervise(args.given, (sys.executable, "-m", "wsd"))
