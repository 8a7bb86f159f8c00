"""Runs a command, and turns what it raises into lines on standard error and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from wsd import logs
from wsd.cli import import_quietly
from wsd.cli.arguments import parse
from wsd.cli.output import check_stdout, close_stdout, say
from wsd.config import log_format
from wsd.errors import CommandError, SettingsError, StartupError

__all__ = ["run"]

MODULES = {
    "serve": "wsd.cli.serve",
    "dev": "wsd.cli.dev.run",
    "check": "wsd.cli.check",
    "token": "wsd.cli.token",
    "publish": "wsd.cli.publish.run",
    "tail": "wsd.cli.tail.run",
}
"""Where a command's ``run(args)`` is. Imported when needed: `publish` in a shell loop needs no WebSocket server."""


WORKER = "worker"
"""The command that the supervisor of ``wsd serve`` runs. Nobody types it, so it is in no help."""

PIPE = "fd="
"""Before the descriptor of the pipe to the supervisor, in that command. Without it, whoever reads what ps shows would
take the descriptor for the number of the worker."""

DAEMONS = ("serve", "dev")
"""Commands that need no standard output. The result of every other one is what it prints."""


def run(argv: list[str] | None) -> int:
    """Run the command line; return the exit status."""
    try:
        with _as_daemon() if argv is None and sys.argv[1:2] == [WORKER] else nullcontext():
            return _run(sys.argv[1:] if argv is None else argv)
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


def _run(argv: list[str]) -> int:
    worker = argv[:1] == [WORKER] and argv[1:2] != [] and argv[1].startswith(PIPE)
    try:
        args = parse(["serve", *argv[2:]] if worker else argv)
    except SystemExit:  # argparse has printed the help or the version
        return 0
    if worker:
        served: int = import_quietly("wsd.cli.worker").run(int(argv[1].removeprefix(PIPE)), args)
        return served
    if args.command not in DAEMONS:
        check_stdout()
    status: int = import_quietly(MODULES[args.command]).run(args)
    return status


@contextmanager
def _as_daemon() -> Iterator[None]:
    """Let what ends a daemon before it has its settings be said as its log is: in its format, without waiting."""
    try:
        yield
    except SystemExit:
        raise
    except BaseException:
        if not logs.active():
            flags = _flags(sys.argv[3:])
            config = flags.pop("config", None)
            logs.setup("info", log_format(flags, config=config))
            logs.catch_all()
        raise


def _flags(argv: list[str]) -> dict[str, str]:
    """The flags that say how to log, of arguments that may be wrong."""
    flags = {}
    for place, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag in ("--log-format", "--config"):
            flags[flag[2:].replace("-", "_")] = value if equals else "".join(argv[place + 1 : place + 2])
    return flags
