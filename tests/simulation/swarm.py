"""What is so in a world, drawn from its seed: who lives in it, how busily, and what goes wrong how often.

Each world has a random part of all faults and habits, because what is always on hides what shows only without it
(swarm testing: https://users.cs.utah.edu/~regehr/papers/swarm12.pdf).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from tests.simulation.sites import KINDS

__all__ = ["HABITS", "Swarm", "waits"]

_Option = TypeVar("_Option")

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0

PACES = ((10 * HOUR, 40.0, 12.0), (HOUR, 20.0, 6.0), (10 * MINUTE, 5.0, 3.0))
"""How many times slower everything is in a world that lasts so many seconds, or more: what wsd does each second, and
what clients, nodes and Sentinels do now and then. It would be most of the work, and the same again and again."""

HABITS = {
    "unsubscribes": (30.0, 120.0),
    "pings": (10.0, 60.0),
    "authorizes": (20.0, 120.0),
    "errs": (20.0, 120.0),
    "comes_back": (5.0, 60.0),
    "floods": (60.0, 600.0),
    "leaves": (60.0, 600.0),
    "vanishes": (60.0, 600.0),
    "stops_reading": (20.0, 120.0),
    "reads_slowly": (20.0, 120.0),
    "stands_still": (60.0, 600.0),
    "sends_rubbish": (120.0, 600.0),
}
"""What a client may be in the habit of, and the seconds between two times, at least and at most."""


def waits(random: Random, mean: float) -> float:
    """A random wait, in seconds. Not exponential: a logarithm is not the same on every machine."""
    return 2 * mean * random.random() * random.random() * 2


@dataclass(frozen=True)
class Swarm:
    """What a world is made of."""

    kind: str  # of the site
    seconds: float  # for which things go wrong
    workers: int
    clients: int
    topics: Sequence[str]
    message_period: float  # seconds between two batches of messages
    batches: Sequence[int]  # messages in a batch, one of these
    padding: Sequence[int]  # bytes that a message is longer, one of these
    fault_period: float  # seconds between two faults, on average
    longest: float  # seconds that a fault takes at most
    faults: frozenset[str]  # kinds of faults that are on
    company: float = 0.0  # how likely a fault comes right behind the one before
    mishap: float = 0.0  # how likely a fault comes at a step of a reload or of a hand-over, or at a command to Redis
    mends: float = 0.0  # how likely one ends there instead, if there is one
    habits: dict[str, float] = field(default_factory=dict)  # seconds between two times, by what clients do
    pace: float = 1.0  # how many times slower everything is that wsd does again and again: in worlds that last long
    leisure: float = 1.0  # the same, of how clients, nodes and Sentinels look after each other
    heartbeat: float = 2.0  # redis_heartbeat, in seconds
    ping_interval: float = 20.0  # seconds
    max_backlog: int = 256 * 1024
    tokens: tuple[float, float] | None = None  # seconds that a token lives, at least and at most; None: no tokens
    narrow: bool = False  # whether tokens permit only some topics, now and then
    version: tuple[int, int, int] = (7, 0, 15)  # of Redis
    output_limits: tuple[int, int, float] | None = None  # of subscribers: hard, soft, and seconds; None: as usual
    pubsub_when_down: bool = True  # whether a Cluster that is down serves sharded channels
    tight: bool = False  # whether bounds are so small that they are reached
    keen: bool = False  # whether wsd asks Redis again and again how it stands
    pipe: tuple[int, int] | None = None  # bytes of a packet between processes, and of all that wait; None: as usual
    cohort: int | None = None  # connections that move together, at most; None: as usual, which is all of them
    latency: float = 0.0005  # seconds that a packet takes at most
    turn: float = 0.000_001  # seconds that a turn of the event loop takes
    deaths: dict[str, float] = field(default_factory=dict)  # how likely a process dies at a step, by the step's name

    @property
    def is_long(self) -> bool:
        """Whether things go wrong for an hour or more: such a world costs as much as ten others."""
        return self.seconds >= HOUR

    @classmethod
    def drawn(cls, random: Random, faults: Mapping[str, Sequence[str]], steps: Sequence[str]) -> Swarm:
        """Draw what a world is made of.

        Args:
            random: decides.
            faults: all faults, by what breaks.
            steps: all steps of reloads and hand-overs.
        """
        # Most worlds are short and full of faults; some go on for days, in which outages are long.
        seconds = _one_of(random, (10.0, DAY, *[MINUTE] * 8, *[5 * MINUTE] * 6, *[30 * MINUTE] * 2, 6 * HOUR, DAY))
        seconds *= 0.5 + random.random()
        is_long = seconds >= HOUR
        many = _one_of(random, (50, 200, 500) if is_long else (30, 300, 1000, 2000))
        # All that goes wrong may be of a kind, or be one thing: some mistakes show only where everything else is well.
        kinds = [random.choice(list(faults.values()))] if random.random() < 0.4 else faults.values()
        some, share = [fault for kind in kinds for fault in kind], _one_of(random, (0.5, 0.5, 0.2, 0.0))
        chosen = [fault for fault in some if random.random() < share] or [random.choice(some)]
        habits = {
            habit: least + (most - least) * random.random()
            for habit, (least, most) in HABITS.items()
            if random.random() < 0.5
        }
        pace, leisure = next(((pace, leisure) for least, pace, leisure in PACES if seconds >= least), (1.0, 1.0))
        slowdown = max(1.0, seconds / HOUR)  # of those who live: a day costs no more than some hours
        tokens = _one_of(random, (None, None, (20.0, MINUTE), (MINUTE, HOUR)))
        # What is interrupted because there is much of it takes long only with many clients on a slow machine.
        is_tight = random.random() < 0.3
        turn = _one_of(random, (0.000_001, 0.001, 0.005) if is_tight else (0.000_001, 0.000_001, 0.000_001, 0.001))
        is_slow = is_tight and turn >= 0.001 and seconds <= 10 * MINUTE
        deaths = {}
        if random.random() < 0.4:
            deaths = {step: random.choice((0.0, 0.0, 0.05, 0.3)) for step in steps}
        elif random.random() < 0.3:  # a single one excuses little
            deaths = dict.fromkeys(random.sample(steps, 3), 0.1)
        return cls(
            kind=random.choice(KINDS),
            seconds=seconds,
            workers=_one_of(random, (1, 1, 1, 2) if is_long else (1, 1, 2, 2, 3)),
            clients=_one_of(random, (1, 2, 4) if is_long else (3, 12, 40, 40) if is_slow else (1, 3, 6, 12)),
            topics=[f"topic-{number}" for number in range(_one_of(random, (1, 3, 10)))],
            message_period=_one_of(random, (0.1, 0.5, 2.0)) * max(1.0, seconds / (5 * MINUTE)),
            batches=_one_of(random, ((1,), (1, 1, 1, 5), (*[1] * 19, 30))),
            # So many large messages a slow machine never gets written.
            padding=_one_of(random, ((0,), (0, 0, 1000), (0, 0, 1000) if is_slow else (0, 20_000))),
            fault_period=min(seconds / many, 10 * MINUTE),
            longest=_one_of(random, (2.0, 20.0, 90.0)) * (_one_of(random, (1, 60, 600)) if is_long else 1),
            faults=frozenset(chosen),
            company=_one_of(random, (0.0, 0.0, 0.2)),
            mishap=_one_of(random, (0.0, 0.0, 0.05, 0.2)),
            mends=_one_of(random, (0.2, 0.8)),
            habits={habit: period * slowdown for habit, period in habits.items()},
            pace=pace,
            leisure=leisure,
            heartbeat=_one_of(random, (1.0, 2.0, 5.0)) * max(pace / 2, 1.0),
            ping_interval=_one_of(random, (5.0, 20.0)) * leisure,
            max_backlog=_one_of(random, (64, 256, 1024)) * 1024,
            tokens=tokens and (tokens[0] * slowdown, tokens[1] * slowdown),
            latency=_one_of(random, (0.0005, 0.0005, 0.02, 0.2)),
            turn=turn,
            deaths=deaths,
            narrow=random.random() < 0.5,
            version=_one_of(random, ((7, 0, 15), (7, 2, 4), (7, 4, 1))),
            output_limits=_one_of(random, (None, None, None, (256 * 1024, 64 * 1024, 5.0))),
            pubsub_when_down=random.random() < 0.7,
            tight=is_tight,
            keen=random.random() < 0.5 and not is_long,  # it would be half of the work of those
            pipe=_one_of(random, (None, None, (2048, 16_384))),
            cohort=_one_of(random, (None, 1, 3)),
        )


def _one_of(random: Random, options: Sequence[_Option]) -> _Option:
    return options[int(random.random() * len(options))]
