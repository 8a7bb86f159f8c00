"""The topic table is held to its rules, with fakes for Redis and for listeners, and to a model made of sets."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from wsd.delivery.marks import Mark
from wsd.delivery.topics import TopicTable


class Redis:
    """What the table tells the side of Redis: the calls, and the channels that are wanted by them."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bytes]] = []
        self.wanted: set[bytes] = set()

    def subscribe(self, channel: bytes) -> None:
        assert channel not in self.wanted, "told of a first listener twice"
        self.wanted.add(channel)
        self.calls.append(("subscribe", channel))

    def unsubscribe(self, channel: bytes) -> None:
        self.wanted.remove(channel)  # raises if it was told of a last listener twice
        self.calls.append(("unsubscribe", channel))


class Ear:
    """A listener that records what it is told, and then does something."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.told: list[tuple[str, ...]] = []
        self.then = then

    def write(self, data: bytes, /) -> object:
        raise AssertionError("the table writes nothing")

    def topic_confirmed(self, topic: str) -> None:
        self.told.append(("confirmed", topic))
        self.then()

    def topic_refused(self, topic: str, reason: str) -> None:
        self.told.append(("refused", topic, reason))
        self.then()


@pytest.fixture
def redis_side() -> Redis:
    return Redis()


@pytest.fixture
def table(redis_side: Redis) -> TopicTable:
    return TopicTable("", redis_side.subscribe, redis_side.unsubscribe)


def listeners(table: TopicTable, channel: bytes) -> list[object]:
    return list(table.channels[channel].listeners())


# The first and the last.


def test_redis_is_told_of_the_first_that_waits_and_the_last_that_leaves(table: TopicTable, redis_side: Redis) -> None:
    ann, bob = Ear(), Ear()
    table.wait("news", ann)
    table.wait("news", bob)
    table.listen("news", ann)
    table.leave("news", ann)
    assert redis_side.calls == [("subscribe", b"news")]
    table.leave("news", bob)
    assert redis_side.calls == [("subscribe", b"news"), ("unsubscribe", b"news")]


def test_whoever_comes_back_is_a_first_again(table: TopicTable, redis_side: Redis) -> None:
    ear = Ear()
    for _ in range(2):
        table.wait("news", ear)
        table.leave("news", ear)
    assert redis_side.calls == [("subscribe", b"news"), ("unsubscribe", b"news")] * 2


def test_waiting_and_listening_twice_is_once(table: TopicTable, redis_side: Redis) -> None:
    ear = Ear()
    table.wait("news", ear)
    table.wait("news", ear)
    table.listen("news", ear)
    table.listen("news", ear)
    assert listeners(table, b"news") == [ear]
    table.leave("news", ear)
    assert redis_side.wanted == set()


def test_leaving_what_one_is_not_on_is_fine(table: TopicTable, redis_side: Redis) -> None:
    table.leave("news", Ear())
    table.wait("news", ann := Ear())
    table.leave("news", Ear())
    table.leave("sport", ann)
    assert redis_side.wanted == {b"news"}


@pytest.mark.parametrize(
    ("prefix", "channel"), [("", b"caf\xc3\xa9"), ("app:", b"app:caf\xc3\xa9"), ("é", b"\xc3\xa9caf\xc3\xa9")]
)
def test_the_channel_is_the_prefix_and_the_topic(prefix: str, channel: bytes, redis_side: Redis) -> None:
    table = TopicTable(prefix, redis_side.subscribe, redis_side.unsubscribe)
    table.wait("café", ear := Ear())
    table.listen("café", ear)
    assert redis_side.wanted == set(table.channels) == {channel}
    assert (table.channels[channel].name, table.channels[channel].channel) == ("café", channel)
    table.confirm(channel)
    table.leave("café", ear)
    assert redis_side.wanted == set(table.channels) == set()


def test_topics_that_look_like_patterns_are_names(table: TopicTable, redis_side: Redis) -> None:
    table.wait("*", Ear())
    table.wait("[ab]?", Ear())
    assert redis_side.wanted == {b"*", b"[ab]?"}


# What Redis answers.


def test_those_who_wait_are_told_in_their_order_when_redis_confirms(table: TopicTable) -> None:
    order: list[str] = []
    table.wait("news", ann := Ear(lambda: order.append("ann")))
    table.wait("news", bob := Ear(lambda: order.append("bob")))
    table.listen("news", ann)
    table.wait("news", Ear(lambda: order.append("cat")))
    table.confirm(b"news")
    assert order == ["bob", "cat"]
    assert (ann.told, bob.told) == ([], [("confirmed", "news")])


def test_who_waits_for_a_confirmed_topic_is_told_so_at_once(table: TopicTable) -> None:
    table.wait("news", early := Ear())
    assert early.told == []
    table.confirm(b"news")
    table.wait("news", late := Ear())
    assert late.told == [("confirmed", "news")]


def test_who_waits_for_a_topic_that_redis_refuses_is_told_so_at_once(table: TopicTable, redis_side: Redis) -> None:
    table.wait("news", ann := Ear())
    table.listen("news", ann)
    table.refuse(b"news", "no")
    table.wait("news", late := Ear())
    assert late.told == [("refused", "news", "no")]
    assert not table.channels[b"news"].waiters
    table.leave("news", ann)
    assert redis_side.wanted == set()


def test_after_the_link_is_lost_topics_must_be_confirmed_again(table: TopicTable) -> None:
    table.wait("news", ann := Ear())
    table.confirm(b"news")
    table.listen("news", ann)
    table.unconfirm(list(table.channels))
    assert listeners(table, b"news") == [ann]
    table.wait("news", bob := Ear())
    assert bob.told == []
    table.confirm(b"news")
    assert (ann.told, bob.told) == ([("confirmed", "news")], [("confirmed", "news")])


def test_a_refusal_takes_off_who_waits_and_tells_who_listens_once(table: TopicTable, redis_side: Redis) -> None:
    table.wait("news", ann := Ear())
    table.listen("news", ann)
    table.wait("news", bob := Ear())
    table.refuse(b"news", "no")
    assert ann.told == bob.told == [("refused", "news", "no")]
    assert (listeners(table, b"news"), redis_side.wanted) == ([ann], {b"news"})
    assert table.channels[b"news"].refusal == "no"
    table.refuse(b"news", "no")  # it was tried again
    assert len(ann.told) == 1
    table.confirm(b"news")
    assert table.channels[b"news"].refusal == ""
    table.refuse(b"news", "no")
    assert len(ann.told) == 2


def test_a_refusal_of_all_ends_the_topic(table: TopicTable, redis_side: Redis) -> None:
    ears = [Ear(), Ear()]
    for ear in ears:
        table.wait("news", ear)
    table.refuse(b"news", "no")
    assert [ear.told for ear in ears] == [[("refused", "news", "no")]] * 2
    assert redis_side.calls == [("subscribe", b"news"), ("unsubscribe", b"news")]
    assert len(table) == len(table.channels) == 0


def test_one_that_is_refused_is_off_the_topic_when_it_is_told(table: TopicTable, redis_side: Redis) -> None:
    still_wanted: list[bool] = []
    table.wait("news", Ear(lambda: still_wanted.append(b"news" in redis_side.wanted)))
    table.refuse(b"news", "no")
    assert still_wanted == [False]


def test_answers_for_channels_that_nobody_wants_any_more_are_ignored(table: TopicTable) -> None:
    table.wait("news", ear := Ear())
    table.leave("news", ear)
    table.confirm(b"news")
    table.refuse(b"news", "no")
    table.unconfirm(list(table.channels))
    assert ear.told == []


# While being told.


@pytest.mark.parametrize("answer", ["confirm", "refuse"])
def test_a_listener_may_leave_everything_while_it_is_told(answer: str, table: TopicTable, redis_side: Redis) -> None:
    def leave_all() -> None:
        for topic in ("news", "sport", "music"):
            table.leave(topic, quitter)

    quitter, other = Ear(leave_all), Ear()
    for topic in ("music", "news", "sport"):
        table.wait(topic, quitter)
    table.listen("music", quitter)
    table.wait("news", other)
    if answer == "confirm":
        table.confirm(b"news")
        assert redis_side.wanted == {b"news"}
    else:
        table.refuse(b"news", "no")
        assert redis_side.wanted == set()
    assert len(quitter.told) == len(other.told) == 1


@pytest.mark.parametrize("answer", ["confirm", "refuse"])
def test_one_that_another_took_off_meanwhile_is_not_told(answer: str, table: TopicTable) -> None:
    """:class:`~wsd.delivery.topics.Listener` promises to tell those who wait."""
    victim = Ear()
    table.wait("news", Ear(lambda: table.leave("news", victim)))
    table.wait("news", victim)
    if answer == "confirm":
        table.confirm(b"news")
    else:
        table.refuse(b"news", "no")
    assert victim.told == []


def test_listeners_may_begin_to_listen_while_they_are_told(table: TopicTable) -> None:
    ears = [Ear(), Ear(), Ear()]
    for ear in ears:
        ear.then = lambda ear=ear: table.listen("news", ear)  # type: ignore[misc]  # a default argument binds early
        table.wait("news", ear)
    table.confirm(b"news")
    assert listeners(table, b"news") == ears
    assert not table.channels[b"news"].waiters


# Swaps.


def test_one_takes_the_place_of_another_and_redis_hears_nothing(table: TopicTable, redis_side: Redis) -> None:
    ann, bob, new, waiting = Ear(), Ear(), Ear(), Ear()
    for ear in (ann, bob, waiting):
        table.wait("news", ear)
    for ear in (ann, bob):
        table.listen("news", ear)
    calls = list(redis_side.calls)
    assert table.swap("news", ann, new)
    assert listeners(table, b"news") == [bob, new]
    assert not table.swap("news", ann, new), "it listens no more"
    assert not table.swap("news", waiting, new), "one that waits does not listen"
    assert not table.swap("sport", ann, new)
    assert table.swap("news", bob, new)
    assert listeners(table, b"news") == [new]
    assert table.channels[b"news"].heard
    assert list(table.channels[b"news"].waiters) == [waiting]
    assert redis_side.calls == calls
    assert new.told == []


def test_the_last_one_that_listens_can_be_swapped(table: TopicTable, redis_side: Redis) -> None:
    old, new = Ear(), Ear()
    table.wait("news", old)
    table.listen("news", old)
    table.swap("news", old, new)
    assert redis_side.wanted == {b"news"}
    table.leave("news", old)
    assert redis_side.wanted == {b"news"}
    table.leave("news", new)
    assert redis_side.wanted == set()


# By name.


def test_a_topic_is_asked_for_by_name(redis_side: Redis) -> None:
    table = TopicTable("app:", redis_side.subscribe, redis_side.unsubscribe)
    assert table.channel("café") == b"app:caf\xc3\xa9"
    assert not table.confirmed("café")
    table.wait("café", Ear())
    assert not table.confirmed("café")
    table.confirm(b"app:caf\xc3\xa9")
    assert table.confirmed("café")
    table.unconfirm([b"app:caf\xc3\xa9"])
    assert not table.confirmed("café")


# Marks.


def test_a_mark_is_subscribed_told_and_no_topic(table: TopicTable, redis_side: Redis) -> None:
    told: list[object] = []
    mark = Mark(
        b"__wsd:mark:1",
        on_confirmed=lambda: told.append("confirmed"),
        on_refused=told.append,
        on_mark=told.append,
        on_lost=lambda: told.append("lost"),
    )
    table.place(mark)
    assert redis_side.wanted == {b"__wsd:mark:1"}
    assert len(table) == len(table.channels) == 0
    table.confirm(b"__wsd:mark:1")
    table.unconfirm([b"__wsd:mark:1"])
    table.refuse(b"__wsd:mark:1", "no")
    assert told == ["confirmed", "lost", "no"]
    with pytest.raises(ValueError, match="taken"):
        table.place(mark)
    table.remove(mark)
    table.remove(mark)
    assert redis_side.calls == [("subscribe", b"__wsd:mark:1"), ("unsubscribe", b"__wsd:mark:1")]
    table.confirm(b"__wsd:mark:1")
    assert len(told) == 3


# Leaks.


def test_an_empty_table_holds_nothing_of_those_who_were_there(table: TopicTable) -> None:
    ear = Ear()
    table.wait("news", ear)
    table.confirm(b"news")
    table.listen("news", ear)
    trace = weakref.ref(ear)
    table.leave("news", ear)
    del ear
    assert trace() is None
    assert len(table) == len(table.channels) == 0


# The model.

TOPICS = st.sampled_from(["news", "sport", "music"])
EARS = st.integers(0, 3)


class TopicTableMachine(RuleBasedStateMachine):
    """Any sequence of calls, against sets of (ear, topic)."""

    @initialize()
    def open(self) -> None:
        self.redis_side = Redis()
        self.table = TopicTable("app:", self.redis_side.subscribe, self.redis_side.unsubscribe)
        self.ears = [Ear() for _ in range(4)]
        self.waiting: set[tuple[int, str]] = set()
        self.listening: set[tuple[int, str]] = set()
        self.confirmed: set[str] = set()
        self.refused: set[str] = set()  # since they were last confirmed

    def wanted(self) -> set[str]:
        return {topic for _, topic in self.waiting | self.listening}

    def told(self) -> set[tuple[int, tuple[str, ...]]]:
        """What the ears were told since the last time."""
        told = [(number, words) for number, ear in enumerate(self.ears) for words in ear.told]
        for ear in self.ears:
            ear.told.clear()
        assert len(told) == len(set(told)), "told twice"
        return set(told)

    @rule(ear=EARS, topic=TOPICS)
    def wait(self, ear: int, topic: str) -> None:
        if (ear, topic) in self.listening:
            return
        self.table.wait(topic, self.ears[ear])
        if topic in self.refused:
            self.waiting.discard((ear, topic))
            assert self.told() == {(ear, ("refused", topic, "no"))}
        else:
            self.waiting.add((ear, topic))
            assert self.told() == ({(ear, ("confirmed", topic))} if topic in self.confirmed else set())

    @rule(ear=EARS, topic=TOPICS)
    def listen(self, ear: int, topic: str) -> None:
        if (ear, topic) in self.waiting:
            self.waiting.remove((ear, topic))
            self.listening.add((ear, topic))
            self.table.listen(topic, self.ears[ear])

    @rule(ear=EARS, topic=TOPICS)
    def leave(self, ear: int, topic: str) -> None:
        self.waiting.discard((ear, topic))
        self.listening.discard((ear, topic))
        self.table.leave(topic, self.ears[ear])

    @rule(topic=TOPICS)
    def confirm(self, topic: str) -> None:
        self.table.confirm(f"app:{topic}".encode())
        if topic in self.wanted():
            self.confirmed.add(topic)
        self.refused.discard(topic)
        assert self.told() == {(ear, ("confirmed", topic)) for ear, waited in self.waiting if waited == topic}

    @rule(topic=TOPICS)
    def refuse(self, topic: str) -> None:
        refused = {(ear, waited) for ear, waited in self.waiting if waited == topic}
        self.waiting -= refused
        listening = {(ear, heard) for ear, heard in self.listening if heard == topic and topic not in self.refused}
        self.confirmed.discard(topic)
        self.refused.add(topic)
        self.table.refuse(f"app:{topic}".encode(), "no")
        assert self.told() == {(ear, ("refused", topic, "no")) for ear, _ in refused | listening}

    @rule()
    def unconfirm(self) -> None:
        self.confirmed.clear()
        self.table.unconfirm(list(self.table.channels))

    @invariant()
    def the_table_is_the_sets(self) -> None:
        self.confirmed &= self.wanted()
        self.refused &= self.wanted()
        channels = self.table.channels
        numbers: dict[object, int] = {ear: number for number, ear in enumerate(self.ears)}
        assert self.redis_side.wanted == set(channels) == {f"app:{topic}".encode() for topic in self.wanted()}
        assert len(self.table) == len(channels)
        assert {(numbers[ear], topic.name) for topic in channels.values() for ear in topic.waiters} == self.waiting
        assert {
            (numbers[ear], topic.name) for topic in channels.values() for ear in topic.listeners()
        } == self.listening
        assert {topic.name for topic in channels.values() if topic.confirmed} == self.confirmed
        assert {topic.name for topic in channels.values() if topic.refusal} == self.refused
        assert self.told() == set()


TestTopicTable = TopicTableMachine.TestCase
TestTopicTable.settings = settings(deadline=None)
