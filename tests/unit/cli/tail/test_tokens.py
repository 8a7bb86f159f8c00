"""Where the token of ``wsd tail`` comes from."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import jwt
import pytest
from websockets.uri import parse_uri

from bench.processes import plain_environment
from tests.lib.programs import SECRET
from wsd.cli.tail.tokens import token_source
from wsd.config import Settings
from wsd.errors import CommandError

HERE, ELSEWHERE = parse_uri("ws://localhost:1"), parse_uri("wss://ws.example.org")
NO_KEY = Settings(auth="none")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment, without a token."""
    environment = plain_environment()
    monkeypatch.setattr(os, "environ", environment)
    return environment


def test_the_machine_s_own_signature_goes_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET)
    settings = Settings(jwt_key_file=tmp_path / "key")
    assert token_source(None, settings, ELSEWHERE, ["chat"])() is None
    token = token_source(None, settings, HERE, ["chat"])()
    assert token is not None
    assert jwt.decode(token, SECRET, algorithms=["HS256"])["topics"] == ["chat"]


def test_a_file_comes_before_the_environment_and_that_before_a_signature(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "key").write_text(SECRET)
    (tmp_path / "token").write_text("from.a.file\n")
    settings = Settings(jwt_key_file=tmp_path / "key")
    environment["WSD_TOKEN"] = " from.the.environment"
    assert token_source(None, settings, HERE, ["chat"])() == "from.the.environment"
    assert token_source(str(tmp_path / "token"), settings, HERE, ["chat"])() == "from.a.file"


def test_a_file_is_read_again_for_each_connection(tmp_path: Path) -> None:
    file = tmp_path / "token"
    get = token_source(str(file), NO_KEY, HERE, ["chat"])
    for token in ("first", "second"):
        file.write_text(token)
        assert get() == token


def test_standard_input_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("piped\n"))
    get = token_source("-", NO_KEY, ELSEWHERE, ["chat"])
    assert [get(), get()] == ["piped", "piped"]


@pytest.mark.parametrize("content", ["", " \n", "two\nlines", "\N{GRINNING FACE}"])
def test_what_is_no_token_is_said_without_repeating_it(content: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    with pytest.raises(CommandError, match=r"holds no token|no text") as caught:
        token_source(str(file), NO_KEY, HERE, ["chat"])()
    assert "lines" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"token_file: can't read .*: No such file or directory"):
        token_source(str(tmp_path / "none"), NO_KEY, HERE, ["chat"])()
