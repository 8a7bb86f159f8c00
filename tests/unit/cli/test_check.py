"""``wsd check``, and what each command says of settings that are wrong. With Redis: tests/whole/cli."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.lib.here import Here
from tests.lib.programs import SECRET


def test_check_masks_what_is_secret_of_sentinels(here: Here) -> None:
    url = "redis+sentinel://alice:hunter2@h1,h2/mymaster?sentinel_username=bob&sentinel_password=hunter3"
    text = here("check", "--auth=none", "--pubsub=Classic", WSD_REDIS_URL=url).out
    assert re.search(
        r"^redis_url +redis\+sentinel://\*\*\*@h1,h2/mymaster\?\*\*\*&\*\*\*  WSD_REDIS_URL$", text, re.MULTILINE
    )
    assert re.search("^pubsub +classic +--pubsub$", text, re.MULTILINE)


def test_check_says_where_each_value_comes_from(tmp_path: Path, here: Here) -> None:
    (tmp_path / "wsd.toml").write_text("port = 4001\nmax_topics = 3\n")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "jwt_key").write_text(SECRET)
    (credentials / "max_topics").write_text("4")
    env = {"CREDENTIALS_DIRECTORY": str(credentials), "WSD_CONFIG": f"{tmp_path}/wsd.toml", "WSD_PORT": "4002"}
    text = here("check", "--host", "::1", **env).out
    shown = {line.split()[0]: line.split()[1:] for line in text.splitlines()}
    assert shown["host"] == ["::1", "--host"]
    assert shown["port"] == ["4002", "WSD_PORT"]
    assert shown["max_topics"] == ["3", f"{tmp_path}/wsd.toml"]
    assert shown["jwt_key_file"] == [f"{credentials}/jwt_key", "credential", "jwt_key"]
    assert shown["log_level"] == ["info", "default"]
    assert SECRET not in text


def test_check_says_what_is_dangerous(here: Here) -> None:
    done = here("check", "--auth", "none", "--host", "0.0.0.0")
    assert done.status == 0
    assert done.err.startswith("wsd: warning: auth=none on 0.0.0.0")


def test_check_reads_the_config_file(tmp_path: Path, here: Here) -> None:
    config = tmp_path / "wsd.toml"
    config.write_text('auth = "none"\nport = 4001\n')
    assert "4001" in here("check", "--config", str(config)).out
    assert "4001" in here("check", WSD_CONFIG=str(config)).out
    assert here.refused(2, "check", "--config", str(tmp_path / "none.toml"))


@pytest.mark.parametrize("command", ["check", "serve", "dev"])
def test_every_mistake_is_a_line_and_no_line_holds_a_secret(command: str, here: Here) -> None:
    lines = here.refused(
        *(2, command, "--port", "70000", "--ping-interval", "soon"),
        WSD_REDIS_URL="http://:hunter2@x",
        WSD_JWT_KEY=SECRET,
        WSD_JWT_KEY_FILE="/nonexistent",
        WSD_AUHT="none",
    )
    assert {"port", "ping_interval", "redis_url", "WSD_AUHT"} <= {line.split(":")[0] for line in lines}
    assert not any("hunter2" in line or SECRET in line for line in lines)


def test_a_certificate_that_cannot_be_read_is_a_mistake(here: Here) -> None:
    lines = here.refused(2, "serve", WSD_AUTH="none", WSD_REDIS_URL="rediss://x?ssl_ca_certs=/nonexistent")
    assert len(lines) == 1 and lines[0].startswith("redis_url: ")


def test_the_token_variable_is_no_setting_and_no_mistake(here: Here) -> None:
    assert here("check", WSD_AUTH="none", WSD_TOKEN="x").status == 0
