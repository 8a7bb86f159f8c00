"""Runs a command, and turns what it raises into lines on standard error and an exit status."""

from __future__ import annotations

import sys

from wsd.cli import import_quietly
from wsd.cli.arguments import parse
from wsd.cli.output import close_stdout, say
from wsd.errors import CommandError, SettingsError, StartupError

__all__ = ["run"]

MODULES = {
    "serve": "wsd.cli.serve",
    "dev": "wsd.cli.dev",
    "check": "wsd.cli.check",
    "token": "wsd.cli.signing",
    "publish": "wsd.cli.publish",
    "tail": "wsd.cli.tail",
}
"""Where a command's ``run(args)`` is. Imported when needed: `publish` in a shell loop needs no WebSocket server."""


def run(argv: list[str] | None) -> int:
    """Run the command line; return the exit status."""
    try:
        args = parse(sys.argv[1:] if argv is None else argv)
        status: int = import_quietly(MODULES[args.command]).run(args)
    except SettingsError as exc:
        for mistake in exc.mistakes:
            say(mistake)
        return 2
    except StartupError as exc:
        say(str(exc))
        return 1
    except CommandError as exc:
        say(str(exc))
        return exc.status
    except BrokenPipeError:
        close_stdout()
        return 0
    except SystemExit as exc:  # argparse, after --help and --version
        return exc.code if isinstance(exc.code, int) else 0
    return status
