"""What can be typed: one parser per command, with its help; the settings' flags are made from their fields.

Values of settings travel as text: `wsd.config` validates them, whatever place they come from. Secrets have no flag,
because every user of the machine can read a process's arguments.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, TypeAlias

from wsd import __version__
from wsd.cli.output import write
from wsd.config import Settings, allowed, flag_fields, load_with_places, text
from wsd.deployment import addresses
from wsd.errors import CommandError, SettingsError

__all__ = ["DEV_SETTINGS", "TOKEN_VARIABLE", "parse", "settings", "settings_and_places"]

TOKEN_VARIABLE = "WSD_TOKEN"
"""Holds the token for ``wsd tail``. No setting, although it looks like one."""

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

MAX_EXPIRES = 3650 * SECONDS["d"]

TOKEN_SETTINGS = ("jwt_algorithms", "jwt_key_file", "jwt_audience", "jwt_issuer")

METAVARS = {"seconds": "SECONDS", "a whole number": "N", "a number": "N", "a size": "SIZE", "a comma list": "LIST"}
"""What stands for a value in ``--help``, by how config describes what it allows. Else the values that it lists, or the
last word of the name."""

MAX_WIDTH = 100  # columns; longer lines of help are hard to read, however wide the terminal is

PROGRAM_FLAGS = ("-h", "--help", "-V", "-v", "--version")

DEV_SETTINGS = {"host": "127.0.0.1", "auth": "none", "log_format": "text"}
"""What stands for flags that ``wsd dev`` was not given. As strong as flags, so that nothing in the environment
makes a daemon without authentication listen to the network."""

FEW = 8  # settings that a usage line can list

PRECEDENCE = """\
A setting is taken from the first of these that has it: the flag, WSD_NAME in
the environment (WSD_PORT=3000), NAME in the TOML file (port = 3000), a file
NAME in $CREDENTIALS_DIRECTORY, the default. The key itself (jwt_key) and a
password in redis_url can't be flags. `wsd check` shows what is in force.
"""

PROGRAM = """\
WebSocket clients subscribe to topics; what is published on the Redis channel
of a topic reaches them. `wsd help COMMAND` says more, with examples.

exit status:
  0  done; for serve and dev: stopped by a signal, and drained
  1  the machine, Redis or the server says no
  2  wrong settings or arguments; each mistake is one line
"""

SERVE = """\
examples:
  openssl rand -hex 32 > key
  wsd serve --jwt-key-file key
  wsd serve --config wsd.toml --log-format json
  WSD_REDIS_URL=redis://:PASSWORD@redis.example wsd serve --jwt-key-file key

SIGTERM and SIGINT (Ctrl-C) drain: clients are sent away over drain_seconds; a
second signal stops at once. SIGHUP reads the key and the log level anew.
"""

DEV = """\
The daemon on 127.0.0.1 without authentication, with text logs and without a
drain, and a Redis-compatible server of its own on port 6379 or, where that is
taken, a free one; then `wsd publish` needs the --redis-url that it prints.
Prints what to type next. Not for production.

With a redis_url given (WSD_REDIS_URL, --redis-url, the TOML file) it uses that
Redis. Of host, auth and log_format only the flags count here.
"""

DEV_EXAMPLES = """\
examples:
  wsd dev
  wsd dev --port 8080
  WSD_REDIS_URL=redis://127.0.0.1:6379 wsd dev
"""

CHECK = """\
Validates the settings and prints them, secrets masked, each with the place
that it comes from. With --connect it also connects to Redis as the daemon
would, subscribes a private channel, publishes on it, and says what it found;
the exit status is 1 if the daemon could not serve so. It reads nothing else.
"""

CHECK_EXAMPLES = """\
examples:
  wsd check
  wsd check --connect
  wsd check --config /etc/wsd/wsd.toml
"""

TOKEN = """\
Signs a JSON Web Token that a daemon with these settings accepts, and prints it:
with the shared secret of the settings, or with a private key where tokens are
verified with a public one (RS*, PS*, ES*, EdDSA). For tests; in production the
service that knows your users signs.
"""

TOKEN_EXAMPLES = """\
examples:
  wsd token --jwt-key-file key --subject alice --expires 1h
  wsd token --jwt-key-file key --topics 'chat,news.*'
  WSD_TOKEN=$(wsd token --jwt-key-file key) wsd tail chat
  wsd token --jwt-algorithms ES256 --private-key-file private.pem
"""

PUBLISH = """\
Publishes a payload, any bytes, on a topic's Redis channel, and prints how many
subscribers of the channel got it: each replica that has listeners is one. With
Sentinel it publishes at the master, on a Cluster at the node that has the
channel's slot. With classic channels a Cluster's node counts only its own
subscribers, although all nodes' get the payload.

Without PAYLOAD the payloads are read from standard input, one a line; an empty
line is an empty payload.
"""

PUBLISH_EXAMPLES = """\
examples:
  wsd publish chat '{"hello":"world"}'
  wsd publish chat -- '-starts with a dash'
  tail -F access.log | wsd publish access
  WSD_REDIS_URL=redis://:PASSWORD@redis.example wsd publish chat hello
"""

TAIL = """\
Connects to wsd as a client, subscribes, and prints each snapshot as a line on
standard output; with several topics TOPIC<TAB>SNAPSHOT. A snapshot that was
published as JSON is printed byte for byte, except that line ends in it become
spaces. Other text arrives as a JSON string, binary payloads as base64 in one.

What else happens goes to standard error. Ctrl-C ends it.

It connects again, after a growing, random wait, when a connection is lost or
refused, a host name isn't known, or the server is full or restarts (429, 5xx,
1012); what is published meanwhile is not delivered. It ends with status 1 when
that would be in vain: the token or a topic is refused, the certificate can't
be trusted, or what answers speaks no TLS, no HTTP or no WebSocket (other 4xx).
"""

TAIL_EXAMPLES = f"""\
the token comes from the first of these that is given:
  --token-file FILE, which is read again for each connection
  {TOKEN_VARIABLE} in the environment
  the shared secret in the settings, for a server on this machine: tail signs
  a token for itself

examples:
  wsd tail chat
  wsd tail chat news --url wss://ws.example.org --token-file token
  WSD_TOKEN=$(wsd token) wsd tail chat --count 1 --timeout 10
"""


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the arguments.

    Raises:
        CommandError: with the status 2, if they are wrong.
        SystemExit: after ``--help`` or ``--version``.
    """
    program = _Parser(prog="wsd", description=PROGRAM)
    program.add_argument("-V", "-v", "--version", action="version", version=f"wsd {__version__}")
    commands = program.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=_Parser)
    parsers = {name: add(commands) for name, add in _COMMANDS.items()}
    commands.add_parser("help", help="explain wsd, or a command: wsd help publish")  # for the list of commands
    if argv[:1] == ["help"]:
        argv = [*argv[1:2], "--help"]
    _check_command(argv)
    args, extras = program.parse_known_args(argv)
    if extras:
        raise CommandError(_unknown(extras, parsers[args.command]), status=2)
    return args


def settings(args: argparse.Namespace, *, defaults: Mapping[str, str] | None = None) -> Settings:
    """Read the settings, with the flags that the command has.

    Args:
        args: what `parse` returned.
        defaults: stand for flags that are not given.

    Raises:
        SettingsError: with a line for every mistake.
    """
    return settings_and_places(args, defaults=defaults)[0]


def settings_and_places(
    args: argparse.Namespace, *, defaults: Mapping[str, str] | None = None
) -> tuple[Settings, dict[str, str]]:
    """Do what `settings` does; return also where each setting comes from, without those that have their default."""
    flags = dict(defaults or {})
    flags |= {name: value for name in flag_fields() if (value := getattr(args, name, None)) is not None}
    environ = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
    loaded, places = load_with_places(flags, environ=environ, config=args.config)
    if hasattr(args, "redis_url"):
        _load_certificates(loaded)
    return loaded, places


def _load_certificates(loaded: Settings) -> None:
    """Read the files that redis_url names.

    Raises:
        SettingsError: if one can't be used.
    """
    tls = addresses(loaded.redis_url.deployment)[0].tls  # all have the same
    try:
        if tls is not None:
            tls.load()
    except ValueError as exc:
        raise SettingsError([f"redis_url: {exc}"]) from None


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

    A flag or an URL is never broken: a part of it can't be copied, and a line end inside looks like a part of it.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._width = min(self._width, MAX_WIDTH)

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
        # An abbreviated flag would change its meaning when a setting is added.
        super().__init__(formatter_class=_Formatter, allow_abbrev=False, **options)

    def _print_message(self, message: str, file: object = None) -> None:
        # The help and the version. argparse itself passes over it in silence when they can't be written.
        write(message.removesuffix("\n"))

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message}; `{self.prog} --help` explains", status=2)


_Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"  # generic for the type checker only


def _add_serve(commands: _Commands) -> _Parser:
    parser = _add(commands, "serve", "run the daemon", "Runs the daemon until a signal comes.", SERVE)
    _add_settings(parser, flag_fields())
    return parser


def _add_dev(commands: _Commands) -> _Parser:
    parser = _add(commands, "dev", "run the daemon and a Redis for development", DEV, DEV_EXAMPLES)
    _add_settings(parser, flag_fields(), DEV_SETTINGS | {"drain_seconds": "0", "redis_url": "a server of its own"})
    return parser


def _add_check(commands: _Commands) -> _Parser:
    parser = _add(commands, "check", "validate the settings and print them", CHECK, CHECK_EXAMPLES)
    parser.add_argument("--connect", action="store_true", help="connect to Redis too, as the daemon would")
    _add_settings(parser, flag_fields())
    return parser


def _add_token(commands: _Commands) -> _Parser:
    parser = _add(commands, "token", "sign a token for tests", TOKEN, TOKEN_EXAMPLES)
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
    parser = _add(commands, "publish", "publish a payload, or one per input line", PUBLISH, PUBLISH_EXAMPLES)
    parser.add_argument("topic", metavar="TOPIC", help="the topic, as clients name it, without channel_prefix")
    parser.add_argument("payload", metavar="PAYLOAD", nargs="?", help="what to publish")
    _add_settings(parser, ("redis_url", "pubsub", "channel_prefix"))
    return parser


def _add_tail(commands: _Commands) -> _Parser:
    parser = _add(commands, "tail", "print what is published on topics", TAIL, TAIL_EXAMPLES)
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


def _add(commands: _Commands, name: str, help: str, description: str, epilog: str) -> _Parser:
    parser = commands.add_parser(name, help=help, description=description, epilog=epilog)
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
    group = parser.add_argument_group("settings", description=PRECEDENCE)
    for name in names:
        field = Settings.model_fields[name]
        default = (defaults or {}).get(name) or text(field.default) or "not set"
        words = f"{field.description} ({allowed(name)}); default: {default}"
        # No choices, types or defaults here: they would be a second opinion on what config allows.
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
    if flag == _flag("jwt_key") and _flag("jwt_key_file") in parser._option_string_actions:
        return (
            f"{flag}: a key can't be a flag, because every user of the machine can read the flags of a process;"
            " put it into a file and give --jwt-key-file FILE"
        )
    match = difflib.get_close_matches(flag, parser._option_string_actions, n=1)
    hint = f"did you mean {match[0]}?" if match else f"`{parser.prog} --help` lists them"
    return f"{flag}: no such flag; {hint}"
