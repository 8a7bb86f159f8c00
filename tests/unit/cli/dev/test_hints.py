"""What ``wsd dev`` tells to type. That it works as it stands: tests/whole/cli."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from wsd.cli.dev.hints import hints, program
from wsd.config import Settings

OPEN: dict[str, Any] = {"auth": "none"}


@pytest.mark.parametrize(
    ("options", "port", "commands"),
    [
        (
            {},
            3000,
            [
                "wsd tail chat",
                """wsd publish chat '{"hello":"world"}'""",
                """redis-cli -h 127.0.0.1 -p 6379 PUBLISH chat '{"hello":"world"}'""",
            ],
        ),
        (
            {"host": "::", "redis_url": "unix:///run/r.sock", "channel_prefix": "app:"},
            3000,
            [
                "wsd tail chat --url 'ws://[::1]:3000'",
                """wsd publish chat '{"hello":"world"}' --channel-prefix app: --redis-url unix:///run/r.sock""",
                """redis-cli -s /run/r.sock PUBLISH app:chat '{"hello":"world"}'""",
            ],
        ),
        (
            {"redis_url": "redis://:hunter2@r.example:1"},
            4000,
            ["wsd tail chat --url ws://127.0.0.1:4000", """wsd publish chat '{"hello":"world"}'"""],
        ),
        (
            {"redis_url": "redis+sentinel://r1,r2:5/mymaster", "pubsub": "sharded"},
            3000,
            [
                "wsd tail chat",
                """wsd publish chat '{"hello":"world"}' --pubsub sharded --redis-url redis+sentinel://r1,r2:5/mymaster""",
            ],
        ),
        (
            {"redis_url": "redis+sentinel://r.example/m?sentinel_password=hunter2"},
            3000,
            ["wsd tail chat", """wsd publish chat '{"hello":"world"}'"""],
        ),
        (
            {"redis_url": "redis+cluster://r1:7000,r2", "channel_prefix": "a:"},
            3000,
            [
                "wsd tail chat",
                """wsd publish chat '{"hello":"world"}' --channel-prefix a: --redis-url redis+cluster://r1:7000,r2""",
                """redis-cli -c -h r1 -p 7000 SPUBLISH a:chat '{"hello":"world"}'""",
            ],
        ),
        (
            {"redis_url": "redis+cluster://r.example", "pubsub": "classic"},
            3000,
            [
                "wsd tail chat",
                """wsd publish chat '{"hello":"world"}' --pubsub classic --redis-url redis+cluster://r.example""",
                """redis-cli -h r.example -p 6379 PUBLISH chat '{"hello":"world"}'""",
            ],
        ),
        (
            {"pubsub": "sharded"},
            3000,
            [
                "wsd tail chat",
                """wsd publish chat '{"hello":"world"}' --pubsub sharded""",
                """redis-cli -h 127.0.0.1 -p 6379 SPUBLISH chat '{"hello":"world"}'""",
            ],
        ),
    ],
)
def test_hints(options: dict[str, Any], port: int, commands: list[str]) -> None:
    text = hints(Settings(**OPEN | options), port, "wsd", embedded=False)
    assert [line.strip() for line in text.splitlines() if line.startswith("    ")] == commands
    assert "hunter2" not in text


def test_how_the_program_is_run_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / ".venv" / "bin" / "wsd"
    script.parent.mkdir(parents=True)
    script.touch(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [".venv/bin/wsd"])
    assert program() == ".venv/bin/wsd"
    monkeypatch.chdir(script.parent.parent)
    monkeypatch.setattr(sys, "argv", [str(script)])
    assert program() == "bin/wsd"
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    assert program() == "wsd"
    monkeypatch.setattr(sys, "argv", ["/x/wsd/__main__.py"])
    monkeypatch.setattr(sys, "executable", str(script.with_name("python3")))
    assert program() == "bin/python3 -m wsd"
