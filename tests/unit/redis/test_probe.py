"""The delivery probe."""

from __future__ import annotations

from wsd.redis.probe import Probe

DEADLINE = 5.0


def listening() -> Probe:
    probe = Probe()
    probe.channel = b"private"
    probe.changed(True)
    return probe


def test_nothing_is_sent_before_the_channel_is_confirmed() -> None:
    probe = Probe()
    assert probe.next(0.0) == ""
    assert not probe.overdue(100.0, DEADLINE)
    assert probe.describe(0.0) == "not probed yet"


def test_numbers_rise_and_wait_for_each_other() -> None:
    probe = listening()
    assert probe.next(0.0) == "1"
    assert probe.next(1.0) == "", "the first is on its way"
    probe.returned(b"1", 1.25)
    assert probe.round_trip == 1.25
    assert probe.age(2.25) == 1.0
    assert probe.next(2.0) == "2"
    assert "came back in 1250.0 ms, 1.0 s ago" in probe.describe(2.25)


def test_what_others_publish_there_counts_for_nothing() -> None:
    probe = listening()
    probe.next(0.0)
    for payload in (b"", b"0", b"2", b"1 ", b"\xff"):
        probe.returned(payload, 1.0)
    assert probe.age(1.0) is None
    assert "probe 1 has not come back for 6.0 s" in probe.overdue(6.0, DEADLINE)


def test_under_load_a_probe_waits_behind_the_messages() -> None:
    probe = listening()
    probe.next(0.0)
    assert not probe.overdue(5.0, DEADLINE)
    probe.delivering = True
    assert not probe.overdue(6.0, DEADLINE)
    assert not probe.overdue(11.0, DEADLINE)
    assert probe.overdue(11.1, DEADLINE), "nothing at all came since"


def test_a_new_connection_or_a_slot_that_moved_begins_anew() -> None:
    probe = listening()
    probe.next(0.0)
    probe.changed(False)
    assert not probe.channel
    assert not probe.overdue(100.0, DEADLINE)
    probe.channel = b"other"
    probe.changed(True)
    assert probe.next(0.0) == "2", "an old number that comes late means nothing"


def test_it_says_why_it_is_off() -> None:
    probe = listening()
    probe.off = "permit it"
    assert probe.next(0.0) == ""
    assert probe.describe(0.0) == "not probed: permit it"
