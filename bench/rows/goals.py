"""Holds results to the goals: each is a ratio within one run, as absolute numbers are the machine's.

Where several repetitions were measured, the median counts of those that were neither disturbed nor generator-bound, or
of all if there is none. A goal whose measurement is missing (a server isn't installed, a row was left out) is neither
met nor missed, and one whose generator was the limit says so. A goal that falls short says what was tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from bench.measure.run import Result

__all__ = ["Goal", "evaluate", "pick"]

_UNRELIABLE = {"disturbed", "generator-bound"}
"""Verdicts on results that count only where there are no others."""

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the table."""

    work: str  # the load
    measure: str  # what is measured
    value: float | None  # None if it wasn't
    limit: float
    unit: str = ""
    at_least: bool = False  # whether the limit is the least; else it is the most
    note: str = ""
    attempts: str = ""  # what was tried to reach it, should it fall short

    @property
    def met(self) -> bool | None:
        """Whether it holds; None without a value."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def tried(self) -> str:
        """What was tried, if the goal falls short."""
        return self.attempts if self.met is False else ""

    def dump(self) -> dict[str, Any]:
        """For JSON."""
        fields = asdict(self)
        del fields["attempts"]
        return fields | {"met": self.met, "tried": self.tried}


# Shown beside the goals that have fallen short on some machine: what was tried, what it brought, what is left.

_TRIED_SINGLE = (
    "one buffer for all, written in one loop: Python's part is 0.15 to 0.2 µs (python -m bench.micro --only pass). The "
    "rest is uvloop's write and send(2), which takes 3 to 8 µs, as it has to wake the reader up or not. A floor that "
    "is a little faster finds its reader awake, so this ratio is anything from 1.0 to 1.7 on a small virtual machine."
)
_TRIED_JOINED = (
    "one joined write per connection and pass. What is left at 2,000/s is mostly the system call of a write, shared by "
    "the few messages that one pass brings; at 5,000/s passes bring more, and the ratio doubles. Waiting for more "
    "messages would save writes, but delay everyone: not done."
)
_TRIED_ROUND = (
    "slices of a pass yield to the loop, and a pass that is late joins frames. With 10,000 subscribers a round of "
    "writes takes longer than the 50 ms between two messages: the floor doesn't hold this rate either, so part of "
    "every latency is the message before."
)
_TRIED_TOPICS = (
    "frames of one connection are joined across all topics of a pass. A client of one topic has nothing to join until "
    "its topic has several messages in a pass; from then on the limit is what taking and framing one message costs."
)
_TRIED_STOP = (
    "reading, sorting and writing are cut into slices of 2 ms. What comes on top is one step of each (a write of 64 "
    "KiB takes 20 to 50 µs, and there are at most 9 of them between two looks at the clock), the requests of clients, "
    "and whoever else uses the server's core."
)
_TRIED_STORM = (
    "requests handled without a task, no keepalive task, the collector frozen. Of what is left, the library's "
    "handshake and frames are 30 %, PyJWT 20 to 28 %, write(2) 13 %, the collector 3 %, random numbers 2 %; without "
    "system calls (python -m bench.micro --only handshake) the libraries alone take 90 %. A jwt.PyJWK as the key saves "
    "less than 1 µs: PyJWT 2.15 prepares its key for every token too."
)


def pick(results: Sequence[Result], row: str, server: str, **load: object) -> list[Result]:
    """The results of a row on a server whose load has these values."""
    return [
        result
        for result in results
        if result.get("row") == row
        and result["server"] == server
        and all(result["load"][name] == value for name, value in load.items())
    ]


def evaluate(results: Sequence[Result]) -> list[Goal]:
    """All goals of the table."""
    return [goal for rule in _RULES for goal in rule(results)]


def _median(results: Sequence[Result], *path: str) -> float | None:
    """Median of a number somewhere in each result; of those only that can be believed, if there are any."""
    values = []
    for result in [result for result in results if not _UNRELIABLE & set(result["verdicts"])] or results:
        value: Any = result
        for name in path:
            value = None if value is None else value.get(name)
        if value is not None:
            values.append(float(value))
    return median(values) if values else None


def _ratio(over: float | None, under: float | None) -> float | None:
    return None if over is None or not under else over / under


def _notes(results: Sequence[Result]) -> str:
    return ", ".join(sorted({verdict for result in results for verdict in result.get("verdicts", ())}))


def _values(results: Sequence[Result], row: str, name: str) -> list[Any]:
    return sorted({result["load"][name] for result in results if result.get("row") == row})


def _single(results: Sequence[Result]) -> Iterator[Goal]:
    wsd, floor = pick(results, "single", "wsd"), pick(results, "single", "floor")
    cost, least = _median(wsd, "cpu_per_delivery_us"), _median(floor, "cpu_per_delivery_us")
    note = "" if cost is None or least is None else f"{cost:.2f} against {least:.2f} µs. "
    yield Goal(
        "1,000 subscribers, 100 B, 100 messages/s",
        "CPU per delivery over the floor's",
        _ratio(cost, least),
        1.35,
        "x",
        note=note + _notes(wsd + floor),
        attempts=_TRIED_SINGLE,
    )


def _joined(results: Sequence[Result]) -> Iterator[Goal]:
    naive_anywhere = pick(results, "joined", "naive")
    for rate in (2000.0, 5000.0):
        work = f"1,000 subscribers, 100 B, {rate:,.0f} messages/s"
        wsd = pick(results, "joined", "wsd", rate=rate)
        cost = _median(wsd, "cpu_per_delivery_us")
        yield Goal(work, "messages lost, duplicated or out of order", _bad(wsd), 0, note=_notes(wsd))
        held = _ratio(_median(wsd, "rate"), _median(wsd, "offered"))
        yield Goal(work, "rate held", None if held is None else 100 * held, 98, "%", at_least=True)
        nats = _median(pick(results, "joined", "nats", rate=rate), "cpu_per_delivery_us")
        measure = "CPU per delivery over nats-server's"
        yield Goal(work, measure, _ratio(cost, nats), 1.0, "x", attempts=_TRIED_JOINED)
        # A naive server costs the same per delivery at any rate, as it never joins; so any rate will do.
        naive = pick(results, "joined", "naive", rate=rate) or naive_anywhere
        yield Goal(
            work,
            "naive server's CPU per delivery over ours",
            _ratio(_median(naive, "cpu_per_delivery_us"), cost),
            20,
            "x",
            at_least=True,
            attempts=_TRIED_JOINED,
        )


def _bad(results: Sequence[Result]) -> float | None:
    """Messages that were lost, duplicated or out of order in the worst of the repetitions."""
    counts = []
    for result in results:
        checks = result["checks"]
        missing = abs((checks["expected"] or 0) - checks["messages"])
        counts.append(float(max(missing, checks["lost"]) + checks["duplicated"] + checks["out_of_order"]))
    return max(counts) if counts else None


def _round(results: Sequence[Result]) -> Iterator[Goal]:
    for connections in (5000, 10_000):
        work = f"{connections:,} subscribers, 20 messages/s"
        wsd = pick(results, "round", "wsd", connections=connections)
        p99 = _median(wsd, "latency_us", "p99")
        for other, title in (("nats", "nats-server's"), ("nchan", "nchan's")):
            theirs = _median(pick(results, "round", other, connections=connections), "latency_us", "p99")
            yield Goal(work, f"p99 latency over {title}", _ratio(p99, theirs), 1.0, "x", note=_notes(wsd))
        cost = _median(pick(results, "round", "floor", connections=connections), "cpu_per_delivery_us")
        once = None if cost is None else cost * connections
        note = "" if p99 is None or once is None else f"{p99 / 1000:.1f} ms; one round of writes {once / 1000:.1f} ms"
        measure = "p99 latency over the floor's round of writes"
        attempts = _TRIED_ROUND if connections == 10_000 else ""
        yield Goal(work, measure, _ratio(p99, once), 2.3, "x", note=note, attempts=attempts)


def _topics(results: Sequence[Result]) -> Iterator[Goal]:
    for connections, topics, each, work in (
        (10_000, 10_000, 1, "10,000 topics with one subscriber each"),
        (10_000, 1000, 1, "1,000 topics with 10 subscribers each"),
        (500, 500, 50, "500 clients on 50 of 500 busy topics"),
    ):
        load = {"connections": connections, "topics": topics, "topics_each": each}
        wsd, naive = pick(results, "topics", "wsd", **load), pick(results, "topics", "naive", **load)
        ours, theirs = _delivered(wsd), _capacity(naive)
        yield Goal(
            work,
            "deliveries per second over the most that the naive server can do",
            _ratio(ours, theirs),
            5,
            "x",
            at_least=True,
            note=_topics_note(wsd, naive),
            attempts=_TRIED_TOPICS,
        )
        yield Goal(work, "messages lost, duplicated or out of order", _bad(wsd), 0)
        note = "joined across topics" if each > 1 else "joined within the one topic of each"
        yield Goal(work, "messages per read at the client", _median(wsd, "joined"), 1.05, at_least=True, note=note)


def _delivered(results: Sequence[Result]) -> float | None:
    """Deliveries per second. What was published in the warm-up and came in the window may not count for more than was
    offered, and what was lost doesn't make a rate."""
    rate, offered = _median(results, "rate"), _median(results, "offered")
    return None if rate is None or offered is None or _bad(results) else min(rate, offered)


def _capacity(results: Sequence[Result]) -> float | None:
    """The most deliveries per second of a server that joins nothing, so that each costs the same at any rate: what it
    delivered, or could in a second of CPU, whichever is more."""
    rate, cost = _median(results, "rate"), _median(results, "cpu_per_delivery_us")
    return None if rate is None or not cost else max(rate, 1e6 / cost)


def _topics_note(wsd: Sequence[Result], naive: Sequence[Result]) -> str:
    said = []
    for title, results, rate in (("wsd", wsd, _delivered(wsd)), ("naive", naive, _capacity(naive))):
        cost, p50 = _median(results, "cpu_per_delivery_us"), _median(results, "latency_us", "p50")
        if rate is not None and cost is not None and p50 is not None:
            said.append(f"{title} {rate:,.0f}/s at {cost:.2f} µs, p50 {p50 / 1000:,.0f} ms")
    return "; ".join([*said, *filter(None, [_notes(wsd)])])


def _bursts(results: Sequence[Result]) -> Iterator[Goal]:
    for row in ("burst", "stalled"):
        for topics in _values(results, row, "topics"):
            found = pick(results, row, "wsd", topics=topics)
            one = found[0] if found else None
            if one is None:
                continue
            others = f" and {one['stalled']} that don't read" if one["stalled"] else ""
            work = (
                f"{one['messages']:,} messages at once over {topics} topics, to {one['load']['connections']:,}"
                f" on {one['load']['topics_each']} of them{others}"
            )
            stop = _median(found, "stops", "longest")
            note = "" if stop is None else f"the loop answered after {1000 * stop:.1f} ms at the most"
            yield Goal(
                work,
                "longest stop of the loop",
                None if stop is None else 1000 * stop,
                20,
                "ms",
                note=note,
                attempts=_TRIED_STOP,
            )
            yield Goal(work, "memory at the most", _ratio(_median(found, "memory_growth"), MIB), 64, "MiB")
            yield Goal(work, "messages lost, duplicated or out of order", _bad(found), 0)


def _storm(results: Sequence[Result]) -> Iterator[Goal]:
    work = "10,000 clients connect, authorize and subscribe at once"
    wsd = pick(results, "storm", "wsd")
    cost = _median(wsd, "setup", "cpu_per_session_us")
    yield Goal(work, "CPU per session", cost, 200, "µs", note=_notes(wsd), attempts=_TRIED_STORM)
    failures = [float(sum(result["setup"]["failures"].values())) for result in wsd]
    yield Goal(work, "failures", max(failures) if failures else None, 0)
    standing = pick(results, "standing", "wsd")
    refused = [float(sum(result["setup"]["failures"].values())) for result in standing]
    calm, rough = _median(standing, "calm_us", "p99"), _median(standing, "storm_us", "p99")
    note = "" if calm is None or rough is None else f"{calm / 1000:.1f} ms before, {rough / 1000:.1f} ms meanwhile. "
    work = "the same, while 5,000 others get 10 messages/s"
    yield Goal(work, "failures", max(refused) if refused else None, 0)
    yield Goal(work, "the others' p99 over that before", _ratio(rough, calm), 2.0, "x", note=note + _notes(standing))


def _memory(results: Sequence[Result]) -> Iterator[Goal]:
    per_connection = _median(pick(results, "storm", "wsd"), "memory", "per_connection")
    value = None if per_connection is None else per_connection / KIB
    yield Goal("10,000 subscribed idle connections", "memory per connection", value, 8, "KiB")


def _soak(results: Sequence[Result]) -> Iterator[Goal]:
    for result in pick(results, "soak", "wsd"):
        work = f"{result['load']['seconds']:g} s of traffic, {result['churned']:,} clients came and went"
        memory = _ratio(result.get("memory_growth"), MIB)
        yield Goal(work, "growth of memory", memory, 1.0, "MiB", note=_notes([result]))
        # Clients come and go all the while, so the numbers waver by some.
        yield Goal(work, "growth of descriptors", result.get("descriptors_growth"), 10)
        yield Goal(work, "growth of tasks", result.get("tasks_growth"), 10)
        yield Goal(work, "growth of threads", result.get("threads_growth"), 1)
        yield Goal(work, "messages lost, duplicated or out of order", _bad([result]), 0)


_RULES: tuple[Callable[[Sequence[Result]], Iterator[Goal]], ...] = (
    _single,
    _joined,
    _round,
    _topics,
    _bursts,
    _storm,
    _memory,
    _soak,
)
