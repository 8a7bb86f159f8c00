"""The channels of a link, without Redis: every state and every answer. With a real Redis: test_link.py."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wsd.errors import LinkError
from wsd.metrics import Metrics
from wsd.redis.channels import BATCH, LINGER, REFUSED_RETRY, Channels, Command, Confirmed, Lost, Refused, Strayed
from wsd.redis.slots import key_slot
from wsd.redis.wire import CLASSIC, SHARDED, Dialect

NOPERM = "NOPERM No permissions to access a channel"


class Redis:
    """The other side, played by the test."""

    def __init__(self, dialect: Dialect = CLASSIC) -> None:
        self.time = 0.0
        self.told: list[tuple[object, ...]] = []  # what has happened
        self.sent: list[Command] = []  # in the last pass
        self.metrics = Metrics()
        self.channels = Channels(dialect, self.metrics)

    @property
    def events(self) -> list[tuple[object, ...]]:
        """What has happened so far."""
        for event in self.channels.events():
            match event:
                case Confirmed(channel, gap):
                    self.told.append(("gap" if gap else "confirmed", channel))
                case Refused(channel, _):
                    self.told.append(("refused", channel))
                case Lost(channels):
                    self.told.append(("lost", *channels))
                case Strayed(channels):
                    self.told.append(("strayed", *channels))
        return self.told

    def end_pass(self) -> list[tuple[str, list[bytes]]]:
        """End the pass; return what is sent."""
        self.sent = self.channels.commands()
        assert not self.channels.unsettled
        return [(name, list(channels)) for name, channels in self.sent]

    def refuse(self, channels: Sequence[bytes], error: str) -> None:
        """Answer the command for these channels with an error."""
        command = next(command for command in self.sent if list(command.channels) == list(channels))
        self.channels.failed(command, error, self.time)

    def change(self, channel: bytes, subscribed: bool, asked: bool) -> None:
        """Say that a channel is subscribed or unsubscribed."""
        self.channels.changed(channel, subscribed, asked, self.time)

    def confirm(self, *channels: bytes) -> None:
        """Confirm subscriptions."""
        for channel in channels:
            self.change(channel, True, True)

    def have(self, *channels: bytes) -> None:
        """Subscribe these, and clear what happened."""
        for channel in channels:
            self.channels.want(channel)
        self.channels.opened()
        self.end_pass()
        self.confirm(*channels)
        self.events.clear()


def test_what_is_wanted_in_one_pass_is_one_command() -> None:
    redis = Redis()
    redis.channels.opened()
    redis.channels.want(b"a")
    redis.channels.want(b"b")
    assert redis.end_pass() == [("SUBSCRIBE", [b"a", b"b"])]
    redis.confirm(b"a", b"b")
    assert redis.events == [("confirmed", b"a"), ("confirmed", b"b")]


def test_a_channel_that_lingers_is_confirmed_at_the_end_of_the_pass() -> None:
    redis = Redis()
    redis.have(b"a")
    redis.channels.unwant(b"a", redis.time)
    redis.channels.want(b"a")
    assert redis.events == []
    assert redis.end_pass() == []
    assert redis.events == [("confirmed", b"a")]
    assert redis.end_pass() == []
    assert redis.events == [("confirmed", b"a")], "once"
    redis.channels.want(b"b", missed=True)
    redis.end_pass()
    redis.confirm(b"b")
    redis.channels.unwant(b"b", redis.time)
    redis.channels.want(b"b", missed=True)  # its slot came back
    assert redis.channels.withholds(b"b"), "the gap comes first"
    assert redis.end_pass() == []
    assert redis.events[1:] == [("gap", b"b")] * 2


def test_a_channel_whose_confirmation_is_owed_when_the_link_is_lost_has_no_gap() -> None:
    redis = Redis()
    redis.have(b"a")
    redis.channels.unwant(b"a", redis.time)
    redis.channels.want(b"a")
    assert redis.channels.closed() == 0
    assert redis.end_pass() == []
    redis.channels.opened()
    assert redis.end_pass() == [("SUBSCRIBE", [b"a"])]
    redis.confirm(b"a")
    assert redis.events == [("lost", b"a"), ("confirmed", b"a")]


def test_a_channel_that_is_wanted_and_unwanted_in_one_pass_is_nobody_s_business() -> None:
    redis = Redis()
    redis.have(b"a")
    redis.channels.unwant(b"a", redis.time)
    redis.channels.want(b"a")
    redis.channels.unwant(b"a", redis.time)
    redis.channels.want(b"b")
    redis.channels.unwant(b"b", redis.time)
    assert redis.end_pass() == []
    assert redis.events == []


def test_what_is_wanted_before_there_is_a_connection_is_subscribed_with_it() -> None:
    redis = Redis()
    redis.channels.want(b"a")
    assert redis.end_pass() == []
    redis.channels.opened()
    assert redis.end_pass() == [("SUBSCRIBE", [b"a"])]
    assert redis.end_pass() == []


def test_many_channels_go_in_batches() -> None:
    redis = Redis()
    redis.channels.opened()
    for number in range(2 * BATCH + 1):
        redis.channels.want(b"%d" % number)
    assert [len(channels) for _, channels in redis.end_pass()] == [BATCH, BATCH, 1]


def test_a_sharded_command_has_channels_of_one_slot_only() -> None:
    redis = Redis(SHARDED)
    redis.channels.opened()
    wanted = [b"{%d}.%d" % (tag, number) for number in range(BATCH + 1) for tag in range(3)]
    for channel in wanted:
        redis.channels.want(channel)
    sent = redis.end_pass()
    assert {name for name, _ in sent} == {"SSUBSCRIBE"}
    assert all(len({key_slot(channel) for channel in channels}) == 1 for _, channels in sent)
    assert sorted(len(channels) for _, channels in sent) == [1, 1, 1, BATCH, BATCH, BATCH]
    assert sorted(channel for _, channels in sent for channel in channels) == sorted(wanted)


def test_a_channel_lingers_and_is_unsubscribed() -> None:
    redis = Redis()
    redis.have(b"a")
    redis.channels.unwant(b"a", redis.time)
    redis.time = LINGER - 0.1
    redis.channels.tidy(redis.time)
    assert redis.end_pass() == []
    redis.time = LINGER
    redis.channels.tidy(redis.time)
    assert redis.end_pass() == [("UNSUBSCRIBE", [b"a"])]
    redis.channels.want(b"a")
    assert redis.end_pass() == [], "the answer comes first"
    redis.change(b"a", False, True)
    assert redis.end_pass() == [("SUBSCRIBE", [b"a"])]


def test_a_lost_connection_is_a_gap_for_what_was_delivered_alone() -> None:
    redis = Redis()
    redis.have(b"a", b"b")
    redis.channels.want(b"late")
    redis.end_pass()
    redis.channels.unwant(b"b", redis.time)
    assert redis.channels.closed() == 1
    assert redis.metrics.gaps == 1
    assert redis.events == [("lost", b"a", b"late")]
    assert redis.channels.gaps == 1
    redis.channels.opened()
    assert redis.end_pass() == [("SUBSCRIBE", [b"a", b"late"])]
    redis.confirm(b"a", b"late")
    assert redis.events[1:] == [("gap", b"a"), ("confirmed", b"late")]
    assert redis.channels.gaps == 0


def test_a_gap_outlasts_several_lost_connections_and_is_announced_once() -> None:
    redis = Redis()
    redis.have(b"a")
    for _ in range(3):
        redis.channels.closed()
        redis.channels.opened()
    redis.confirm(b"a")
    assert [event for event in redis.events if event[0] == "gap"] == [("gap", b"a")]
    assert redis.metrics.gaps == 1


def test_the_refused_are_found_by_halves() -> None:
    redis = Redis()
    channels = [b"%d" % number for number in range(8)]
    for channel in channels:
        redis.channels.want(channel)
    redis.channels.opened()
    [(_, batch)] = redis.end_pass()
    pending = [batch]
    commands = 1
    while pending:
        batch = pending.pop()
        if b"5" in batch:
            redis.refuse(batch, NOPERM)
            halves = [channels for _, channels in redis.end_pass()]
            commands += len(halves)
            pending += halves
        else:
            redis.confirm(*batch)
    assert commands == 7
    assert ("refused", b"5") in redis.events
    assert len(redis.events) == 8


def test_a_refused_channel_with_listeners_is_tried_again_and_has_a_gap() -> None:
    redis = Redis()
    redis.have(b"a")
    redis.channels.closed()
    redis.channels.opened()
    redis.end_pass()
    redis.refuse([b"a"], NOPERM)
    assert redis.events[1:] == [("refused", b"a")]
    assert not redis.channels.gaps, "nothing is to be expected of it for now"
    redis.time = REFUSED_RETRY
    redis.channels.tidy(redis.time)
    assert redis.end_pass() == [("SUBSCRIBE", [b"a"])]
    redis.confirm(b"a")
    assert redis.events[2:] == [("gap", b"a")]


def test_messages_are_withheld_until_the_gap_before_them_is_announced() -> None:
    redis = Redis()
    redis.have(b"a", b"b")
    assert not redis.channels.withholds(b"a")
    redis.channels.closed()
    redis.channels.opened()
    redis.confirm(b"a")
    assert not redis.channels.withholds(b"a")
    assert redis.channels.withholds(b"b"), "its confirmation was lost on the way"


def test_messages_of_a_channel_that_is_elsewhere_now_are_withheld() -> None:
    redis = Redis(SHARDED)
    redis.have(b"a")
    assert redis.channels.release(b"a")
    assert redis.channels.withholds(b"a")
    assert redis.end_pass() == [("SUNSUBSCRIBE", [b"a"])]
    redis.channels.want(b"a", missed=True)  # it is here again, before the answer
    assert redis.channels.withholds(b"a"), "the gap comes first"
    redis.change(b"a", False, True)
    assert redis.end_pass() == [("SSUBSCRIBE", [b"a"])]
    redis.confirm(b"a")
    assert redis.events == [("gap", b"a")]
    assert not redis.channels.withholds(b"a")


@pytest.mark.parametrize("end", ["answer", "refusal", "lost"])
def test_a_channel_that_is_elsewhere_is_forgotten_when_it_is_not_subscribed_any_more(end: str) -> None:
    redis = Redis(SHARDED)
    redis.have(b"a")
    redis.channels.release(b"a")
    redis.end_pass()
    if end == "answer":
        redis.change(b"a", False, True)
    elif end == "refusal":
        redis.refuse([b"a"], "MOVED 1 127.0.0.1:7000")
    else:
        redis.channels.closed()
    assert not redis.channels.released


def test_what_redis_takes_away_is_logged_once_for_each_pass(caplog: pytest.LogCaptureFixture) -> None:
    redis = Redis(SHARDED)
    redis.have(b"a", b"b", b"c")
    redis.channels.unwant(b"c", redis.time)
    for channel in (b"a", b"b", b"c"):
        redis.change(channel, False, False)
    redis.end_pass()
    assert [record.getMessage() for record in caplog.records] == [
        "Redis has taken away 2 subscriptions by itself, the first that of b'a'"
    ]


def test_a_channel_that_redis_takes_away_is_a_gap_and_is_subscribed_again() -> None:
    redis = Redis()
    redis.have(b"a", b"b")
    redis.change(b"a", False, False)
    assert redis.events == [("lost", b"a")]
    assert redis.end_pass() == [("SUBSCRIBE", [b"a"])]
    redis.confirm(b"a")
    assert redis.events[1:] == [("gap", b"a")]
    assert redis.metrics.gaps == 1


@pytest.mark.parametrize("error", ["MOVED 3999 127.0.0.1:7001", "CLUSTERDOWN Hash slot not served", "TRYAGAIN x"])
def test_what_is_elsewhere_goes_astray_until_somebody_knows_better(error: str) -> None:
    redis = Redis(SHARDED)
    redis.have(b"a")
    redis.channels.closed()
    redis.channels.opened()
    redis.end_pass()
    redis.refuse([b"a"], error)
    assert redis.events[-1] == ("strayed", b"a")
    assert redis.channels.astray == redis.channels.gaps == 1
    assert redis.end_pass() == []
    redis.channels.retry()
    assert redis.end_pass() == [("SSUBSCRIBE", [b"a"])]
    redis.refuse([b"a"], error)
    assert redis.channels.release(b"a"), "it is another's now, with a gap"
    assert redis.channels.astray == redis.channels.gaps == 0
    redis.channels.retry()
    assert redis.end_pass() == []


def test_a_slot_that_moves_takes_its_channels_along() -> None:
    old, new = Redis(SHARDED), Redis(SHARDED)
    old.have(b"a")
    new.have()
    old.change(b"a", False, False)
    assert old.events == [("lost", b"a"), ("strayed", b"a")]
    new.channels.want(b"a", missed=old.channels.release(b"a"))
    assert new.end_pass() == [("SSUBSCRIBE", [b"a"])]
    new.confirm(b"a")
    assert new.events == [("gap", b"a")]
    assert old.end_pass() == []


def test_a_channel_that_is_released_while_subscribed_is_unsubscribed() -> None:
    redis = Redis(SHARDED)
    redis.have(b"a")
    assert redis.channels.release(b"a")
    assert redis.metrics.gaps == 1
    assert redis.end_pass() == [("SUNSUBSCRIBE", [b"a"])]
    redis.refuse([b"a"], "MOVED 1 x:1")  # it is gone all the same
    assert redis.channels.held == 0


def test_a_channel_that_was_never_confirmed_is_released_without_a_gap() -> None:
    redis = Redis(SHARDED)
    redis.channels.want(b"a")
    redis.channels.opened()
    assert not redis.channels.release(b"a")
    assert redis.metrics.gaps == 0


def test_a_dead_subscription_is_made_again() -> None:
    redis = Redis()
    redis.have(b"a", b"b")
    assert redis.channels.dead([b"a", b"stranger"]) == 1
    assert redis.end_pass() == [("SUBSCRIBE", [b"a"])]
    assert redis.metrics.dead_subscriptions == 1
    assert redis.channels.held == 1


@pytest.mark.parametrize(
    ("dialect", "error", "words"),
    [
        (CLASSIC, "OOM command not allowed", "Redis answered SUBSCRIBE with OOM"),
        (SHARDED, "ERR unknown command 'SSUBSCRIBE'", "needs Redis 7.0"),
    ],
)
def test_other_errors_end_the_connection_and_say_what_to_do(dialect: Dialect, error: str, words: str) -> None:
    redis = Redis(dialect)
    redis.channels.want(b"a")
    redis.channels.opened()
    redis.end_pass()
    with pytest.raises(LinkError, match=words):
        redis.refuse([b"a"], error)


def test_someone_new_may_have_missed_messages_of_a_channel_that_is_not_confirmed() -> None:
    redis = Redis()
    redis.channels.want(b"a")
    redis.channels.opened()
    redis.end_pass()
    assert not redis.channels.delivers(b"a")
    assert redis.channels.miss(b"a")
    redis.confirm(b"a")
    assert redis.channels.delivers(b"a")
    assert not redis.channels.miss(b"a"), "it is confirmed"
    assert not redis.channels.withholds(b"a")
    assert not redis.channels.miss(b"b"), "nobody wants it"
    redis.channels.unwant(b"a", redis.time)
    assert not redis.channels.delivers(b"a")
    assert not redis.channels.miss(b"a")
    redis.channels.want(b"a")
    assert redis.channels.miss(b"a"), "its confirmation is owed"
    redis.end_pass()
    redis.channels.closed()
    assert redis.channels.miss(b"a")
    assert redis.events == [("gap", b"a"), ("gap", b"a"), ("lost", b"a")]


def test_someone_new_at_a_refused_channel_hears_of_the_gap_when_it_is_permitted() -> None:
    redis = Redis()
    redis.channels.want(b"a")
    redis.channels.opened()
    redis.end_pass()
    redis.refuse([b"a"], NOPERM)
    assert redis.channels.miss(b"a")
    assert (redis.channels.gaps, redis.channels.refused) == (0, 1)
    redis.channels.tidy(redis.time + REFUSED_RETRY)
    assert redis.end_pass() == [("SUBSCRIBE", [b"a"])]
    redis.confirm(b"a")
    assert redis.events == [("refused", b"a"), ("gap", b"a")]


def test_confirmations_that_nobody_asked_for_do_not_add_up() -> None:
    redis = Redis()
    redis.have(b"a")
    for number in range(100):
        redis.change(b"stranger-%d" % number, True, False)
    assert redis.channels.subscribed() == [b"a"]
    assert redis.channels.held == 1


# Any sequence.

NAMES = st.sampled_from([b"a", b"{a}b"])


class ChannelsMachine(RuleBasedStateMachine):
    """Clients come and go, and a Redis answers late, refuses, takes away and is lost; against sets."""

    @initialize(dialect=st.sampled_from([CLASSIC, SHARDED]))
    def begin(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.metrics = Metrics()
        self.channels = Channels(dialect, self.metrics)
        self.time = 0.0
        self.open = False
        self.wanted: set[bytes] = set()
        self.heard: set[bytes] = set()  # wanted, and told to be delivered
        self.missed: set[bytes] = set()  # wanted, heard once, lost since, and nobody has been told
        self.flight: list[Command] = []  # sent, not answered yet
        self.held: set[bytes] = set()  # what Redis has subscribed
        self.gaps = 0
        self.connect()
        self.want(b"a")
        self.obey()

    def lose(self, lost: set[bytes]) -> None:
        """These channels are delivered no more."""
        self.gaps += len(lost & self.heard)
        self.missed |= lost & self.heard
        self.heard -= lost

    def follow(self) -> None:
        """Look at what has happened, as the link does after each input."""
        for event in self.channels.events():
            match event:
                case Confirmed(channel, gap):
                    assert channel in self.wanted and channel in self.held
                    assert gap is (channel in self.missed)
                    self.missed.discard(channel)
                    self.heard.add(channel)
                case Refused(channel, _):
                    assert channel in self.wanted
                    if channel not in self.missed:  # only clients who have waited for it want it, and are off it now
                        self.unwant(channel)
                case Lost(channels):
                    assert not self.heard & set(channels)

    @rule(channel=NAMES)
    def want(self, channel: bytes) -> None:
        if channel not in self.wanted:
            self.wanted.add(channel)
            self.channels.want(channel)

    @rule(channel=NAMES)
    def unwant(self, channel: bytes) -> None:
        if channel in self.wanted:
            for told in (self.wanted, self.heard, self.missed):
                told.discard(channel)
            self.channels.unwant(channel, self.time)

    @rule(channel=NAMES)
    def miss(self, channel: bytes) -> None:
        to_come = channel in self.wanted and channel not in self.heard
        assert self.channels.miss(channel) is to_come
        if to_come:
            self.missed.add(channel)

    @rule(channel=NAMES, times=st.integers(2, 3))
    def hesitate(self, channel: bytes, times: int) -> None:
        """Change one's mind within a pass."""
        for _ in range(times):
            (self.unwant if channel in self.wanted else self.want)(channel)

    @rule()
    def end_pass(self) -> None:
        for command in self.channels.commands():
            unanswered = {channel for sent in self.flight for channel in sent.channels}
            assert not unanswered & set(command.channels), "one command at a time for each channel"
            self.flight.append(command)
        assert not self.channels.unsettled
        self.follow()
        unanswered = {channel for sent in self.flight for channel in sent.channels}
        assert self.channels.confirmed == len(self.held - unanswered)
        assert self.channels.delivered == len(self.held & self.wanted - unanswered)

    @precondition(lambda self: not self.open)
    @rule()
    def connect(self) -> None:
        self.open = True
        self.channels.opened()

    @precondition(lambda self: self.open)
    @rule()
    def disconnect(self) -> None:
        self.open = False
        self.flight.clear()
        self.held.clear()
        self.lose(set(self.heard))
        self.channels.closed()
        self.follow()

    @precondition(lambda self: self.open)
    @rule()
    def reconnect(self) -> None:
        self.disconnect()
        self.connect()
        self.end_pass()

    @precondition(lambda self: self.flight)
    @rule()
    def answer(self) -> None:
        command = self.flight.pop(0)
        for channel in command.channels:
            subscribed = command.name == self.dialect.subscribe
            (self.held.add if subscribed else self.held.discard)(channel)
            self.channels.changed(channel, subscribed, True, self.time)
            self.follow()

    @precondition(lambda self: self.open)
    @rule()
    def obey(self) -> None:
        self.end_pass()
        while self.flight:
            self.answer()
            self.end_pass()

    @precondition(lambda self: self.flight and self.flight[0].name == self.dialect.subscribe)
    @rule(error=st.sampled_from([NOPERM, "MOVED 1 h:1"]))
    def refuse(self, error: str) -> None:
        self.channels.failed(self.flight.pop(0), error, self.time)
        self.follow()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def take_away(self, data: st.DataObject) -> None:
        channel = data.draw(st.sampled_from(sorted(self.held)))
        self.held.discard(channel)
        self.lose({channel})
        self.channels.changed(channel, False, False, self.time)
        self.follow()

    @rule(seconds=st.sampled_from([0.0, LINGER, REFUSED_RETRY]))
    def beat(self, seconds: float) -> None:
        self.time += seconds
        self.channels.tidy(self.time)
        self.channels.retry()

    @invariant()
    def messages_lie_under_their_gap(self) -> None:
        assert all(self.channels.withholds(channel) or channel not in self.held for channel in self.missed)
        assert not any(map(self.channels.withholds, self.heard))
        assert self.metrics.gaps == self.gaps

    def teardown(self) -> None:
        """When Redis obeys for a while, exactly what is wanted is delivered."""
        if not self.open:
            self.connect()
        for _ in range(4):
            self.obey()
            self.beat(REFUSED_RETRY)
        assert self.held == self.heard == self.wanted
        assert not self.channels.gaps and not self.channels.astray and not self.channels.refused


TestChannels = ChannelsMachine.TestCase
TestChannels.settings = settings(deadline=None, max_examples=200, stateful_step_count=40)
