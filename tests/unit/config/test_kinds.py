"""Tests of the kinds of values: which are taken, in which forms, and which are refused."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from wsd.config import Settings, load
from wsd.config.kinds import MAX_GIVEN, nearest, quoted
from wsd.errors import SettingsError

OPEN = {"auth": "none"}  # these tests are not about the key


def test_every_form_of_a_value() -> None:
    given = {
        "host": "127.0.0.1, ::1,127.0.0.1,fe80::1%lo,my_host.example.",
        "admin_host": ["::", "localhost"],
        "auth": "NONE",
        "max_backlog": "1.5 MiB",
        "max_message_size": "70000",
        "gap_notices": "off",
        "jwt_algorithms": "RS256, ES256,RS256",
        "allowed_origins": "https://Example.org, http://localhost:8080,null",
        "ping_interval": "0.5",
        "log_level": "WARNING",
        "pubsub": "Sharded",
        "channel_prefix": "app:",
        "jwt_audience": "api://wsd",
    }
    settings = Settings.model_validate(given)
    assert settings.host == ("127.0.0.1", "::1", "fe80::1%lo", "my_host.example.")
    assert settings.admin_host == ("::", "localhost")
    assert settings.auth == "none"
    assert settings.max_backlog == 1_572_864
    assert settings.max_message_size == 70_000
    assert settings.gap_notices is False
    assert settings.jwt_algorithms == ("RS256", "ES256")
    assert settings.allowed_origins == ("https://example.org", "http://localhost:8080", "null")
    assert settings.ping_interval == 0.5
    assert settings.log_level == "warning"
    assert settings.pubsub == "sharded"
    assert settings.channel_prefix == "app:"
    assert settings.jwt_audience == "api://wsd"


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://app.example.com:80", "http://app.example.com"),
        ("http://app.example.com:443", "http://app.example.com:443"),
        ("https://app.example.com:80", "https://app.example.com:80"),
        ("HTTPS://App.Example.com:0443", "https://app.example.com"),
        ("http://[0:0::1]:8080", "http://[::1]:8080"),
        ("https://[::1]:443", "https://[::1]"),
        ("https://xn--nicode-2ya.org", "https://xn--nicode-2ya.org"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        ("app://obsidian.md", "app://obsidian.md"),
        ("NULL", "null"),
    ],
)
def test_an_origin_is_compared_as_browsers_send_it(given: str, sent: str) -> None:
    assert Settings.model_validate({**OPEN, "allowed_origins": given}).allowed_origins == (sent,)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("wss://app.example.com", "with http or https in place of wss"),
        ("ws://localhost:3000", "with http or https in place of ws"),
        ("https://\u00fcnicode.org", "xn--"),
        ("https://a.org:", "scheme://host:port"),
        ("https://a.org:0", "scheme://host:port"),
        ("https://a.org:65536", "scheme://host:port"),
        ("https://a.org:https", "scheme://host:port"),
        ("https://[::g]", "scheme://host:port"),
        ("https://[:::]", "scheme://host:port"),
        ("https://::1", "scheme://host:port"),
        ("https://me@a.org", "scheme://host:port"),
        ("a.org:443", "scheme://host:port"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(given: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({**OPEN, "allowed_origins": given}, environ={})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (
            "host",
            [
                *("", ",", "a b", "a\nb", "a..b", "a@b", "x" * 64, "http://x", "*", 7, ["127.0.0.1", 7]),
                *("[::1]", "[::1]:3000", "127.0.0.1:3000", "127.0.0.1,[::1]", "1.2.3", "127.0.0.256", "::g"),
            ],
        ),
        ("port", ["", "-1", "65536", "http", "1.5", True, None, [1]]),
        (
            "redis_heartbeat",
            ["0", "-1", "nan", "inf", "86401", "5s", "", True, "1e400", "1e-400", "\u0665", "\u00bd", "yes"],
        ),
        ("ping_interval", ["1e-300", "0.0009", 1e-300, math.nan, math.inf, -math.inf, 10**400, [5], {}]),
        ("redis_url", ["", "http://h", "redis://", "redis://h#x", "redis+sentinel://h", "redis+cluster://h,", 5]),
        ("pubsub", ["", "shard", True, 1]),
        ("channel_prefix", ["_", "__key", "a b", "a\tb", "a\u00a0b", "x" * 257, "\udcff", 1]),
        ("auth", ["", "jwt2", True, 1]),
        ("jwt_audience", ["", 5, "\udcff", " ", " wsd", "wsd ", "wsd\n", "a\nb", "\ufeffwsd", ["wsd"]]),
        ("jwt_issuer", ["https://issuer.example/\r\n", "\tme"]),
        ("jwt_key_file", ["", " ", 5, True]),
        ("jwt_leeway", ["-1", "301", "nan"]),
        ("require_topics_claim", ["maybe", "", 2]),
        ("jwt_algorithms", ["", ",", "none", "hs256", "HS256,RS256", "HS256,none", 5, [5]]),
        (
            "allowed_origins",
            [
                "*",
                "wss://a.org",
                "https://a.org:x",
                "https://a.org:99999",
                "https://*.example.org",
                "https://a.org/",
                "a.org",
                "https://a.org/x",
                "https://",
                5,
            ],
        ),
        ("max_connections", ["-1", "10000001", "x"]),
        (
            "max_message_size",
            ["1023", "2GiB", "64KiB or so", "-5", "64 apples", "", "1e5", "\u0663MiB", "nan", "inf", True, 5000.5],
        ),
        ("max_request_rate", ["-1", "inf", "x"]),
        ("max_topics", ["0", "x"]),
        ("drain_seconds", ["-0.1", "inf"]),
        ("log_level", ["loud", "", 10]),
        ("log_format", ["xml"]),
    ],
)
def test_values_that_are_refused(name: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(ValidationError) as refused:
            Settings.model_validate({**OPEN, name: value})
        assert {error["loc"][0] for error in refused.value.errors()} == {name}
        if value is None:  # a flag that was not given
            continue
        with pytest.raises(SettingsError) as caught:
            load({**OPEN, name: value}, environ={})
        (line,) = caught.value.mistakes
        assert line.startswith(f"{name}: ")
        assert f"in --{name.replace('_', '-')}; allowed: " in line
        assert line.isprintable()


def test_the_beginning_of_a_long_value_is_repeated() -> None:
    assert quoted("a\nb\udcff") == r"'a\nb\udcff'"
    assert quoted("x" * 10_000) == f"'{'x' * 76}..."
    assert len(quoted(["x"] * 10_000)) == MAX_GIVEN


def test_names_that_are_near_to_nothing_get_no_proposal() -> None:
    assert nearest("prot", ["host", "port"]) == "; did you mean port?"
    assert nearest("xyzzy", ["host", "port"]) == ""
