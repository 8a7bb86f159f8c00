"""Tests of where settings come from: which source wins, and the line for each mistake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from wsd.config import allowed, load
from wsd.config.redis_url import FORMS
from wsd.errors import SettingsError

SECRET = "correct-horse-battery-staple-0123456789"

OPEN = {"auth": "none"}  # for tests that are not about the key


def mistakes(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    config: Path | str | None = None,
) -> list[str]:
    """Load settings that can't be used and return what is said about them."""
    with pytest.raises(SettingsError) as caught:
        load(flags or {}, environ=environ or {}, config=config)
    assert all(line.isprintable() for line in caught.value.mistakes)
    return caught.value.mistakes


def mistake(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    config: Path | str | None = None,
) -> str:
    """The same, for settings with one mistake."""
    (line,) = mistakes(flags, environ, config)
    return line


def test_the_stronger_source_wins(tmp_path: Path) -> None:
    file = tmp_path / "wsd.toml"
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    for count in range(5):
        flags: dict[str, object] = {"auth": "none"}
        environ = {"CREDENTIALS_DIRECTORY": str(credentials), "WSD_CONFIG": str(file)}
        if count > 0:
            (credentials / "max_topics").write_text("1\n")
        file.write_text("max_topics = 2" if count > 1 else "")
        if count > 2:
            environ["WSD_MAX_TOPICS"] = "3"
        if count > 3:
            flags["max_topics"] = "4"
        assert load(flags, environ=environ).max_topics == (count or 128)


def test_all_mistakes_are_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # because a long path is shown in part only
    file = Path("wsd.toml")
    file.write_text("prot = 1\nport = 70000")
    lines = mistakes({"hots": "x"}, {"WSD_AUTH_TIMEOUT": "0", "WSD_LOG_LEVELS": "x"}, file)
    assert lines == [
        f"prot in '{file}': no such setting; did you mean port?",
        "WSD_LOG_LEVELS: no such setting; did you mean WSD_LOG_LEVEL?",
        "--hots: no such flag; did you mean --host?",
        f"port: 70000 in {file}; allowed: a port from 0 to 65535; 0 is any free one",
        (
            "jwt_key: not given, and auth=jwt needs one: make one with `openssl rand -hex 32 > key` and give"
            " `--jwt-key-file key` (for development: `wsd dev`, or `--auth none`)"
        ),
        "auth_timeout: '0' in WSD_AUTH_TIMEOUT; allowed: seconds, more than 0 and up to 86400",
    ]


def test_a_mistake_repeats_the_beginning_of_a_long_value() -> None:
    line = mistake({**OPEN, "port": "x" * 10_000})
    assert line == f"port: '{'x' * 76}... in --port; allowed: {allowed('port')}"


def test_a_mistake_may_be_about_a_default() -> None:
    assert mistake({**OPEN, "port": "3001"}) == (
        "admin_port: 3001 in the default; allowed: a port other than that for clients"
    )


def test_a_key_that_does_not_fit_is_a_mistake_among_others(tmp_path: Path) -> None:
    file = tmp_path / "{key}"
    assert mistakes({"jwt_key_file": str(file), "log_format": "xml"}) == [
        f"jwt_key_file: can't read '{file}': No such file or directory",
        "log_format: 'xml' in --log-format; allowed: text or json",
    ]


# Flags


def test_a_flag_that_was_not_given_is_none() -> None:
    assert load({**OPEN, "port": None}, environ={"WSD_PORT": "7"}).port == 7


def test_the_key_is_no_flag() -> None:
    assert mistakes({**OPEN, "jwt_key": SECRET}) == ["--jwt-key: no such flag; did you mean --jwt-key-file?"]


def test_a_password_has_no_place_among_the_flags() -> None:
    line = mistake({**OPEN, "redis_url": "redis://u:hunter2@h"})
    assert line.startswith("redis_url: 'redis://***@h' in --redis-url")
    assert "WSD_REDIS_URL" in line
    load({**OPEN, "redis_url": "redis://user@h:6379/0"}, environ={})


# The environment


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSD_PORT", "7")
    assert load(OPEN).port == 7


def test_variables() -> None:
    environ = {
        "WSD_AUTH": "none",
        "WSD_JWT_ALGORITHMS": "RS256,ES256",
        "WSD_MAX_BACKLOG": "2MiB",
        "WSD_REDIS_URL": "redis://:pw@redis:6379/0",
        "UNRELATED": "1",
        "wsd_lower": "is another program's",
    }
    settings = load({}, environ=environ)
    assert settings.jwt_algorithms == ("RS256", "ES256")
    assert settings.max_backlog == 2_097_152
    assert settings.redis_url.get_secret_value() == "redis://:pw@redis:6379/0"
    assert mistake(OPEN, {"WSD_XYZZY": "1"}) == "WSD_XYZZY: no such setting"


def test_kubernetes_service_links() -> None:
    environ = {
        "WSD_PORT": "tcp://10.0.0.1:3000",
        "WSD_PORT_3000_TCP": "tcp://10.0.0.1:3000",
        "WSD_PORT_3000_TCP_ADDR": "10.0.0.1",
        "WSD_SERVICE_HOST": "10.0.0.1",
        "WSD_SERVICE_PORT": "3000",
        "WSD_SERVICE_PORT_WS": "3000",
        "WSD_ADMIN_PORT": "tcp://10.0.0.2:3001",
        "WSD_ADMIN_SERVICE_HOST": "10.0.0.2",
        "WSD_EU_PORT": "tcp://10.0.0.3:3000",
    }
    line = mistake(OPEN, environ)
    assert all(name in line for name in environ)
    assert "enableServiceLinks: false" in line


# The file


def test_the_file_named_by_the_flag_wins(tmp_path: Path) -> None:
    named, other = tmp_path / "named", tmp_path / "other"
    named.write_text("port = 1")
    other.write_text("prot = 2")
    assert load(OPEN, environ={"WSD_CONFIG": str(other)}, config=named).port == 1


def test_toml_has_types(tmp_path: Path) -> None:
    file = tmp_path / "wsd.toml"
    file.write_text(
        """
        auth = "none"
        port = 7
        ping_interval = 5
        max_backlog = "2MiB"
        gap_notices = false
        allowed_origins = ["https://example.org", "https://example.net"]
        """
    )
    settings = load({}, environ={}, config=file)
    assert (settings.port, settings.ping_interval, settings.max_backlog) == (7, 5.0, 2_097_152)
    assert settings.gap_notices is False
    assert settings.allowed_origins == ("https://example.org", "https://example.net")


def test_a_file_that_is_missing_is_one_mistake(tmp_path: Path) -> None:
    assert mistake({}, {"WSD_CONFIG": str(tmp_path / "none")}) == (
        f"config: can't read '{tmp_path}/none': No such file or directory"
    )
    assert mistake(config=tmp_path) == f"config: can't read '{tmp_path}': not a file"
    assert mistake({}, {"WSD_CONFIG": ""}) == "config: can't read '': No such file or directory"
    assert "config: can't read 'a\\x00b'" in mistake(config="a\0b")


def test_a_file_that_is_not_toml_is_one_mistake_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # because a long path is shown in part only
    file = Path("wsd.toml")
    file.write_text("port = 1\nhost = = 3")
    line = mistake(config=file)
    assert line.startswith(f"config: '{file}' is not TOML: ")
    assert line.endswith("(at line 2, column 8)")
    file.write_bytes(b"port = 1\nhost = '\xff'")
    assert mistake(config=file) == f"config: '{file}' is not UTF-8 text (at line 2, column 9)"
    file.write_bytes(b"\xef\xbb\xbfport = 1\r\n")
    assert mistake(config=file).startswith(f"config: '{file}' begins with a byte order mark")
    file.write_text("port = 1\nport = 2\n")
    assert mistake(config=file) == f"config: '{file}' is not TOML: Cannot overwrite a value (at line 2, column 9)"


def test_a_table_in_the_file_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # because a long path is shown in part only
    file = Path("wsd.toml")
    file.write_text("auth = 'none'\n[redis]\nurl = 'x'\n[port]\nclients = 1")
    assert mistakes(config=file) == [
        f"redis in '{file}': no such setting; did you mean redis_url?",
        f"port: {{'clients': 1}} in {file}; allowed: {allowed('port')}",
    ]


# Credentials


def test_credentials(tmp_path: Path) -> None:
    (tmp_path / "redis_url").write_text("redis://:pw@redis:6379/0\n")
    (tmp_path / "jwt_key").write_bytes(b"\xff" * 32)
    (tmp_path / "..data").mkdir()
    settings = load({}, environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert settings.redis_url.get_secret_value() == "redis://:pw@redis:6379/0"
    # A key that is a credential is a file: binary is welcome, and a reload reads it anew.
    assert settings.key() == b"\xff" * 32
    (tmp_path / "jwt_key").write_bytes(b"\xfe" * 32)
    assert settings.key() == b"\xfe" * 32


def test_a_key_of_a_stronger_source_hides_the_credential(tmp_path: Path) -> None:
    (tmp_path / "jwt_key").write_text("too short")
    other = tmp_path / ".other"
    other.write_text(SECRET)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert load({}, environ={**environ, "WSD_JWT_KEY": SECRET}).key() == SECRET.encode()
    assert load({"jwt_key_file": other}, environ=environ).key() == SECRET.encode()


def test_credentials_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "jwt_kye").write_text(SECRET)
    (tmp_path / "redis_url").write_bytes(b"\xff")
    (tmp_path / "port").mkdir()
    assert mistakes(OPEN, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == [
        "credential jwt_kye: no such setting; did you mean jwt_key?",
        "port: can't read the credential: Is a directory",
        "redis_url: the credential is not UTF-8 text",
    ]
    assert mistake(OPEN, {"CREDENTIALS_DIRECTORY": str(tmp_path / "none")}) == (
        f"CREDENTIALS_DIRECTORY: can't read '{tmp_path}/none': No such file or directory"
    )


# Secrets


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("http://h", f"'http://h' in WSD_REDIS_URL; allowed: {FORMS}"),
        ("redis://:hunter/2@h", "'redis://***@h' in WSD_REDIS_URL; allowed: a port from 1 to 65535"),
        ("redis://:hunter 2@h", "'redis://***@h' in WSD_REDIS_URL; allowed: a URL without white space"),
        ("redis://h?password=hunter2&db=x", "'redis://h?***&db=x' in WSD_REDIS_URL; allowed: after db= only"),
    ],
)
def test_a_refused_redis_url_is_masked(url: str, line: str) -> None:
    assert mistake(OPEN, {"WSD_REDIS_URL": url}).startswith(f"redis_url: {line}")


def test_no_mistake_holds_a_secret(tmp_path: Path) -> None:
    file = tmp_path / "wsd.toml"
    bad: list[dict[str, str]] = [
        {"WSD_JWT_KYE": SECRET},
        {"WSD_JWT_KEY": SECRET, "WSD_JWT_ALGORITHMS": "RS256"},
        {"WSD_JWT_KEY": SECRET, "WSD_PORT": "x"},
        {"WSD_JWT_KEY_FILE": SECRET},
        {"WSD_REDIS_URL": SECRET},
        {"WSD_REDIS_URL": f"redis://:{SECRET}@h:x"},
    ]
    for environ in bad:
        assert SECRET not in str(mistakes({}, environ))
    for line in (f"jwt_key = ['{SECRET}']", f"redis_url = ['{SECRET}']", f"jwt_key = '{SECRET}' '"):
        file.write_text(line)
        assert SECRET not in str(mistakes({}, {}, file))
