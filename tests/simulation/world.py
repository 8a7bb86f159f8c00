"""A world: Redis, wsd, clients and publishers, what goes wrong in it, and whether all is as promised."""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from random import Random
from typing import Any

import jwt

import wsd.pipe
import wsd.redis.cluster
from tests.handover.diary import Diary, End
from tests.handover.judge import judge
from tests.handover.numbers import Book
from tests.simulation import cluster, sentinel
from tests.simulation.chance import EPOCH, Clock
from tests.simulation.clients import Client
from tests.simulation.connection import LATE, PORT, Connection, Token
from tests.simulation.faults import FAULTS, KINDS, mend_all, mend_one
from tests.simulation.loop import PROCESS, Killed, Process, SimulatedLoop
from tests.simulation.network import Endpoint, Network
from tests.simulation.redis import Client as Redis
from tests.simulation.redis import Server
from tests.simulation.service import Service
from tests.simulation.sites import WSD, make_site
from tests.simulation.swarm import Swarm, waits
from tests.simulation.watch import Watch, holdings, is_of
from wsd import deadlines
from wsd.config import Settings
from wsd.delivery import fanout
from wsd.handover import giver
from wsd.handover.steps import Step as Move
from wsd.redis import guides, vitals
from wsd.redis.topology import REFRESH_INTERVAL
from wsd.supervisor import balance, team
from wsd.supervisor.steps import Step as Reload
from wsd.worker import supervised

__all__ = ["Cut", "Outcome", "World"]

HEAL, HEAL_BEATS = 150.0, 5.0
"""Seconds and heartbeats of links within which all is well again after the last fault."""

PROMPT = 20.0
"""Seconds within which wsd is well again after Redis."""

FIX = 30
"""Seconds after which an operator looks whether Redis has got well by itself."""

QUIET = 20.0
"""Seconds after which nothing is left of clients that have gone: topics linger for 5, and sockets linger, too."""

ACCIDENT = 120.0
"""Seconds for which a process of wsd that has died or stood still may cost clients the connection."""

WORST = 2
"""How bad it is that the supervisor dies, or that a process stands still. That a worker dies is half as bad."""

MOST_WORK = 1_500_000
"""Callbacks of the loop after which nothing goes wrong any more: the work of half a minute of one core."""

CALM = 60.0
"""Seconds after a process of wsd has died or stood still in which its clocks are late, and much is read at once."""

MOMENT = 0.000_001
"""Seconds, at most, between what happens at the same time."""

SAMPLES = 8
"""Looks at what a worker holds."""

LOOKS = {
    (wsd.redis.cluster, "REFRESH_INTERVAL"): (REFRESH_INTERVAL, 0.6),
    (guides, "REFRESH_INTERVAL"): (REFRESH_INTERVAL, 0.6),
    (vitals, "AUDIT_INTERVAL"): (vitals.AUDIT_INTERVAL, 1.0),
}
"""How often wsd asks Redis who is the master, where the slots are, and what is subscribed, and how often where it is
keen: what it learns shall meet with everything else."""

NOW_AND_THEN = {
    (wsd.redis.cluster, "BACKOFF_MAX"): wsd.redis.cluster.BACKOFF_MAX,
    (cluster, "GOSSIP"): cluster.GOSSIP,
    (cluster, "NODE_TIMEOUT"): cluster.NODE_TIMEOUT,
    (sentinel, "PERIOD"): sentinel.PERIOD,
    (sentinel, "HELLO"): sentinel.HELLO,
    (sentinel, "DOWN_AFTER"): sentinel.DOWN_AFTER,
    (sentinel, "RECONFIGURE"): sentinel.RECONFIGURE,
}
"""What wsd and others do now and then."""

BEAT = supervised.BEAT

EACH = {
    (deadlines, "RESOLUTION"): deadlines.RESOLUTION,
    (supervised, "BEAT"): supervised.BEAT,
    (team, "TICK"): team.TICK,
    (balance, "LOOK"): balance.LOOK,
}
"""What wsd does each second or so."""

SUBSCRIBING = 10.0
"""Seconds, at most, from a subscription until its client has read of it."""

HELD = 144 * 1024
"""Bytes, at most, that a transport still delivers when a backlog is dropped: the bound counts them, too."""

DRAINS = 15.0
"""Seconds, at most, in which a client whose connection is ended for its backlog reads what was on its way already."""

FRAME = 80
"""Bytes of a message around its payload."""

AGAINST_REDIS = frozenset((*KINDS["Redis"], "a_direction_stalls", "a_connection_is_reset", "the_network_is_bad"))
"""Faults for which a link to Redis may be lost."""

RESUBSCRIBES = re.compile(r"again after .*; resubscribing \d+ channels, (\d+) with a gap")
"""What a link logs that was lost and is there again."""

CLOCK_STEPS = "the_clock_is_set"

LEEWAY = 5.0
"""Seconds that a token is good beyond its end (jwt_leeway)."""

KEY = "a key of the simulated world, which is no secret"

BOUNDS = {
    (fanout, "MAX_WAITING"): (fanout.MAX_WAITING, 32 * 1024),
    (fanout, "PORTION"): (fanout.PORTION, 4096),
    (fanout, "STEP"): (fanout.STEP, 2),
    (fanout, "SLICE"): (fanout.SLICE, 0.0),
    (balance, "WORTHWHILE"): (balance.WORTHWHILE, 1),
    (vitals, "AUDIT_BATCH"): (vitals.AUDIT_BATCH, 2),
}
"""Bounds of wsd, and how small they are in a world where they shall be reached."""

COMMANDS = dict.fromkeys((b"SUBSCRIBE", b"UNSUBSCRIBE", b"SSUBSCRIBE", b"SUNSUBSCRIBE"), 0.3)
"""How likely something else happens while the answer to a command is on its way; less likely if it is another one."""

PACKET = wsd.pipe.PACKET

COHORTS = {name: getattr(giver, name) for name in ("FIRST_COHORT", "LARGEST_COHORT", "SMALLEST_COHORT")}
"""How many connections move together. There are never as many in a world."""

STEPS = [step.name for kind in (Move, Reload) for step in kind]


@dataclass(frozen=True)
class Cut:
    """Which of the faults of a seed happen: the first ones, but for some.

    Args:
        most: how many; None: all.
        without: the numbers of those that do not happen, from 0.
    """

    most: int | None = None
    without: frozenset[int] = frozenset()

    def __str__(self) -> str:
        words = [] if self.most is None else [f"--faults {self.most}"]
        words += [f"--without {','.join(map(str, sorted(self.without)))}"] if self.without else []
        return " ".join(words)


@dataclass
class Outcome:
    """What came of a world."""

    seed: int
    kind: str = ""
    problems: list[str] = field(default_factory=list)
    virtual: float = 0.0  # seconds
    planned: int = 0  # faults of the seed that were reached
    happened: list[int] = field(default_factory=list)  # their numbers, of those that broke something
    faults: Counter[str] = field(default_factory=Counter)  # how many, by kind
    clients: int = 0  # connections
    messages: int = 0  # that came to clients
    gaps: int = 0
    lost: int = 0
    timeline: list[str] = field(default_factory=list)


class _Lines(logging.Handler):
    """Puts the log on the timeline; whatever is an error there is a problem."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        process = PROCESS.get()
        said = record.getMessage()
        self._world.note(f"{process or ''} {record.levelname} {record.name}: {said}")
        self._world.judge_line(process, said)
        if record.exc_info or (record.levelno >= logging.ERROR and not record.name.startswith("wsd.supervisor")):
            text = "".join(traceback.format_exception(record.exc_info[1])) if record.exc_info else ""
            self._world.problem(f"{process}: {said} {text}")


class World:
    """A world from a seed.

    Args:
        seed: everything that happens by chance comes from it.
        clock: what the standard library says of time and chance.
        cut: which of its faults happen.
    """

    def __init__(self, seed: int, clock: Clock, cut: Cut | None = None) -> None:
        self.seed = seed
        self.clock = clock
        self.cut = cut or Cut()
        self.outcome = Outcome(seed)
        self._random = Random(f"{seed} publisher")
        clock.random = Random(f"{seed} library")
        clock.looks, clock.step = 0, 0.0
        self.swarm = Swarm.drawn(Random(f"{seed} swarm"), KINDS, STEPS)
        self.loop = SimulatedLoop()
        self.loop.complain = self._complain
        clock.now = lambda: self.loop.now
        self.network = Network(self.loop, Random(f"{seed} network"))
        self.network.usual.latency = (self.swarm.latency / 5, self.swarm.latency)
        # Seconds within which wsd finds out that a client does not answer.
        self.found_out = self.swarm.ping_interval + 20.0 + 20.0 + 2 * self.swarm.pace
        self.loop.turn = self.swarm.turn
        # Seconds, at most, that a packet takes until somebody has handled it.
        self.slowest = self.swarm.latency + 20 * self.swarm.turn
        self.site = make_site(self.swarm.kind, self.loop, self.network)
        self.outcome.kind = self.swarm.kind
        for server in self.site.servers:
            server.version = self.swarm.version
            server.on_command = self._commanded
            server.output_limits = self.swarm.output_limits or server.output_limits
            if isinstance(server, cluster.Node):
                server.pubsub_when_down = self.swarm.pubsub_when_down
        self.clients: list[Client] = []
        self.book = Book(self.swarm.topics)
        self._sizes: dict[str, list[int]] = {topic: [] for topic in self.swarm.topics}  # of the numbers, in bytes
        self._serials: dict[str, list[int]] = {topic: [] for topic in self.swarm.topics}  # which of all messages it is
        self._serial = 0
        # Numbers that were published when several nodes claimed their topic, and where.
        self._contested: dict[str, list[tuple[int, Server | None]]] = {topic: [] for topic in self.swarm.topics}
        self.bereft: dict[Redis, None] = {}  # clients of a Redis that has forgotten some of what they had subscribed
        self.deaf: dict[Redis, float] = {}  # those of which it has forgotten all, and when
        self.accident = -ACCIDENT  # when a process of wsd last died or stood still
        self._blows: list[tuple[float, int]] = []  # when that has happened, and how bad it was
        # Whether so much comes at once that links and clients may not keep up.
        is_slow = self.slowest > 0.1 or "the_network_is_bad" in self.swarm.faults
        much = ("a_burst" in self.swarm.faults, max(self.swarm.padding) > 1000, is_slow)
        self._is_flooded = sum(much) >= 2
        # Who has stood still reads all that has come since.
        stands_still = bool(self.swarm.deaths) or "a_process_stands_still" in self.swarm.faults
        is_late = self._is_flooded or (stands_still and any(much))
        # Whether no fault is on that a link to Redis may be lost for.
        self._is_redis_well = not (self.swarm.output_limits or is_late or self.swarm.faults & AGAINST_REDIS)
        self._publishing = True
        self.mended = True  # whether nothing goes wrong yet, or any more
        self._dying = Random(f"{seed} deaths")
        self._subject = ""  # the topic that a fault is about; any if it is empty
        self._kinds = [kind for kind in FAULTS if kind in self.swarm.faults]
        for (module, name), seconds in EACH.items():
            setattr(module, name, seconds * self.swarm.pace)
        for (module, name), seconds in NOW_AND_THEN.items():
            setattr(module, name, seconds * self.swarm.leisure)
        for (module, name), (usual, often) in LOOKS.items():
            setattr(module, name, often * self.swarm.pace if self.swarm.keen else usual * self.swarm.leisure)
        for (module, name), (usual, small) in BOUNDS.items():
            setattr(module, name, small if self.swarm.tight else usual)
        for name, usual in COHORTS.items():
            setattr(giver, name, self.swarm.cohort or usual)
        wsd.pipe.PACKET = PACKET if self.swarm.pipe is None else self.swarm.pipe[0]
        self.service = Service(self.loop, self.network, WSD, self.settings, self._reached, self._dies)
        if self.swarm.pipe is not None:
            self.service.kernel.capacity = self.swarm.pipe[1]

    @property
    def calm_since(self) -> float:
        """When the last accident is over that a process of wsd has had."""
        return self.accident + CALM

    def note(self, what: str) -> None:
        """Note something for the timeline."""
        self.outcome.timeline.append(f"{self.loop.now:14.6f} {what}")

    def problem(self, what: str) -> None:
        """Note what must not be."""
        self.note(f"PROBLEM {what}")
        self.outcome.problems.append(what)

    def judge_line(self, process: Process | None, line: str) -> None:
        """Judge what wsd has logged."""
        if line.startswith("lost the link") and self._is_redis_well:
            self.problem(f"{process}: {line}; and nothing was wrong with Redis, or the way to it")
        if (found := RESUBSCRIBES.search(line)) and int(found[1]):
            worker = next((worker for each, worker in self.service.serving if each is process), None)
            if worker is not None and not worker.status.unready():
                self.problem(f"{process}: /readyz says 200, and: {line}")

    def _complain(self, process: Process | None, context: dict[str, Any]) -> None:
        """Something has raised an exception that nobody handles."""
        exc = context.get("exception")
        text = "".join(traceback.format_exception(exc)) if exc is not None else ""
        self.problem(f"{process}: {context.get('message')} {context.get('task', '')} {text}")

    def settings(self) -> Settings:
        """The settings of wsd."""
        swarm = self.swarm
        values: dict[str, Any] = {
            "redis_url": self.site.url,
            "pubsub": self.site.pubsub,
            "port": PORT,
            "workers": swarm.workers,
            "redis_heartbeat": swarm.heartbeat,
            "max_backlog": swarm.max_backlog,
            "ping_interval": swarm.ping_interval,
            "drain_seconds": 5,
            "worker_timeout": 10 if swarm.pace == 1 else 3 * BEAT * swarm.pace,
            "auth": "none",
        }
        if swarm.tokens is not None:
            values |= {"auth": "jwt", "jwt_key": KEY, "jwt_algorithms": ["HS256"], "jwt_leeway": LEEWAY}
        return Settings(**values)

    # Running.

    def run(self) -> Outcome:
        """Let it live; return what came of it."""
        root, lines = logging.getLogger(), _Lines(self)
        before = root.handlers, root.level
        root.handlers = [lines]
        root.setLevel(logging.INFO)
        try:
            self.loop.run_until_complete(self._live())
        except Exception as exc:
            self.problem("".join(traceback.format_exception(exc)))
        finally:
            root.handlers, root.level = before
            asyncio.set_event_loop(None)
        self.outcome.virtual = self.loop.now
        return self.outcome

    async def _live(self) -> None:
        for server in self.site.servers:
            server.start()
        await asyncio.sleep(3.0)
        self.service.start()
        await asyncio.sleep(3.0)
        before = await self._holdings()
        watching = asyncio.ensure_future(Watch(self).run())
        for number in range(self.swarm.clients):
            client = Client(self, number, Random(f"{self.seed} client {number}"), self.swarm.habits)
            self.clients.append(client)
            client.start()
        publishing = asyncio.ensure_future(self._publish())
        await asyncio.sleep(3.0)
        await self._go_wrong()
        await self._heal()
        await self._judge()
        self._publishing = False
        for client in self.clients:
            client.stop()
        await publishing
        await asyncio.sleep(QUIET + 2 * self.swarm.heartbeat)
        watching.cancel()
        self._compare(before, await self._holdings())

    # What is published.

    async def _publish(self) -> None:
        random, swarm = self._random, self.swarm
        while self._publishing:
            await asyncio.sleep(waits(random, swarm.message_period))
            count = random.choice(swarm.batches)
            for _ in range(1 if self.mended else count):  # many at once may overrun an output buffer
                self.publish(random.choice(swarm.topics), random.choice(swarm.padding))

    def publish(self, topic: str, padding: int) -> None:
        """Publish the next number of a topic where a publisher would."""
        book = self.book.at(topic, 0)
        payload = b"%d%s" % (book.last + 1, b" " * padding)
        self._sizes[topic].append(FRAME + len(payload))
        self._serial += 1
        self._serials[topic].append(self._serial)
        book.note(self.loop.now, self.site.publish(topic.encode(), payload))
        self._contest(topic)

    def _contest(self, topic: str) -> None:
        """Note that several servers claim a topic, or which of them has won.

        Who listens to the one that wins may never hear that there was another one, and that messages went there. The
        same is so if one had won before, and it is another one's now.
        """
        channel, book, contested = topic.encode(), self.book.at(topic, 0), self._contested[topic]
        claimants, home = self.site.claimants(channel), self.site.home(channel)
        if claimants:
            lost = {number for number, published_at in contested if published_at is not home}
            book.uncertain.update(lost - book.refused)
            contested[:] = [each for each in contested if each[0] not in lost]
        if len(claimants) > 1:
            contested.append((book.last, home))
        elif claimants:
            contested.clear()

    def doubt_latest(self, seconds: float) -> None:
        """Nobody knows whether what was published in these last seconds comes: it may be on its way between servers."""
        for topic in self.swarm.topics:
            self._doubt(topic, self.loop.now - seconds)

    def _doubt_unnoticed(self, process: Process) -> None:
        """Connections leave a process. What Redis forgot to deliver to it, unseen, nobody tells them."""
        worker = self.service.worker(process)
        for client in (client for client in self.bereft if is_of(client, process)):  # also if Redis has it no more
            for channel, since in client.forgotten.items():
                if channel in worker.topics.channels and worker.topics.confirmed(channel.decode()):
                    self._doubt(channel.decode(), since - MOMENT)

    def _doubt(self, topic: str, since: float) -> None:
        book = self.book.at(topic, 0)
        book.uncertain.update(set(range(book.first_after(since), book.last + 1)) - book.refused)

    def age(self, message: dict[str, Any]) -> float:
        """How old a message is, in seconds."""
        topic, number = self._named(message)
        return self.loop.now - self.book.at(topic, 0).sent[number - 1] if number else 0.0

    def serial(self, message: dict[str, Any]) -> int:
        """Which of all messages of a Redis it is, from 1; 0 if several of them have no order."""
        topic, number = self._named(message)
        return self._serials[topic][number - 1] if number and self.site.kind in ("single", "sentinel") else 0

    def _named(self, message: dict[str, Any]) -> tuple[str, int]:
        """The topic and the number of a message; the number is 0 if none was published as that."""
        topic, number = message.get("topic"), message.get("snapshot")
        known = topic in self._serials and type(number) is int and 0 < number <= len(self._serials[topic])
        return str(topic), number if known and number is not None else 0

    def lag(self, connection: Connection) -> tuple[int, float]:
        """How far a client is behind: bytes, and seconds."""
        total, oldest, now = 0, 0.0, self.loop.now
        for topic, _ in connection.diary.stretches():
            stretch, book = connection.diary.listening(topic), self.book.at(topic, 0)
            if stretch is None or not book.last:
                continue
            # The server had subscribed it before the client read that.
            last = max((run.last for run in stretch.runs), default=0)
            due = last + 1 if last else book.first_after(stretch.since - SUBSCRIBING)
            if due <= book.last:
                total += sum(self._sizes[topic][due - 1 :])
                oldest = max(oldest, now - book.sent[due - 1])
        asked = {request.context for request in connection.diary.owed if request.action == "subscribe"}
        for topic in self.swarm.topics:
            if topic in asked and connection.diary.listening(topic) is None:  # it may be subscribed by now
                total += sum(self._sizes[topic][self.book.at(topic, 0).first_after(now - SUBSCRIBING) - 1 :])
        return total, oldest

    # Tokens.

    def token(self, random: Random) -> Token:
        """Make a token."""
        assert self.swarm.tokens is not None
        least, most = self.swarm.tokens
        expires = int(EPOCH + self.loop.now + self.clock.step + least + (most - least) * random.random())
        claims: dict[str, Any] = {"exp": expires, "sub": "a client"}
        permitted = frozenset(self.swarm.topics)
        if self.swarm.narrow and random.random() < 0.5:
            permitted = frozenset(topic for topic in self.swarm.topics if random.random() < 0.7)
            claims["topics"] = sorted(permitted)
        return Token(jwt.encode(claims, KEY, "HS256"), expires + LEEWAY, permitted)

    def refusals(self, connection: Connection) -> tuple[str, ...]:
        """What a request may be answered with besides: a token may have expired on the way, and another may be late."""
        if self.swarm.tokens is not None and (
            CLOCK_STEPS in self.swarm.faults or connection.excuses or self.slowest > 1
        ):
            return ("session unauthorized",)
        return ()

    # What goes wrong.

    async def _go_wrong(self) -> None:
        swarm, plan = self.swarm, Random(f"{self.seed} plan")
        end = self.loop.now + swarm.seconds
        self.mended = False
        number = 0
        while self.cut.most is None or number < self.cut.most:
            wait, kind = waits(plan, swarm.fault_period), plan.choice(self._kinds)
            if plan.random() < swarm.company:
                wait = plan.choice((0.0, 0.1, 2.0)) * plan.random()
            if self.loop.now + wait > end or self.loop.worked > MOST_WORK:
                break
            await asyncio.sleep(wait)
            if number not in self.cut.without and self._break(kind, Random(f"{self.seed} fault {number}"), number):
                self.outcome.happened.append(number)
            number += 1
        self.outcome.planned = number

    def _break(self, kind: str, random: Random, name: object) -> bool:
        """Let a fault happen; return whether it has broken something."""
        said = FAULTS[kind](self, random)
        if said:
            self.outcome.faults[kind] += 1
            self.note(f"FAULT {name}: {said}")
            self._act_around()
        return bool(said)

    def _act_around(self, topic: str = "") -> None:
        """Publish a few messages while something is about to change, and let a client come or go.

        Args:
            topic: of the messages, and of the client; by default any.
        """
        random, topics = self._random, [topic] if topic else self.swarm.topics
        if random.random() < 0.5:
            for _ in range(random.choice((1, 1, 5))):
                one, padding = random.choice(topics), random.choice(self.swarm.padding)
                self.loop.call_later(self._soon(), self.publish, one, padding, context=Context())
        if self.clients and random.random() < 0.5:
            client, one = random.choice(self.clients), random.choice(topics)
            self.loop.call_later(self._soon(), client.come_or_go, one, context=Context())

    def has_come(self, topic: str) -> None:
        """A client has read that it is subscribed to a topic: what is published now it must not miss."""
        if self._random.random() < 0.3:
            self.publish_soon(topic)

    def publish_soon(self, topic: str) -> None:
        """Publish a message of a topic in a moment."""
        self.loop.call_later(self._soon(), self.publish, topic, 0, context=Context())

    def _soon(self) -> float:
        """Seconds in which what is on its way now has not arrived, or just has."""
        return self._random.choice((0.0, 1.0, 10.0)) * self.slowest * self._random.random()

    def excuse(self, client: Client) -> None:
        """Something has gone wrong for which the server may end a client's connection."""
        if client.connection is not None:
            client.connection.excuses.update((1006, 1011, 1012, 4001))

    def excuse_peer(self, endpoint: Endpoint) -> None:
        """The same, for the client at the other end."""
        for client in self.clients:
            if client.connection is not None and client.connection.peer() is endpoint:
                self.excuse(client)

    def _dies(self, process: Process) -> None:
        """A process of wsd is about to die; those whose sockets it had may be closed, all if it is the supervisor."""
        self._note_accident(WORST if process is self.service.supervisor else 1)
        for client in self.clients:
            connection = client.connection
            peer = connection.peer() if connection is not None else None
            if connection is not None and (peer is None or self.service.costs(process, peer)):
                connection.excuses.add(1006)

    def _note_accident(self, how_bad: int) -> None:
        self.accident = self.loop.now
        self._blows.append((self.loop.now, how_bad))

    def _is_shaken(self, when: float) -> bool:
        """Whether so much has happened to wsd that it may send clients away. One worker that dies is no reason."""
        return sum(how_bad for at, how_bad in self._blows if 0 <= when - at < ACCIDENT) >= WORST

    def stand_still(self, process: Process, seconds: float) -> None:
        """Let a process of wsd stand still for a while. It may be put down for that."""
        self._note_accident(WORST)
        for client in self.clients:
            self.excuse(client)
        self.service.freeze(process, seconds)

    def _reached(self, step: Any) -> None:
        """A process has reached a step: perhaps it dies there, or stands still, and another one dies meanwhile."""
        process = PROCESS.get()
        assert process is not None
        if step in (Move.GIVER_MARKED, Move.GIVER_SENDS):  # of a cut that is known, and of one that is not
            self._doubt_unnoticed(process)
        if self.mended:
            return
        self._act_around()
        self._perhaps_break("step", step.name, self._soon)
        if self._dying.random() >= self.swarm.deaths.get(step.name, 0.0):
            return
        if self._dying.random() < 0.7:
            self.note(f"{process} dies at {step.name}")
            self.outcome.faults["a process dies at a step"] += 1
            self.service.kill(process)
            raise Killed
        seconds = 10 ** (2 * self._dying.random() - 0.5)
        self.note(f"{process} stands still at {step.name} for {seconds:.1f} s")
        self.outcome.faults["a process stands still at a step"] += 1
        self.stand_still(process, seconds)
        if self._dying.random() < 0.5:
            self.loop.call_later(seconds * self._dying.random(), self._kill_youngest, context=Context())

    def _perhaps_break(self, where: str, name: str, wait: Callable[[], float], topic: str = "") -> None:
        """Perhaps let a fault happen at a step, or at a command, after so many seconds, or let one be over.

        Args:
            where: it happens.
            name: of the step, or of the command.
            wait: says after how many seconds.
            topic: that it is about; by default any.
        """
        random = self._dying
        if random.random() < self.swarm.mishap:
            plan = Random(f"{self.seed} at a {where} {random.random()}")
            self.loop.call_later(wait(), self._break_at, name, plan, topic, context=Context())

    def _break_at(self, what: str, random: Random, topic: str) -> None:
        if self.mended:
            return
        if random.random() < self.swarm.mends and (said := mend_one(self, random)):
            self.note(f"at {what}: {said}")
            self._act_around()
            return
        self._subject = topic
        self._break(random.choice(self._kinds), random, f"at {what}")
        self._subject = ""

    def topic(self, random: Random) -> str:
        """The topic that a fault is about."""
        return self._subject or random.choice(self.swarm.topics)

    def _commanded(self, client: Redis, words: Sequence[bytes]) -> None:
        """Redis has carried out a command, and the answer is on its way: perhaps something else happens meanwhile."""
        random, command = self._dying, words[0].upper()
        if self.mended or not client.name.startswith(b"wsd:") or random.random() >= COMMANDS.get(command, 0.02):
            return
        topics = [topic for topic in self.swarm.topics if topic.encode() in words]
        topic = random.choice(topics) if command in COMMANDS and topics else ""
        if topic:
            self._act_around(topic)
        self._perhaps_break("command", command.decode(), lambda: 0.0, topic)

    def _kill_youngest(self) -> None:
        """Let the process die that was started last, while another one stands still that may wait for it."""
        if not self.mended and (processes := self.service.processes):
            self.note(f"{processes[-1]} dies meanwhile")
            self.service.kill(processes[-1])

    # In the end.

    async def _heal(self) -> None:
        self.note("everything is mended")
        self.mended, mended = True, self.loop.now
        mend_all(self)
        for client in self.clients:
            client.calm = True
            if client.connection is not None and not client.connection.reading:
                client.connection.read_again()
        within = HEAL * self.swarm.leisure + HEAL_BEATS * self.swarm.heartbeat
        deadline = self.loop.now + within
        deaf_until = self.loop.now
        while not self._is_well():
            await asyncio.sleep(1.0)
            deaf_until = deaf_until if self.site.delivers() else self.loop.now
            self._judge_healing(self.loop.now - deaf_until)
            if (seconds := round(self.loop.now - mended)) % FIX == 0 and seconds:
                self.site.fix()
            if self.loop.now > deadline:
                self.problem(f"not healed {within:g} s after the last fault: {self._state()}")
                return
        await asyncio.sleep(
            90.0 * self.swarm.leisure + 2 * self.swarm.heartbeat
        )  # half-open connections are found, and clients are there again
        if not self._is_well():
            self.problem(f"ill again, after all was well and nothing went wrong: {self._state()}")

    def _judge_healing(self, seconds: float) -> None:
        """Nothing is wrong with Redis since so many seconds."""
        prompt = PROMPT * self.swarm.leisure + 3 * self.swarm.heartbeat + 10 * self.slowest
        if prompt < seconds <= prompt + 1:
            for process, worker in self.service.serving:
                if self.loop.now - process.since > seconds and not worker.source.healed:
                    self.problem(f"{process} has not healed {seconds:.0f} s after Redis: {worker.source.problem}")

    def _is_well(self) -> bool:
        workers = self.service.workers
        return (
            len(workers) == self.swarm.workers
            and not self.service.unsettled
            and all(worker.source.healed and not worker.status.unready() for worker in workers)
        )

    def _state(self) -> str:
        states = [
            f"{worker.status.unready() or 'ready'}, healed: {worker.source.healed}" for worker in self.service.workers
        ]
        return "; ".join([self.service.unsettled, *states])

    async def _judge(self) -> None:
        closed, began = self.book.last(), self.loop.now
        for client in self.clients:
            client.silent = True
        for topic in self.swarm.topics:
            self.publish(topic, 0)
        await self._catch_up(closed)
        connections = {
            connection.diary.name: connection
            for client in self.clients
            for connection in client.connections
            if connection.judged and connection.since < began
        }
        verdict = judge(
            [connection.diary for connection in connections.values()],
            self.book,
            closed,
            lambda diary, end: self._may_end(connections[diary.name], end),
        )
        for problem in verdict.problems:
            self.problem(problem)
        outcome = self.outcome
        outcome.clients, outcome.gaps, outcome.lost = verdict.clients, verdict.gaps.total(), verdict.lost.total()
        for problem in self.service.problems:
            self.problem(problem)
        for bug in self.service.bugs:
            self.problem("a process has ended: " + "".join(traceback.format_exception(bug)))
        for worker in self.service.workers:
            if worker.metrics.internal_errors:
                self.problem(f"{worker.metrics.internal_errors} internal errors")

    async def _catch_up(self, last: Mapping[str, int]) -> None:
        """Wait until clients have got these numbers: for a while, or as long as more of them come."""
        behind: float = float("inf")
        while behind:
            await asyncio.sleep(10.0 + 10 * self.slowest)
            before, behind = behind, self._behind(last)
            if behind >= before:
                return

    def _behind(self, last: Mapping[str, int]) -> int:
        """How many numbers up to these ones are yet to come to clients."""
        behind = 0
        for client in self.clients:
            diary = client.connection.diary if client.connection is not None else Diary("")
            for topic, number in last.items():
                if (stretch := diary.listening(topic)) is not None:
                    behind += max(number - max((run.last for run in stretch.runs), default=0), 0)
        return behind

    def _may_end(self, connection: Connection, end: End) -> bool:
        code = end.code or 1006
        if code in connection.excuses:
            return True
        size, age = connection.lag
        match code:
            case 1012 if self.service.leaderless(end.when):
                return True
            case 1012 | 1006 if self._is_shaken(end.when):
                return code == 1012 or 1012 in connection.excuses  # who does not take the close frame is aborted
            case 4008 | 1006 if size > self.swarm.max_backlog - HELD or age > LATE or self._is_flooded:
                return True
            case 4008 | 1006 if end.when - connection.late_at < DRAINS:
                return True
            case 4003 | 1006 if CLOCK_STEPS in self.swarm.faults or EPOCH + end.when >= connection.expires - 1:
                # Whose close frame is late is aborted.
                return code == 4003 or "the_network_is_bad" in self.swarm.faults
        return False

    async def _holdings(self) -> list[dict[str, float]]:
        """What each worker holds; the least of several looks, because something is under way now and then."""
        least: dict[Process, dict[str, float]] = {}
        for _ in range(SAMPLES):
            for process, worker in self.service.serving:
                now = holdings(process, worker, len(self.network.held(process)), self.loop.timers(process))
                before = least.get(process, now)
                least[process] = {name: min(now[name], before[name]) for name in now}
            await asyncio.sleep(0.37)
        return list(least.values())

    def _compare(self, before: list[dict[str, float]], after: list[dict[str, float]]) -> None:
        """Nothing has grown."""
        for was, now in zip(before, after, strict=False):
            if was["links"] != now["links"]:
                continue  # a Cluster has another number of masters
            grown = [f"{name}: {was[name]:g}, then {now[name]:g}" for name in was if now[name] > was[name]]
            if grown:
                self.problem(f"all clients have gone, and more is left than there was: {'; '.join(grown)}")
