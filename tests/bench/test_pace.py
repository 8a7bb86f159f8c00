"""When the generator's clients act: by their clock, and beside servers."""

from __future__ import annotations

import socket
import time
from contextlib import AbstractContextManager
from typing import Any

import pytest

from bench.load import pace
from bench.load.control import Shard
from bench.load.dialects import DIALECTS
from bench.load.group import Plan
from bench.load.histogram import Histogram
from bench.load.pace import Ramp, Returns, Thoughts
from bench.load.scan import Sequences
from bench.servers.process import RedisServer
from bench.servers.server import KEY
from bench.servers.wsd import WsdServer
from tests.lib.mocked import mocked
from tests.lib.waiting import PATIENCE


def test_a_ramp_lets_so_many_come_a_second() -> None:
    ramp = Ramp(8, now=5.0)
    come = [now for now in (5 + step / 64 for step in range(128)) if ramp.take(now)]
    assert come[:3] == [5.0, 5.125, 5.25]
    assert len(come) == 16


def test_without_a_ramp_all_come_at_once() -> None:
    ramp = Ramp(0, now=5.0)
    assert all(ramp.take(5.0) for _ in range(1000))


@pytest.fixture
def whole_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait that is random takes exactly its mean."""
    monkeypatch.setattr(pace, "around", lambda seconds: seconds)


@pytest.mark.usefixtures("whole_waits")
def test_the_wait_grows_to_thirty_seconds_and_begins_anew_when_subscribed() -> None:
    returns, now, waits = Returns(), 0.0, []
    for _ in range(7):
        returns.ended(3, now)
        wait = next(wait for wait in range(1, 60) if returns.due(now + wait))
        waits.append(wait)
        now += wait
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    assert 3 in returns
    assert returns.subscribed(3)
    assert not returns.subscribed(3)
    returns.ended(3, now)
    assert returns.due(now + 0.9) == []
    assert returns.due(now + 1.0) == [3]
    assert len(returns) == 0


def test_waits_differ_by_a_half_from_their_mean() -> None:
    waits = [pace.around(2.0) for _ in range(1000)]
    assert 1.0 <= min(waits) < 1.3
    assert 2.7 < max(waits) <= 3.0


@pytest.mark.usefixtures("whole_waits")
def test_thoughts_are_over_in_the_order_of_their_time() -> None:
    thoughts = Thoughts[str]()
    thoughts.begin("long", 3, now=0)
    thoughts.begin("short", 1, now=0)
    assert thoughts.over(0.9) == []
    assert thoughts.over(3.0) == ["short", "long"]
    assert len(thoughts) == 0


def test_who_thinks_sends_a_request_when_the_one_before_is_answered() -> None:
    setup = DIALECTS["wsd"]("localhost", [1, 2], "a token")
    setup.pipelined = False
    setup.upgraded(b"HTTP/1.1 101 Switching Protocols")
    sent = [
        setup.hear(b'{"action":"session","message":"waiting for create session","session":"s"}'),
        setup.hear(b'{"action":"session","message":"session authenticated"}'),
        setup.hear(b'{"action":"subscribe","message":"context subscribed"}'),
    ]
    assert not setup.done
    assert [len(frame) for frame in sent] == [len(sent[0]), len(sent[1]), len(sent[1])]
    assert setup.hear(b'{"action":"subscribe","message":"context subscribed"}') == b""
    assert setup.done


def test_what_came_after_the_end_of_a_connection_is_not_missing_on_it() -> None:
    sequences = Sequences(from_start=True)
    sequences.see(0, 0)
    assert sequences.lost(5, 1, (0,)) == 4
    sequences.ended = True
    assert sequences.lost(5, 1, (0,)) == 0


# Beside servers.


def test_clients_come_at_a_rate_and_thinking_is_not_the_servers_time() -> None:
    with RedisServer() as redis, WsdServer(redis) as server, Shard() as shard:
        plan = Plan("listeners", 30, [("127.0.0.1", server.port)], topics=2, topics_each=2, key=KEY)
        plan.ramp, plan.think = 100.0, 0.2
        answer = shard.open(plan)
    assert (answer["subscribed"], answer["failures"]) == (30, {})
    # The last one comes after 0.29 s, and thinks three times, at least 0.1 s each.
    assert answer["seconds"] > 0.29 + 0.3
    setups = Histogram(answer["setups"])
    assert len(setups) == 30
    assert 0 < (setups.percentile(1) or 0) < 300_000


def closing(*frames: bytes) -> AbstractContextManager[int]:
    """A server that closes its first connections with these frames, one each, and keeps all others."""

    def behave(connection: socket.socket, number: int) -> bool:
        if number >= len(frames):
            return True
        connection.sendall(frames[number])
        return False

    return mocked(behave)


def test_who_was_sent_away_comes_back_and_who_has_a_bug_does_not() -> None:
    restart, violation = b"\x88\x02\x03\xf4", b"\x88\x02\x03\xf0"
    with closing(restart, violation) as port, Shard() as shard:
        shard.open(Plan("listeners", 2, [("127.0.0.1", port)], dialect="raw", reconnect=True))
        deadline = time.monotonic() + PATIENCE
        group: dict[str, Any] = {"returned": 0}
        while not group["returned"]:
            group = shard.stats()["groups"]["listeners"]
            assert time.monotonic() < deadline, group
    assert (group["returned"], group["connections"], group["subscribed"]) == (1, 1, 3)
    assert group["closes"] == {"1012": 1, "1008": 1}
