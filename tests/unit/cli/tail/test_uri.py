"""Where the server of ``wsd tail`` is. What is no URL of a server: tests/unit/cli/test_arguments.py."""

from __future__ import annotations

import pytest

from wsd.cli.tail.uri import default_url, parse, server_url, shown
from wsd.config import Settings
from wsd.errors import CommandError


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        (["127.0.0.1"], "ws://127.0.0.1:3000"),
        (["0.0.0.0"], "ws://127.0.0.1:3000"),
        (["::", "127.0.0.1"], "ws://[::1]:3000"),
        (["fe80::1"], "ws://[fe80::1]:3000"),
        (["localhost", "::1"], "ws://localhost:3000"),
    ],
)
def test_a_daemon_is_reached_at_the_first_of_its_hosts(hosts: list[str], url: str) -> None:
    assert server_url(hosts, 3000) == url
    assert default_url(Settings(auth="none", host=tuple(hosts))) == url


def test_a_port_that_is_not_known_yet() -> None:
    with pytest.raises(CommandError, match="give --url"):
        default_url(Settings(auth="none", port=0))


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("ws://user:hunter2@h.example:3000/?key=hunter3", "ws://h.example:3000"),
        ("wss://h.example/path/?key=hunter3", "wss://h.example:443/path"),
        ("ws://[::1]", "ws://[::1]:80"),
    ],
)
def test_what_is_shown_of_a_url_holds_no_secret(url: str, text: str) -> None:
    assert shown(parse(url)) == text
