"""The settings in force: from a worker's message, and through a state."""

from __future__ import annotations

import json

from wsd.supervisor.chosen import Chosen

MESSAGE = {
    "say": "settings",
    "settings": {"auth": "none", "redis_url": "redis://:hunter2@x"},
    "plain": {
        "host": ["127.0.0.1"],
        "port": 3000,
        "admin_host": ["127.0.0.1", "::1"],
        "admin_port": 3001,
        "workers": 4,
        "worker_timeout": 10.0,
        "drain_seconds": 10.0,
        "log_level": "info",
        "log_format": "text",
        "redis": "redis://x:6379",
        "more": "of a later version",
    },
}


def test_what_a_worker_says_survives_a_state() -> None:
    chosen = Chosen.of_message(MESSAGE)
    assert (chosen.workers, chosen.admin_host, chosen.given["auth"]) == (4, ("127.0.0.1", "::1"), "none")
    assert Chosen.load(json.loads(json.dumps(chosen.dump()))) == chosen
