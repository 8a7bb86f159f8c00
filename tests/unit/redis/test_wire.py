"""The wire: which answer belongs to which command, against a transport that keeps what is written."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from time import monotonic
from typing import Any, cast

import hiredis
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wsd.errors import LinkError
from wsd.logs import BoundedLogger
from wsd.redis import wire as wire_module
from wsd.redis.slots import key_slot
from wsd.redis.wire import CLASSIC, SHARDED, Dialect, Wire


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.aborted = False
        self.reading = True

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


class Played:
    """A wire whose Redis is the test."""

    def __init__(self, dialect: Dialect = CLASSIC) -> None:
        self.events: list[tuple[object, ...]] = []
        self.transport = Transport()
        self.wire = Wire(
            dialect,
            lambda channel, payload: self.events.append(("message", channel, payload)),
            lambda channel, subscribed, asked: self.events.append((channel, subscribed, asked)),
        )
        self.wire.connection_made(cast(asyncio.BaseTransport, self.transport))

    def send(self, name: str, *words: str, channels: tuple[bytes, ...] = (), key: bytes = b"") -> None:
        def replied(reply: Any) -> None:
            self.events.append((name, str(reply) if isinstance(reply, hiredis.ReplyError) else reply))

        self.wire.send(name, *words, on_reply=replied, channels=channels, key=key)


def push(kind: bytes, channel: bytes, last: bytes = b":1\r\n") -> bytes:
    return b">3\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n%b" % (len(kind), kind, len(channel), channel, last)


async def test_the_commands_of_a_pass_leave_in_one_write() -> None:
    played = Played()
    played.send("SUBSCRIBE", channels=(b"a", b"b"))
    played.send("PING")
    assert played.transport.written == []
    await asyncio.sleep(0)
    assert played.transport.written == [b"*3\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n$1\r\nb\r\n*1\r\n$4\r\nPING\r\n"]


async def test_answers_go_to_those_who_asked() -> None:
    played = Played()
    played.send("SUBSCRIBE", channels=(b"a", b"b"))
    played.send("PING")
    played.send("PUBLISH", "a", "x")
    assert played.wire.unanswered == "SUBSCRIBE"
    answers = (
        push(b"subscribe", b"a") + push(b"message", b"a", b"$1\r\nx\r\n") + push(b"subscribe", b"b") + b"+PONG\r\n"
    )
    for byte in answers + b"-ERR no\r\n":
        played.wire.data_received(bytes((byte,)))
    assert played.events == [
        (b"a", True, True),
        ("message", b"a", b"x"),
        (b"b", True, True),
        ("PING", b"PONG"),
        ("PUBLISH", "ERR no"),
    ]
    assert played.wire.unanswered == ""


async def test_what_nobody_asked_for_ends_the_connection_unless_it_is_a_push() -> None:
    played = Played()
    played.wire.data_received(push(b"invalidate", b"x") + push(b"unsubscribe", b"gone"))
    assert played.events == [(b"gone", False, False)]
    played.wire.data_received(b"+ODD\x1b[31m\r\n")
    assert played.transport.aborted
    assert "nobody asked for: ODD\\x1b" in played.wire.closed.result()


async def test_a_slot_that_moves_while_it_is_unsubscribed_is_answered_twice() -> None:
    moved = b"-MOVED %d 127.0.0.1:7001\r\n" % key_slot(b"a")
    played = Played(SHARDED)
    played.send("SUNSUBSCRIBE", channels=(b"a",))
    played.wire.data_received(push(b"sunsubscribe", b"a") + moved)
    assert played.events == [(b"a", False, True)]
    played.send("PING")
    played.wire.data_received(moved + b"+PONG\r\n")
    assert [event[0] for event in played.events[1:]] == ["PING"]
    played.send("SSUBSCRIBE", channels=(b"b",))
    played.wire.data_received(moved + push(b"ssubscribe", b"b"))
    assert played.events[2:] == [(b"b", True, True)]
    played.send("SPUBLISH", "a", "1", key=b"a")
    played.wire.data_received(moved)
    assert played.events[-1] == ("SPUBLISH", moved.decode()[1:-2])
    assert not played.transport.aborted


async def test_a_question_fails_with_the_connection() -> None:
    played = Played()
    question = asyncio.ensure_future(played.wire.ask("PING"))
    await asyncio.sleep(0)
    played.wire.connection_lost(None)
    with pytest.raises(LinkError, match="Redis closed the connection"):
        await question


# A burst.


def burst(count: int) -> bytes:
    return b"".join(push(b"message", b"a", b"$5\r\n%05d\r\n" % number) for number in range(count))


def heard(played: Played) -> list[int]:
    return [int(cast(bytes, event[2])) for event in played.events if event[0] == "message"]


async def until_handled(played: Played) -> None:
    for _ in range(1000):
        if not played.wire.behind:
            return
        await asyncio.sleep(0)
    raise AssertionError("what has come is never handled")


@pytest.fixture
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock finds that the slice is over."""
    monkeypatch.setattr(wire_module, "READ_SLICE", -1.0)


@pytest.mark.usefixtures("no_time")
async def test_a_burst_is_handled_in_slices() -> None:
    played = Played()
    played.send("PING")
    played.wire.data_received(burst(100) + b"+PONG\r\n")
    assert heard(played) == list(range(wire_module.READ_STEP))
    assert not played.transport.reading
    await asyncio.sleep(0)
    assert heard(played) == list(range(2 * wire_module.READ_STEP))
    await until_handled(played)
    assert heard(played) == list(range(100))
    assert played.events[-1] == ("PING", b"PONG")
    assert played.transport.reading


async def test_who_has_enough_is_brought_nothing_more() -> None:
    played = Played()
    played.wire.hold(True)
    played.wire.data_received(burst(50))
    for _ in range(10):
        await asyncio.sleep(0)
    assert heard(played) == list(range(wire_module.READ_STEP))
    assert not played.transport.reading
    assert played.wire.behind
    played.wire.hold(False)
    await until_handled(played)
    assert heard(played) == list(range(50))
    assert played.transport.reading


async def test_who_has_enough_is_brought_nothing_more_though_little_comes_at_a_time() -> None:
    """A few messages, or large ones: no step of them is ever full."""
    played = Played()
    played.wire.data_received(burst(3))
    played.wire.hold(True)
    assert not played.transport.reading
    played.wire.hold(False)
    await until_handled(played)
    assert not played.wire.behind, "and it reads again"


async def test_who_gets_enough_with_a_message_is_brought_nothing_more() -> None:
    played = Played()
    played.wire._on_message = lambda channel, payload: played.wire.hold(True)
    played.wire.data_received(burst(3))
    await asyncio.sleep(0)
    assert not played.transport.reading
    played.wire.fail("enough")
    played.wire.hold(False)
    played.wire.hold(True)  # there is nothing to pause any more


@pytest.mark.usefixtures("no_time")
async def test_what_came_before_the_end_is_handled_before_it() -> None:
    played = Played()
    played.wire.data_received(burst(100))
    played.wire.connection_lost(None)
    assert not played.wire.closed.done()
    await until_handled(played)
    assert heard(played) == list(range(100))
    assert "Redis closed the connection" in played.wire.closed.result()


@pytest.mark.usefixtures("no_time")
async def test_what_came_before_it_was_given_up_is_not_handled() -> None:
    played = Played()
    played.wire.data_received(burst(100))
    played.wire.fail("enough")
    played.wire.connection_lost(None)
    for _ in range(20):
        await asyncio.sleep(0)
    assert heard(played) == list(range(wire_module.READ_STEP))
    assert played.wire.closed.result() == "enough"


async def test_the_time_in_which_nothing_is_read_is_not_counted_as_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played()
    played.send("PING")
    now = monotonic() + 10.0
    monkeypatch.setattr(wire_module, "monotonic", lambda: now)
    played.wire.hold(True)
    played.wire.data_received(burst(50))
    now += 100.0
    assert played.wire.waiting(now) == pytest.approx(10.0, abs=1.0)
    monkeypatch.undo()
    played.wire.hold(False)
    played.wire.fail("enough")


async def test_the_time_in_which_the_loop_stands_still_is_not_counted_as_waiting() -> None:
    played = Played()
    played.send("PING")
    now = monotonic()
    played.wire.stood_still(100.0)
    assert played.wire.waiting(now + 110.0) == pytest.approx(10.0, abs=1.0)


# Whatever bytes come.

WORDS = st.sampled_from(
    [*b"message subscribe unsubscribe smessage ssubscribe a b \xff".split(), b"MOVED ", b"MOVED x", b""]
)
SCALARS = st.one_of(
    WORDS.map(lambda word: b"$%d\r\n%b\r\n" % (len(word), word)),
    WORDS.map(lambda word: b"+%b\r\n" % word),
    WORDS.map(lambda word: b"-%b\r\n" % word),
    st.integers(-(2**63), 2**63).map(lambda number: b":%d\r\n" % number),
    st.sampled_from(
        [b"_\r\n", b"#t\r\n", b",nan\r\n", b",1e999\r\n", b"(" + b"9" * 5000 + b"\r\n", b"$-1\r\n", b"*-1\r\n"]
    ),
)
ANSWERS = st.recursive(
    SCALARS,
    lambda inner: (
        st.tuples(st.sampled_from(b"*>~"), st.lists(inner, max_size=4)).map(
            lambda drawn: b"%c%d\r\n" % (drawn[0], len(drawn[1])) + b"".join(drawn[1])
        )
        | st.lists(st.tuples(inner, inner), max_size=2).map(
            lambda pairs: b"%%%d\r\n" % len(pairs) + b"".join(key + value for key, value in pairs)
        )
    ),
    max_leaves=12,
)
STREAMS = st.one_of(
    st.lists(ANSWERS, max_size=6).map(b"".join),
    st.lists(st.sampled_from(b"*>~%$:+-,#_(|=!0123456789\r\nab\xff"), max_size=40).map(bytes),
    st.binary(max_size=60),
)


@settings(deadline=None, max_examples=500)
@given(stream=STREAMS, cuts=st.lists(st.integers(0, 200), max_size=5), sharded=st.booleans())
@example(stream=b"*3333333333\r\n", cuts=[], sharded=False)
@example(stream=b">3\r\n~3333333333\r\n", cuts=[4], sharded=False)
@example(stream=b"%1\r\n*0\r\n:1\r\n", cuts=[], sharded=False)
@example(stream=b">1\r\n$7\r\nmessage\r\n", cuts=[], sharded=False)
@example(stream=b">3\r\n$7\r\nmessage\r\n*0\r\n*0\r\n", cuts=[], sharded=False)
@example(stream=b">3\r\n$9\r\nsubscribe\r\n*0\r\n*0\r\n", cuts=[], sharded=False)
@example(stream=b"+OK\r\n+OK\r\n+OK\r\n+OK\r\n", cuts=[], sharded=False)
@example(stream=b"-MOVED \r\n", cuts=[], sharded=True)
def test_any_bytes_are_handled_or_end_the_connection_with_a_reason(
    stream: bytes, cuts: list[int], *, sharded: bool
) -> None:
    async def receive() -> None:
        played = Played(SHARDED if sharded else CLASSIC)
        played.send("SUBSCRIBE", channels=(b"a", b"b"))
        played.send("PING")
        edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
        for start, end in pairwise(edges):
            if not played.transport.aborted:
                played.wire.data_received(stream[start:end])
        assert not played.wire.stumbled
        assert played.transport.aborted == played.wire.closed.done()
        if played.wire.closed.done():
            assert played.wire.closed.result().strip(" :") not in ("", "what Redis sent can't be read")
            assert played.wire.closed.result().isprintable()
        for event in played.events:
            if event[0] == "message":
                assert [type(part) for part in event] == [str, bytes, bytes]

    asyncio.run(receive())


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"*3333333333\r\n", "a reply of 3333333333 elements"),
        (b"%2147483647\r\n", "a reply of 2147483647 elements"),
        (b":1\r\n>3333333333\r\n", "can't be read: MemoryError"),
        (b"%1\r\n*0\r\n:1\r\n", "can't be read: unhashable type"),
        (b"HTTP/1.1 400 Bad Request\r\n", "can't be read: Protocol error"),
        (push(b"message", b"a", b":1\r\n"), "a message that is none: [b'message', b'a', 1]"),
        (b">2\r\n$7\r\nmessage\r\n$1\r\na\r\n", "a message that is none"),
        (b">2\r\n$9\r\nsubscribe\r\n:7\r\n", "a message that is none"),
    ],
)
async def test_what_cannot_be_read_ends_the_connection_with_the_reason(sent: bytes, reason: str) -> None:
    played = Played()
    played.send("PING")
    played.wire.data_received(sent)
    assert played.transport.aborted
    assert reason in played.wire.closed.result()
    assert not played.wire.stumbled


async def test_a_bug_ends_the_connection_and_is_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire_module, "bugs", BoundedLogger(wire_module.logger, rate=0.01))

    def fail(*args: object) -> None:
        raise ZeroDivisionError

    for _ in range(100):
        played = Played()
        played.wire.send("PING", on_reply=fail)
        played.wire.data_received(b"+PONG\r\n")
        assert played.transport.aborted
        assert played.wire.stumbled
        assert played.wire.closed.result().endswith("because of a bug: ZeroDivisionError")
    assert caplog.text.count("Traceback") == 1
