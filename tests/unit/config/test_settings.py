"""Tests of the settings: what they are, what they mean together, and that no secret of them is printed."""

from __future__ import annotations

import itertools

import pytest
from pydantic import SecretStr, ValidationError

from wsd.config import RedisUrl, Settings, allowed, describe, flag_fields, is_loopback, load, text, warnings
from wsd.config.redis_url import parse_deployment
from wsd.errors import SettingsError

SECRET = "correct-horse-battery-staple-0123456789"

OPEN = {"auth": "none"}  # for tests that are not about the key


def test_defaults() -> None:
    assert dict(describe(Settings(auth="none"))) == {
        "host": "127.0.0.1",
        "port": "3000",
        "admin_host": "127.0.0.1",
        "admin_port": "3001",
        "redis_url": "redis://127.0.0.1:6379/0",
        "pubsub": "auto",
        "redis_heartbeat": "5",
        "channel_prefix": "",
        "auth": "none",
        "jwt_algorithms": "HS256",
        "jwt_key": "",
        "jwt_key_file": "",
        "jwt_audience": "",
        "jwt_issuer": "",
        "jwt_leeway": "5",
        "require_topics_claim": "false",
        "allowed_origins": "",
        "subprotocols": "",
        "auth_timeout": "10",
        "ping_interval": "20",
        "ping_timeout": "20",
        "max_connections": "0",
        "max_message_size": "64KiB",
        "max_request_rate": "100",
        "max_topics": "128",
        "max_violations": "10",
        "max_backlog": "1MiB",
        "max_backlog_age": "10",
        "gap_notices": "true",
        "workers": "1",
        "worker_timeout": "10",
        "drain_seconds": "10",
        "log_level": "info",
        "log_format": "text",
    }
    assert Settings.model_fields["auth"].default == "jwt"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings(auth="none").port = 1


def test_the_constructor_reads_nothing_but_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSD_PORT", "7")
    assert Settings(auth="none").port == 3000


def test_the_ports_must_differ_unless_their_hosts_do() -> None:
    with pytest.raises(ValidationError, match="a port other than that for clients"):
        Settings(auth="none", port=3001)
    for host, admin_host in (
        ("0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", "::"),
        ("127.0.0.1,127.0.0.2", "127.0.0.2"),
    ):
        with pytest.raises(ValidationError, match="a port other than that for clients"):
            Settings.model_validate({"auth": "none", "port": 3001, "host": host, "admin_host": admin_host})
    Settings(auth="none", port=3001, host=("127.0.0.2", "::1"))
    Settings(auth="none", port=0, admin_port=0)


# The key


def test_a_key_is_asked_for_and_checked() -> None:
    assert Settings(jwt_key=SecretStr(SECRET)).key() == SECRET.encode()
    with pytest.raises(ValidationError, match="jwt_key: not given"):
        Settings()
    with pytest.raises(ValidationError, match="jwt_key: is 5 bytes long"):
        Settings(jwt_key=SecretStr("short"))


def test_a_key_that_nobody_asks_for_is_not_looked_at() -> None:
    settings = Settings.model_validate({**OPEN, "jwt_key": "short", "jwt_key_file": "/nowhere"})
    with pytest.raises(SettingsError, match="jwt_key: given together with"):
        settings.key()


def test_no_key_at_all() -> None:
    with pytest.raises(SettingsError, match="jwt_key: not given"):
        Settings(auth="none").key()


def test_the_key_is_no_flag() -> None:
    assert set(Settings.model_fields) - set(flag_fields()) == {"jwt_key"}


def test_no_secret_is_printed() -> None:
    settings = Settings(jwt_key=SecretStr(SECRET), redis_url=RedisUrl("redis://:hunter2@h:6379/0"))
    for shown in (repr(settings), str(settings), str(describe(settings)), settings.model_dump_json()):
        assert SECRET not in shown
        assert "hunter2" not in shown
        assert "h:6379" in shown
    assert dict(describe(settings))["jwt_key"] == "***"
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"jwt_key": [SECRET]})
    assert SECRET not in str(caught.value)


def test_the_url_of_redis_is_parsed_with_the_settings() -> None:
    url = "redis+cluster://u:hunter2@h1,h2"
    settings = Settings.model_validate({**OPEN, "redis_url": url})
    assert settings.redis_url.deployment == parse_deployment(url)
    assert settings.redis_url == RedisUrl(url) != RedisUrl("redis+cluster://u:hunter3@h1,h2")
    assert str(settings.redis_url) == "redis+cluster://***@h1,h2"


# Telling


def test_every_setting_says_what_it_is_and_what_it_takes() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert "\n" not in field.description
        assert allowed(name), name


def test_a_value_is_written_as_it_can_be_given() -> None:
    settings = Settings.model_validate(
        {**OPEN, "max_backlog": 70_001, "ping_interval": 0.25, "jwt_algorithms": "RS256,ES256", "port": 0}
    )
    written = {name: value for name, value in describe(settings) if value}
    assert written["max_backlog"] == "70001"
    assert written["ping_interval"] == "0.25"
    assert written["jwt_algorithms"] == "RS256,ES256"
    assert load(written, environ={}) == settings


def test_sizes_are_written_in_the_largest_unit() -> None:
    sizes = [2**10, 2**20, 2**20 + 2**10, 2**30]
    written = [text(Settings.model_validate({**OPEN, "max_backlog": size}).max_backlog) for size in sizes]
    assert written == ["1KiB", "1MiB", "1025KiB", "1GiB"]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("LocalHost.", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.org", False),
        ("localhost.example.org", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_open_doors_are_warned_of() -> None:
    for host, auth in itertools.product(("127.0.0.1", "0.0.0.0", "::1,::", "127.0.0.1,::1"), ("jwt", "none")):
        lines = warnings(Settings.model_validate({"host": host, "auth": auth, "jwt_key": SECRET}))
        assert bool(lines) is (host in ("0.0.0.0", "::1,::") and auth == "none")
        assert not lines or lines[0].startswith(f"auth=none on {host.removeprefix('::1,')}: ")
