"""What can be typed: one parser per command. The flags of settings are made from the fields of the settings.

Values of settings travel as text: `wsd.config` validates them, whatever place they come from. Secrets have no flag,
because every user of the machine can read a process's arguments.
"""

from __future__ import annotations

import argparse
import difflib
import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, TypeAlias

from wsd import __version__
from wsd.cli import help
from wsd.cli.output import write
from wsd.cli.settings import DEV_SETTINGS
from wsd.config import Settings, allowed, flag_fields, text
from wsd.errors import CommandError

__all__ = ["parse"]

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

MAX_EXPIRES = 3650 * SECONDS["d"]

TOKEN_SETTINGS = ("jwt_algorithms", "jwt_key_file", "jwt_audience", "jwt_issuer")

METAVARS = {"seconds": "SECONDS", "a whole number": "N", "a number": "N", "a size": "SIZE", "a comma list": "LIST"}
"""What stands for a value in ``--help``, by how config describes what it allows. Else the values that it lists, or the
last word of the name."""

MAX_WIDTH = 100  # columns; longer lines of help are hard to read, however wide the terminal is

PROGRAM_FLAGS = ("-h", "--help", "-V", "-v", "--version")

FEW = 8  # settings that a usage line can list


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the arguments.

    Raises:
        CommandError: with the status 2, if they are wrong.
        SystemExit: after ``--help`` or ``--version``.
    """
    program = _Parser(prog="wsd", description=help.PROGRAM)
    program.add_argument("-V", "-v", "--version", action=_Version)
    commands = program.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=_Parser)
    parsers = {name: add(commands) for name, add in _COMMANDS.items()}
    commands.add_parser("help", help="explain wsd, or a command: wsd help publish")  # for the list of commands
    if argv[:1] == ["help"]:
        argv = [*argv[1:2], "--help"]
    _check_command(argv)
    args, extras = program.parse_known_args(argv, argparse.Namespace(given=argv[1:]))
    if extras:
        raise CommandError(_unknown(extras, parsers[args.command]), status=2)
    return args


def _check_command(argv: list[str]) -> None:
    """Check the first argument before argparse does, which says only that a choice is invalid.

    Raises:
        CommandError: if there is no command, or no such command.
    """
    given = argv[0] if argv else ""
    if given in _COMMANDS or given in PROGRAM_FLAGS:
        return
    known = f"one of {', '.join(_COMMANDS)}; `wsd help` explains them"
    if not given:
        line = f"which command? {known.capitalize()}"
    elif given.startswith("-"):
        line = f"{given.partition('=')[0]}: the command comes first, {known}"
    elif match := difflib.get_close_matches(given, _COMMANDS, n=1):
        line = f"{given!r}: no such command; did you mean {match[0]}? `wsd help` lists them"
    else:
        line = f"{given!r}: no such command; {known}"
    raise CommandError(line, status=2)


# The parsers


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Fills paragraphs to the terminal's width, and keeps indented lines, which are commands, as they are.

    A flag or an URL is never broken: a part of it can't be copied, and a line end inside looks like a part of it. The
    two methods are private to argparse, which has no public place for this; the tests look at every page of help.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(shutil.get_terminal_size().columns - 2, MAX_WIDTH))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        paragraph: list[str] = []
        for line in [*text.splitlines(), ""]:
            if line and not line.startswith(" "):
                paragraph.append(line)
                continue
            lines += _wrap(" ".join(paragraph), width - len(indent))
            lines.append(line)
            paragraph = []
        return "\n".join(indent + line if line else "" for line in lines[:-1])

    def _split_lines(self, text: str, width: int) -> list[str]:
        return _wrap(" ".join(text.split()), width)


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


class _Parser(argparse.ArgumentParser):
    """Says a mistake in one line, like every other mistake, instead of printing its usage above it."""

    def __init__(self, **options: Any) -> None:
        self.flags: list[str] = []  # that it takes
        # An abbreviated flag would change its meaning when a setting is added.
        super().__init__(formatter_class=_Formatter, allow_abbrev=False, **options)

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """Add a flag, or a place for a word."""
        self.flags += [name for name in names if name.startswith("-")]
        return super().add_argument(*names, **options)

    def print_help(self, file: object = None) -> None:
        """Print the help. argparse itself passes over it in silence when it can't be written."""
        write(self.format_help().removesuffix("\n"))

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message}; `{self.prog} --help` explains", status=2)


class _Version(argparse.Action):
    """Prints the version, and says so when it can't be written, as for the help."""

    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, help="show program's version number and exit", **options)

    def __call__(self, parser: argparse.ArgumentParser, *given: object) -> None:
        write(f"wsd {__version__}")
        parser.exit()


_Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"  # generic for the type checker only


def _add_serve(commands: _Commands) -> _Parser:
    parser = _add(commands, "serve", "run the daemon", "Runs the daemon until a signal comes.", help.SERVE)
    _add_settings(parser, flag_fields())
    return parser


def _add_dev(commands: _Commands) -> _Parser:
    parser = _add(commands, "dev", "run the daemon and a Redis for development", help.DEV, help.DEV_EXAMPLES)
    _add_settings(parser, flag_fields(), DEV_SETTINGS | {"drain_seconds": "0", "redis_url": "a server of its own"})
    return parser


def _add_check(commands: _Commands) -> _Parser:
    parser = _add(commands, "check", "validate the settings and print them", help.CHECK, help.CHECK_EXAMPLES)
    parser.add_argument("--connect", action="store_true", help="connect to Redis too, as the daemon would")
    _add_settings(parser, flag_fields())
    return parser


def _add_token(commands: _Commands) -> _Parser:
    parser = _add(commands, "token", "sign a token for tests", help.TOKEN, help.TOKEN_EXAMPLES)
    parser.add_argument("--subject", metavar="NAME", help="who the client is, for the log (claim sub); default: nobody")
    parser.add_argument(
        "--topics",
        type=_topics,
        metavar="LIST",
        help="comma list of permitted topics; one that ends in * permits all that begin so; default: no claim,"
        " which permits every topic unless require_topics_claim is set",
    )
    parser.add_argument(
        "--expires",
        type=_duration,
        default="1h",
        metavar="TIME",
        help="how long it is valid: a number and s, m, h or d; default: 1h",
    )
    parser.add_argument(
        "--private-key-file", metavar="PEM", help="file with the private key, for other algorithms than HS*"
    )
    _add_settings(parser, ("auth", *TOKEN_SETTINGS))
    return parser


def _add_publish(commands: _Commands) -> _Parser:
    parser = _add(commands, "publish", "publish a payload, or one per input line", help.PUBLISH, help.PUBLISH_EXAMPLES)
    parser.add_argument("topic", metavar="TOPIC", help="the topic, as clients name it, without channel_prefix")
    parser.add_argument("payload", metavar="PAYLOAD", nargs="?", help="what to publish")
    _add_settings(parser, ("redis_url", "pubsub", "channel_prefix"))
    return parser


def _add_tail(commands: _Commands) -> _Parser:
    parser = _add(commands, "tail", "print what is published on topics", help.TAIL, help.TAIL_EXAMPLES)
    parser.add_argument("topics", metavar="TOPIC", nargs="+", help="a topic to subscribe to")
    parser.add_argument("--url", help="the server: ws:// or wss://; default: this machine, at the settings' port")
    parser.add_argument("--token-file", metavar="FILE", help="file that holds the token; - is standard input")
    parser.add_argument("--count", type=_count, metavar="N", help="end after N messages")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help="end after this time; with status 1 if it is not subscribed by then, or fewer messages than --count came",
    )
    _add_settings(parser, ("port", *TOKEN_SETTINGS))
    return parser


_COMMANDS = {
    "serve": _add_serve,
    "dev": _add_dev,
    "check": _add_check,
    "token": _add_token,
    "publish": _add_publish,
    "tail": _add_tail,
}


def _add(commands: _Commands, name: str, summary: str, description: str, epilog: str) -> _Parser:
    parser = commands.add_parser(name, help=summary, description=description, epilog=epilog)
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings; default: what WSD_CONFIG names")
    return parser


def _add_settings(parser: _Parser, names: Iterable[str], defaults: Mapping[str, str] | None = None) -> None:
    """Add the flags of settings.

    Args:
        parser: where to.
        names: the settings.
        defaults: what is said to be the default where it is not the setting's own.
    """
    names = list(names)
    if len(names) > FEW:
        parser.usage = f"{parser.prog} [-h] [--config FILE] [--SETTING VALUE ...]"
    group = parser.add_argument_group("settings", description=help.PRECEDENCE)
    for name in names:
        field = Settings.model_fields[name]
        default = (defaults or {}).get(name) or text(field.default) or "not set"
        words = f"{field.description} ({allowed(name)}); default: {default}"
        # No choices, types or defaults here: they would be a second opinion on what config allows.
        parser.flags.append(_flag(name))
        group.add_argument(_flag(name), metavar=_metavar(name), dest=name, help=words.replace("%", "%%"))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _metavar(name: str) -> str:
    kind = allowed(name)
    known = (value for words, value in METAVARS.items() if kind.startswith(words))
    listed = re.fullmatch(r"\w+(, \w+)* or \w+", kind)
    return next(known, re.sub(", | or ", "|", kind) if listed else name.rpartition("_")[2].upper())


# The values of arguments that are no settings


def _topics(value: str) -> list[str]:
    topics = [topic.strip() for topic in value.split(",") if topic.strip()]
    if not topics:
        raise argparse.ArgumentTypeError("names no topic")
    return topics


def _duration(value: str) -> int:
    match = re.fullmatch(r"([0-9]{1,10})([smhd])", value)
    seconds = int(match[1]) * SECONDS[match[2]] if match else 0
    if not 0 < seconds <= MAX_EXPIRES:
        raise argparse.ArgumentTypeError(f"{value!r} is not a number and s, m, h or d (90s, 30m, 1h; up to 3650d)")
    return seconds


def _count(value: str) -> int:
    if not re.fullmatch(r"0*[1-9][0-9]{0,17}", value):
        raise argparse.ArgumentTypeError(f"{value!r} is not a number from 1")
    return int(value)


def _seconds(value: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value) or not float(value):
        raise argparse.ArgumentTypeError(f"{value!r} is not a number of seconds above 0")
    return float(value)


def _unknown(extras: list[str], parser: _Parser) -> str:
    """Say which arguments are not understood. The value of a flag isn't repeated: it may be a key."""
    first = extras[0]
    if not first.startswith("-"):
        return f"one argument too many: {first!r}; `{parser.prog} --help` explains"
    flag = first.partition("=")[0]
    if flag == _flag("jwt_key") and _flag("jwt_key_file") in parser.flags:
        return (
            f"{flag}: a key can't be a flag, because every user of the machine can read the flags of a process;"
            " put it into a file and give --jwt-key-file FILE"
        )
    match = difflib.get_close_matches(flag, parser.flags, n=1)
    hint = f"did you mean {match[0]}?" if match else f"`{parser.prog} --help` lists them"
    return f"{flag}: no such flag; {hint}"
