"""The vitals of a connection, with a played wire and a clock: what is noticed, when, and what it means. With a real
Redis: tests/whole/redis/test_link.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import hiredis
import pytest

from wsd.metrics import Metrics
from wsd.redis.channels import Channels
from wsd.redis.vitals import BEAT, PAUSED_HEARTBEATS, UNACKNOWLEDGED_HEARTBEATS, Role, Vitals
from wsd.redis.wire import CLASSIC, SHARDED, Dialect, Wire

HEARTBEAT = 10.0

ANSWERS = {"HELLO": {b"role": b"master"}, "ROLE": [b"slave", b"h", 1, b"connected", 7], "CLIENT": b"sub=1", "INFO": b""}


class Server:
    """A wire and the server at its other end, which answers and delivers at once unless told otherwise."""

    def __init__(self, role: Role = Role.ANY, dialect: Dialect = CLASSIC) -> None:
        self.time = 0.0
        self.answers, self.delivers = True, True
        self.refused: dict[str, str] = {}  # commands that it answers with an error
        self.answer_of = dict[str, Any](ANSWERS)
        self.is_fakeredis = self.given_up = self.torn = False
        self.sent: list[str] = []
        self.failed: list[str] = []  # reasons for which it was given up
        self.received_at = 0.0
        self.doubts = 0  # times that channels may be elsewhere
        self.dead: list[bytes] = []
        self.named: list[int] = []  # the numbers of the channels that were chosen for the probe
        self.metrics = Metrics()
        self.channels = Channels(dialect, self.metrics)
        self.vitals = Vitals(
            dialect,
            HEARTBEAT,
            self.metrics,
            self.channels,
            private=self._name_private,
            on_dead=self._take_dead,
            on_trouble=self._doubt,
        )
        self._dialect = dialect
        self._unanswered: list[tuple[str, float]] = []
        self._role = role

    def begin(self) -> None:
        self.vitals.begin(self._wire, "Redis", self._role, self.time)

    def beat(self, after: float = BEAT * HEARTBEAT) -> None:
        self.time += after
        self.vitals.beat(self._wire, self.time)

    @property
    def _wire(self) -> Wire:
        return cast(Wire, self)

    def _take_dead(self, channels: Sequence[bytes]) -> int:
        self.dead += channels
        return len(channels)

    def _doubt(self) -> None:
        self.doubts += 1

    def _name_private(self, number: int) -> bytes:
        self.named.append(number)
        return b"private:%d" % number

    # What vitals see of a wire.

    def limit_unacknowledged(self, seconds: float) -> None:
        self.patience = seconds

    def send(
        self,
        name: str,
        *words: str | bytes,
        on_reply: Callable[[Any], object],
        channels: Iterable[bytes] = (),
        key: bytes = b"",
    ) -> None:
        self.sent.append(name)
        if self.answers:
            self.received_at = self.time
            if name in self.refused:
                on_reply(hiredis.ReplyError(self.refused[name]))
            elif channels:
                self.vitals.receive_change(True)
            else:
                on_reply(self.answer_of.get(name))
        else:
            self._unanswered.append((name, self.time))
        if name == self._dialect.publish and self.delivers and name not in self.refused:
            self.received_at = self.time
            self.vitals.receive_probe(str(words[1]).encode())

    def fail(self, reason: str) -> None:
        self.failed.append(reason)

    @property
    def unanswered(self) -> str:
        return self._unanswered[0][0] if self._unanswered else ""

    def waiting(self, now: float) -> float:
        return now - self._unanswered[0][1] if self._unanswered else 0.0


@pytest.fixture
def make_server(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Server]:
    """Make a server with a connection that has begun, and let its clock be that of the vitals."""

    def make(*args: Any, **changes: Any) -> Server:
        server = Server(*args)
        for name, value in changes.items():
            setattr(server, name, value)
        monkeypatch.setattr("wsd.redis.vitals.monotonic", lambda: server.time)
        server.begin()
        server.beat()
        return server

    return make


# The table of promises.

FAULTS = {
    "silent": (1.0, "no answer to PING"),
    "undelivered": (1.0, "nothing is delivered: probe"),
    "deaf": (2.0, "messages come, but no answer to PING"),
}
"""Of each: heartbeats until it is noticed, at least, and what is said. Half a heartbeat more is the most."""


@pytest.mark.parametrize("after_beat", [0.001, 0.25, 0.49])
@pytest.mark.parametrize("early", [0.0, 0.004])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_noticed_in_time(
    make_server: Callable[..., Server], fault: str, early: float, after_beat: float
) -> None:
    """Also where each beat comes a little early, as timers do that count milliseconds."""
    server = make_server()
    server.answers, server.delivers = fault == "undelivered", fault == "deaf"
    began = server.time + after_beat * HEARTBEAT
    if fault == "silent":
        server.received_at = began
    while not server.failed:
        if fault == "deaf":  # others' messages come all the time
            server.received_at = server.time + BEAT * HEARTBEAT
        server.beat((BEAT - early) * HEARTBEAT)
    least, words = FAULTS[fault]
    assert least - 0.02 <= (server.time - began) / HEARTBEAT <= least + 0.5
    assert words in server.failed[0]
    assert not server.vitals.misplaced
    assert server.metrics.probes_lost == (fault == "undelivered")


def test_a_server_that_dies_when_it_has_subscribed_the_probe_is_noticed_as_soon(
    make_server: Callable[..., Server],
) -> None:
    """The probe that leaves then would be taken for one that writes keep waiting, were there no PING before it."""
    server = make_server()
    server.answers = server.delivers = False
    server.vitals.probe.reset()
    server.vitals.receive_change(True)
    began = server.time
    while not server.failed:
        server.beat()
    assert server.time - began <= 1.5 * HEARTBEAT
    assert "no answer to PING" in server.failed[0]


@pytest.mark.parametrize(
    ("role", "question", "answer", "reason"),
    [
        (Role.MASTER, "HELLO", {b"role": b"replica"}, "it has become a replica"),
        (Role.REPLICA, "ROLE", [b"slave", b"h", 1, b"connect", 7], "a replica that does not hear its master (connect)"),
    ],
)
def test_a_server_that_has_lost_its_role_is_left_at_the_next_beat(
    make_server: Callable[..., Server], role: Role, question: str, answer: object, reason: str
) -> None:
    server = make_server(role)
    assert question in server.sent and "PING" not in server.sent
    assert not server.failed
    server.answer_of[question] = answer
    server.beat()
    assert reason in server.failed[0]
    assert server.vitals.misplaced, "another server should be tried at once"
    server.answer_of[question] = ANSWERS[question]
    server.begin()
    assert not server.vitals.misplaced


def test_a_redis_that_has_paused_writes_is_left_alone_for_long(make_server: Callable[..., Server]) -> None:
    server = make_server()
    server.delivers = False
    server._unanswered.append(("PUBLISH", server.time))
    for _ in range(int(PAUSED_HEARTBEATS / BEAT)):
        server.beat()
        assert not server.failed
    server.beat()
    assert server.failed
    assert server.patience == UNACKNOWLEDGED_HEARTBEATS * HEARTBEAT, "but not if its host is away"


# The probe.


def test_the_probe_is_sent_when_its_channel_is_confirmed_and_at_each_beat(make_server: Callable[..., Server]) -> None:
    server = make_server()
    assert server.sent[:4] == ["SUBSCRIBE", "PING", "PUBLISH", "INFO"]
    assert server.sent.count("PUBLISH") == 2
    assert server.vitals.probe.age(server.time) == 0.0


@pytest.mark.parametrize(
    ("dialect", "refused", "problem"),
    [
        (CLASSIC, {"PUBLISH": "NOPERM no"}, ""),
        (CLASSIC, {"SUBSCRIBE": "NOPERM no"}, ""),
        (CLASSIC, {"SUBSCRIBE": "ERR unknown command"}, "nothing can be subscribed at Redis: Redis refuses SUBSCRIBE"),
        (SHARDED, {"SSUBSCRIBE": "ERR unknown command"}, "Sharded channels need Redis 7"),
    ],
)
def test_a_probe_that_is_refused_is_said_once(
    make_server: Callable[..., Server],
    caplog: pytest.LogCaptureFixture,
    dialect: Dialect,
    refused: dict[str, str],
    problem: str,
) -> None:
    server = make_server(Role.ANY, dialect, refused=refused)
    for _ in range(4):
        server.beat()
    assert not server.failed, "others are served without it"
    assert server.vitals.probe.off
    assert problem in server.vitals.problem and bool(problem) == bool(server.vitals.problem)
    assert caplog.text.count("is not probed") == 1
    server.refused = {}
    server.vitals._audit_at = 0.0
    server.beat()
    server.beat()
    assert not server.vitals.probe.off, "what was refused may be permitted by now"
    assert not server.vitals.problem


@pytest.mark.parametrize("command", ["SSUBSCRIBE", "SPUBLISH"])
def test_a_probe_whose_slot_has_moved_takes_another_channel(make_server: Callable[..., Server], command: str) -> None:
    """It may be so for long, because a node that knows nothing of the move is believed meanwhile."""
    server = make_server(Role.ANY, SHARDED, refused={command: "MOVED 1 h:1"})
    assert server.doubts == 2
    assert server.named == [0, 1]
    assert not server.vitals.probe.off
    server.refused = {}
    server.beat()
    assert server.vitals.probe.age(server.time) == 0.0


def test_fakeredis_is_asked_for_nothing_but_life(make_server: Callable[..., Server]) -> None:
    server = make_server(is_fakeredis=True)
    server.vitals._audit_at = 0.0
    server.beat()
    server.beat()
    assert set(server.sent) == {"SUBSCRIBE", "PING"}
    assert server.vitals.probe.off
