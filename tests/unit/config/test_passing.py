"""Settings on their way to another process: what comes out is what went in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wsd.config import Settings, pack, unpack

SECRET = "correct-horse-battery-staple-0123456789"


def sent(settings: Settings) -> Settings:
    return unpack(json.loads(json.dumps(pack(settings))))


def test_every_kind_of_value_arrives() -> None:
    settings = Settings.model_validate(
        {
            "host": "127.0.0.1,::1",
            "port": "0",
            "redis_url": "redis://:hunter2@redis.example:6380/3",
            "pubsub": "SHARDED",
            "redis_heartbeat": "0.5",
            "auth": "none",
            "allowed_origins": ["https://example.org", "null"],
            "max_backlog": "2MiB",
            "gap_notices": "false",
            "jwt_issuer": "me",
            "jwt_key_file": "/nowhere",  # which nobody reads without jwt
        }
    )
    assert sent(settings) == settings
    assert sent(settings).model_fields_set == settings.model_fields_set


def test_what_was_not_given_is_not_sent() -> None:
    assert pack(Settings(auth="none")) == {"auth": "none"}


@pytest.mark.parametrize("key", [SECRET.encode() + b"\r\n", bytes(range(128, 168)), bytes(range(200, 256)) + b"\n"])
def test_the_key_travels_and_not_its_file(key: bytes, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(key)
    settings = Settings(jwt_key_file=path)
    expected = settings.key()
    arrived = sent(settings)
    path.write_text("another key, which the file holds by the time that the settings arrive")
    assert arrived.key() == expected
    assert arrived.jwt_key_file is None
    assert SECRET not in repr(arrived)
    assert sent(arrived) == arrived
