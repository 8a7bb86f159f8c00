"""Help, the version, and arguments that are wrong."""

from __future__ import annotations

import re

import pytest

from tests.lib.here import Here
from tests.lib.programs import SECRET
from wsd.config import flag_fields

COMMANDS = ("serve", "dev", "check", "token", "publish", "tail")


@pytest.mark.parametrize("flag", ["--version", "-V", "-v"])
def test_version(flag: str, here: Here) -> None:
    assert here(flag) == (0, "wsd 0.1.0\n", "")


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_is_a_command_too(command: str | None, here: Here) -> None:
    name = [command] if command else []
    assert here("help", *name) == (0, here(*name, "--help").out, "")


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_is_readable(command: str | None, columns: int, here: Here) -> None:
    asked = (command, "--help") if command else ("--help",)
    status, text, _ = here(*asked, COLUMNS=str(columns))
    assert status == 0
    lines = text.splitlines()
    # Examples, and words that can be copied, may be longer than a narrow terminal; all else has room.
    prose = [line for line in lines if not re.match("  [^ -]", line) and len(line.split()) > 1]
    assert max(map(len, prose)) <= min(columns, 100)
    assert max(map(len, lines)) <= max(columns, 80)
    # Nothing that can be copied is broken.
    words = set(text.split())
    wide = set(here(*asked, COLUMNS="1000").out.split())
    assert {word for word in words if "/" in word or "--" in word} == {
        word for word in wide if "/" in word or "--" in word
    }
    if command:
        assert "examples:" in lines
    else:
        assert all(any(line.split()[:1] == [name] for line in lines) for name in COMMANDS)


def test_help_names_every_flag_with_its_default(here: Here) -> None:
    help = " ".join(here("serve", "--help").out.split())
    for name in flag_fields():
        assert f"--{name.replace('_', '-')} " in help
    assert "default: 1MiB" in help
    assert "--gap-notices true|false " in help and "--log-level debug|info|warning|error " in help
    assert "--jwt-key " not in help


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "which command?"),
        (["sevre"], "'sevre': no such command; did you mean serve?"),
        (["help", "pubish"], "'pubish': no such command; did you mean publish?"),
        (["xyz"], "'xyz': no such command; one of serve, dev,"),
        (["--port", "3", "serve"], "--port: the command comes first"),
        (["-"], "-: the command comes first"),
        ([""], "which command?"),
        (["serve", "--prot", "3"], "--prot: no such flag; did you mean --port?"),
        (["serve", "--jwt-key", SECRET], "--jwt-key: a key can't be a flag"),
        (["tail", "chat", f"--jwt-key={SECRET}"], "give --jwt-key-file FILE"),
        (["serve", "--jwt-kye", SECRET], "--jwt-kye: no such flag; did you mean --jwt-key-file?"),
        (["serve", "--ping", "3"], "--ping: no such flag"),  # no abbreviations
        (["publish", "chat", "hello", "world"], "one argument too many: 'world'"),
        (["publish"], "TOPIC"),
        (["publish", "a b", "x"], "white space"),
        (["publish", "__keyspace@0__:x", "x"], "underscores"),
        (["publish", "\udcff", "x"], "not UTF-8"),
        (["publish", "chat", "x", "--redis-url", "redis+sentinel://h"], "the name of the master"),
        (["publish", "chat", "x", "--redis-url", "redis+sentinel://h/m?sentinel_password=x"], "in --redis-url"),
        (["publish", "chat", "x", "--pubsub", "shard"], "'shard' in --pubsub; allowed: auto, classic or sharded"),
        (["tail"], "TOPIC"),
        (["tail", "a\tb"], r"'a\tb': a topic can't contain white space"),
        (["tail", "chat", "--count", "0"], "'0' is not a number from 1"),
        (["tail", "chat", "--timeout", "0"], "'0' is not a number of seconds above 0"),
        (["tail", "chat", "--timeout", "nan"], "'nan' is not a number of seconds above 0"),
        (["tail", "chat", "--url", "http://x"], "expected ws://HOST:PORT"),
        (["tail", "chat", "--url", "ws://x:port"], "expected ws://HOST:PORT"),
        (["tail", "chat", "--url", "ws://a..b"], "expected ws://HOST:PORT"),
        (["tail", "chat", "--url", "ws://%zz"], "expected ws://HOST:PORT"),
        (["tail", "chat", "--url", "ws://a b"], "white space"),
        (["tail", "chat", "--url", "ws://a\n"], "a control character"),
        (["tail", "chat", "--url", "ws://a:0"], "port 0"),
        (["tail", "chat", "--url", ""], "expected ws://HOST:PORT"),
        (["tail", "chat", "--url", "ws://[::1"], "expected ws://HOST:PORT"),
        (["tail", "chat", "--url", "localhost:3000"], "did you mean ws://localhost:3000?"),
        (["tail", "chat", "--port", "0"], "--url"),
        (["token", "--expires", "1"], "'1' is not a number and s, m, h or d"),
        (["token", "--expires", "0s"], "'0s' is not"),
        (["token", "--topics", ","], "names no topic"),
    ],
)
def test_wrong_arguments(args: list[str], words: str, here: Here) -> None:
    (line,) = here.refused(2, *args)
    assert words in line
    assert SECRET not in line
