"""The taking side of a hand-over: connections come from another worker of this host, and are served here.

The conversation is told in `wsd.handover.giver`. From the cut on, a stand-in listens in the place of each connection
that will come, in all its topics. When the connection has come, it takes its place, and gets first what waited for it
in the other process, and then what the stand-in has kept.

The cut is *known* for a topic if its stream's mark has come to both sides, and Redis delivered the topic to both then.
For all other topics it is *unknown*: the client is told of a gap. Nothing must come twice all the same. So for these
topics the stand-ins begin to listen only behind a *fence*: a channel to which this side subscribes when the other one
has stopped to deliver. Redis answers behind everything that it had for the link before.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import Counter
from collections.abc import Collection, Coroutine, Iterable, Sequence
from contextlib import suppress
from functools import partial

from wsd.clients.arrival import ArrivedConnection
from wsd.clients.connection import TOO_SLOW
from wsd.clients.record import VERSION, decode
from wsd.codes import Close, Move
from wsd.errors import RecordError
from wsd.handover import marks
from wsd.handover.barrier import behind_barrier
from wsd.handover.expected import NO_STREAM, Arrival, Expected
from wsd.handover.fence import pass_fences
from wsd.handover.marks import CONFIRM_PATIENCE, Marks
from wsd.handover.parts import Parts, Taken
from wsd.handover.standin import StandIn
from wsd.handover.steps import Step, reached
from wsd.pipe import Message, Pipe

__all__ = ["Taker"]

IMPATIENCE = 0.1
"""Seconds that the next cohort waits, because a hand-over of many cohorts must come to an end."""

DEATH_PATIENCE = 1.0
"""Seconds until a giver that says nothing more is taken for alive. The pipe of a process that dies ends a moment before
the process does."""

BATCH = 32
"""Connections that are begun to be opened in one turn of the loop. One takes about 0.1 ms."""

BOTH = 2
"""How many receivers a mark must have: our two links. PUBLISH counts only those at the server that executes it, so two
links at two servers, or a link that has been lost, are found out."""

NAMES = "the workers name channels differently (channel_prefix, pubsub)"
AWAY = "Redis did not deliver to both workers"
SERVERS = "the workers were connected to different servers of Redis"
LATE = "a mark did not come back from Redis in time"
"""Why a cut is unknown, for people."""

logger = logging.getLogger(__name__)


class Taker:
    """Takes connections from another worker.

    Args:
        parts: of this worker.
        sock: the end of a pipe; the giver has the other one.
    """

    def __init__(self, parts: Parts, sock: socket.socket) -> None:
        self._parts = parts
        self._fanout = parts.shared.fanout
        self._topics = parts.shared.topics
        self._source = parts.source
        self._loop = asyncio.get_running_loop()
        self._marks = Marks(self._topics, self._on_mark)
        self._alike = False  # whether both sides name channels alike
        self._cohorts: dict[int, Expected] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: asyncio.Future[str] = self._loop.create_future()  # with the reason
        self._untold: dict[int, tuple[Expected, Arrival]] = {}  # what has come, and the giver has not been told
        self._giver = -1  # a descriptor of the giver's process (pidfd_open(2)); -1 if there is none
        self._moved = 0
        self._gaps: Counter[str] = Counter()  # clients that may have missed something, by why
        self._patience = CONFIRM_PATIENCE  # seconds that a cohort waits for Redis
        self._pipe = Pipe(sock, self._receive, self._on_closed)

    async def run(self) -> Taken:
        """Take until the giver has nothing more, or has died."""
        try:
            reason = await self._over
            # What has come is served, whatever has become of the giver.
            if self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            self._pipe.close()
            for _, arrival in self._untold.values():
                arrival.sock.close()
            if self._giver >= 0:
                os.close(self._giver)
            for task in self._tasks:
                task.cancel()
            for cohort in list(self._cohorts.values()):
                self._forget(cohort)
            self._marks.close()
        return Taken(self._moved, dict(self._gaps), reason)

    def _finish(self, reason: str) -> None:
        if not self._over.done():
            self._over.set_result(reason)
        for cohort in self._cohorts.values():
            cohort.inbox.put_nowait({"do": "end"})

    def _on_closed(self) -> None:
        if self._untold:
            self._start(self._outlive())
        else:
            self._finish("")

    async def _outlive(self) -> None:
        """Serve those that the giver was not told of, if it has died. If it has hung up, it goes on with them."""
        if await self._giver_dies():
            for number in list(self._untold):
                self._keep(number)
        self._finish("")

    async def _giver_dies(self) -> bool:
        if self._giver < 0:
            return False
        ended = asyncio.Event()
        self._loop.add_reader(self._giver, ended.set)
        try:
            async with asyncio.timeout(DEATH_PATIENCE):
                await ended.wait()
        except TimeoutError:
            return False
        finally:
            self._loop.remove_reader(self._giver)
        return True

    # The conversation.

    def _receive(self, message: Message, descriptors: list[int]) -> None:
        match message.get("do"):
            case "hello":
                self._greet(message)
            case "prepare":
                cohort = self._cohorts[int(message["cohort"])] = Expected(message, self._parts.shared.bounds)
                self._start(self._run_cohort(cohort))
            case "client":
                self._take(message, descriptors)
            case "gone":
                if (cohort_ := self._cohorts.get(message["cohort"])) is not None:
                    self._remove_standins(cohort_, message["client"])
            case "bye":
                self._finish("")
            case _:
                if (cohort_ := self._cohorts.get(message.get("cohort", 0))) is not None:
                    cohort_.inbox.put_nowait(message)

    def _start(self, coroutine: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._loop.call_exception_handler(
                {"message": "a hand-over failed, which is a bug", "exception": task.exception()}
            )
            self._finish("a bug; the log has it")
            self._pipe.close()

    def _greet(self, message: Message) -> None:
        reached(Step.TAKER_GREETED)
        refusal = ""
        if message.get("record") != VERSION:
            refusal = f"the new worker reads records of version {VERSION}, the old one writes {message.get('record')}"
        self._alike = message.get("naming") == self._parts.naming
        with suppress(OSError):  # it has died already, or it is of older code, and does not say which process it is
            self._giver = os.pidfd_open(message.get("process", 0))
        self._pipe.send({"say": "hello", "record": VERSION, "refusal": refusal})

    def _take(self, message: Message, descriptors: list[int]) -> None:
        """Take a connection: say that it has come, and only then touch it."""
        cohort, number = self._cohorts.get(message["cohort"]), int(message["client"])
        if cohort is None or number not in cohort.standins or not descriptors:
            for descriptor in descriptors:
                os.close(descriptor)
            self._pipe.send({"say": "not", "cohort": message["cohort"], "client": number})
            return
        sock = socket.socket(fileno=descriptors[0])
        try:
            record = decode(message["record"])
        except RecordError as exc:
            sock.close()
            self._pipe.send({"say": "not", "cohort": cohort.number, "client": number})
            logger.error("a connection can't be taken over: %s", exc)
            return
        reached(Step.TAKER_HAS)
        self._untold[number] = cohort, Arrival(number, record, sock)
        # When that is said it is ours. If the giver has hung up before, it never is.
        self._pipe.send({"say": "have", "cohort": cohort.number, "client": number}, on_sent=partial(self._keep, number))

    def _keep(self, number: int) -> None:
        cohort, arrival = self._untold.pop(number)
        cohort.come.append(arrival)
        cohort.inbox.put_nowait({"do": "serve"})

    # One cohort.

    async def _run_cohort(self, cohort: Expected) -> None:
        try:
            if await self._prepare(cohort):
                await self._serve_all(cohort)
        finally:
            self._forget(cohort)

    async def _prepare(self, cohort: Expected) -> bool:
        """Go with the giver until stand-ins listen everywhere; return False if the giver does not get there."""
        reached(Step.TAKER_PREPARES)
        wanted = cohort.streams if self._alike else ()
        for channel in wanted:
            self._marks.want(channel)
        for topic in cohort.topics:
            self._topics.wait(topic, cohort.anchor)
        await self._wait_for_redis(cohort, wanted)
        reached(Step.TAKER_PREPARED)
        ready = [marks.text(channel) for channel in wanted if self._marks.live(channel)]
        self._say("prepared", cohort, room=self._parts.room(), ready=ready)
        if (message := await self._next(cohort, "mark")) is None:
            return False
        reached(Step.TAKER_MARKS)
        marked = await self._publish_marks(cohort, marks.channels(message, "ready"))
        self._say("marked", cohort, known=list(map(marks.text, marked)))
        if (message := await self._next(cohort, "cut")) is None:
            return False
        known = set(marks.channels(message, "known")) & set(cohort.streams)
        await marks.wait_for((cohort.cut[channel] for channel in known), CONFIRM_PATIENCE)
        await self._listen_to_the_rest(
            cohort, {channel for channel in known if cohort.cut[channel].is_set()}, set(message["missed"])
        )
        reached(Step.TAKER_CUT)
        return True

    async def _wait_for_redis(self, cohort: Expected, wanted: Iterable[bytes]) -> None:
        """Wait until Redis has answered about topics and marks; less patiently after it did not."""
        if not self._source.up and not any(link.up for link in self._source.links):
            return
        try:
            async with asyncio.timeout(self._patience):
                await cohort.anchor.answered.wait()
                await self._marks.wait(wanted, self._patience)
        except TimeoutError:
            self._patience = IMPATIENCE
        else:
            self._patience = CONFIRM_PATIENCE

    async def _next(self, cohort: Expected, what: str) -> Message | None:
        """Wait for what the giver says next of a cohort; None if that is its end."""
        message = await cohort.inbox.get()
        return message if message["do"] == what else None

    def _say(self, what: str, cohort: Expected, **values: object) -> None:
        self._pipe.send({"say": what, "cohort": cohort.number, **values})

    # The cut.

    async def _publish_marks(self, cohort: Expected, channels: list[bytes]) -> list[bytes]:
        """Publish the mark of each stream; return those that both sides get."""
        receivers = await asyncio.gather(*(self._publish(channel, b"%d" % cohort.number) for channel in channels))
        for channel, count in zip(channels, receivers, strict=True):
            if count != BOTH:
                cohort.trouble[channel] = SERVERS if isinstance(count, int) else f"Redis did not take a mark: {count}"
        return [channel for channel in channels if channel not in cohort.trouble]

    async def _publish(self, channel: bytes, payload: bytes) -> int | str:
        answer: asyncio.Future[int | str] = self._loop.create_future()

        def reply(receivers: int | str) -> None:
            if not answer.done():
                answer.set_result(receivers)

        self._source.publish(channel, payload, reply)
        try:
            async with asyncio.timeout(CONFIRM_PATIENCE):
                return await answer
        except TimeoutError:
            return "no answer in time"

    def _on_mark(self, channel: bytes, payload: bytes) -> None:
        cohort = self._cohorts.get(int(payload)) if payload.isdigit() else None
        if cohort is None or channel not in cohort.cut:
            return
        # The stand-ins listen at once, because what comes next is theirs, and the fan-out takes only what somebody
        # listens to. What it had for others before the mark is written to the stand-ins, too; behind the barrier that
        # is forgotten.
        stream = self._source.stream(channel)
        for topic in cohort.streams[channel]:
            # It must have been delivered before the mark came, by the same stream.
            if self._source.stream(self._topics.channel(topic)) == stream:
                self._listen(cohort, topic)
        self._fanout.barrier(partial(self._cut, cohort, channel))

    def _cut(self, cohort: Expected, channel: bytes) -> None:
        if channel not in cohort.cut:
            return  # it came too late
        for standin in cohort.of_stream(channel):
            standin.forget()
        cohort.cut[channel].set()

    def _listen(self, cohort: Expected, topic: str) -> None:
        cohort.heard.add(topic)
        for standin in cohort.of(topic):
            self._topics.join(topic, standin)

    async def _listen_to_the_rest(self, cohort: Expected, known: set[bytes], missed: set[str]) -> None:
        """Begin to listen where the cut is unknown: behind a fence, and with a gap.

        Args:
            cohort: the cohort.
            known: the streams that were cut at the same place on both sides.
            missed: topics that Redis did not deliver to the giver when it cut.
        """
        for stream in cohort.streams.keys() - known:
            for topic in cohort.heard.intersection(cohort.streams[stream]):
                for standin in cohort.of(topic):
                    self._topics.leave(topic, standin)
                cohort.heard.discard(topic)
            cohort.drop(stream)
        for topic in missed & cohort.heard:
            self._note_gap(cohort, topic, AWAY)
            self._tell_of_gap(topic, cohort.of(topic))
        rest = [topic for topic in cohort.topics if topic not in cohort.heard and cohort.listeners[topic]]
        if rest:
            await pass_fences(self._topics, self._source, rest)
            # Behind a barrier, because the fan-out may have messages of these topics for others, from before.
            await behind_barrier(self._fanout, partial(self._listen_with_gap, cohort, rest, missed))
        self._parts.shared.metrics.moves[Move.GAP] += len(cohort.told)

    def _listen_with_gap(self, cohort: Expected, topics: Iterable[str], missed: Collection[str]) -> None:
        groups = self._groups(cohort, topics)
        retold = {topic for topic in groups if self._source.missed(self._topics.channel(topic))}
        waiting = self._fanout.waiting() if retold else ()
        for topic, group in groups.items():
            self._note_gap(cohort, topic, AWAY if topic in missed else self._why_unknown(cohort, topic))
            cohort.keep_with(topic, group)
            self._listen(cohort, topic)
            # Not by the fan-out, because it may have messages already that have come since the barrier was made. If it
            # has none, and the confirmation that is to come tells of a gap, that is soon enough.
            if topic not in retold or topic in waiting:
                self._tell_of_gap(topic, cohort.of(topic))

    def _groups(self, cohort: Expected, topics: Iterable[str]) -> dict[str, bytes]:
        """Say which topics must be kept together, because they come by one link: the name of the group of each."""
        if len(self._source.links) == 1:
            return dict.fromkeys(topics, next(iter(cohort.streams), NO_STREAM))
        known = {self._source.stream(mark): mark for mark in cohort.streams}
        streams = {topic: self._source.stream(self._topics.channel(topic)) for topic in topics}
        return {topic: known.get(stream, stream.encode()) for topic, stream in streams.items()}

    def _tell_of_gap(self, topic: str, standins: Sequence[StandIn]) -> None:
        """Keep the notice before everything that comes of a topic."""
        notice = self._fanout.gap_notice(topic)
        for standin in standins:
            standin.frames[:0] = notice
        self._parts.shared.metrics.gap_notices += len(notice) * len(standins)

    def _note_gap(self, cohort: Expected, topic: str, why: str) -> None:
        for number in cohort.listeners[topic]:
            cohort.told.setdefault(number, why)

    def _why_unknown(self, cohort: Expected, topic: str) -> str:
        """Why the cut of a topic is unknown."""
        stream = cohort.stream[topic]
        if not self._alike:
            return NAMES
        if stream == NO_STREAM or not self._source.stream(self._topics.channel(topic)):
            return AWAY
        if stream in cohort.streams:  # which was cut, but brings this topic on one side only
            return SERVERS
        return cohort.trouble.get(stream, LATE)

    # Those who come.

    async def _serve_all(self, cohort: Expected) -> None:
        what = "serve"
        while what != "end":
            await self._serve(cohort)
            if what == "sent":
                reached(Step.TAKER_DONE)
                self._say("done", cohort, gaps=Counter(cohort.told.values()), seconds=cohort.seconds)
            what = (await cohort.inbox.get())["do"]
        await self._serve(cohort)

    async def _serve(self, cohort: Expected) -> None:
        begun = self._loop.time()
        while cohort.come:
            come, cohort.come = cohort.come, []
            reached(Step.TAKER_ARRIVES)
            async with asyncio.TaskGroup() as tasks:
                for first in range(0, len(come), BATCH):
                    for arrival in come[first : first + BATCH]:
                        tasks.create_task(self._serve_one(cohort, arrival))
                    await asyncio.sleep(0)  # each takes several turns of the loop, so batches overlap
        cohort.seconds += self._loop.time() - begun

    async def _serve_one(self, cohort: Expected, arrival: Arrival) -> None:
        connection = ArrivedConnection(self._parts.shared, arrival.record)
        try:
            await self._loop.connect_accepted_socket(lambda: connection, arrival.sock)
        except OSError as exc:
            arrival.sock.close()
            self._parts.shared.metrics.moves[Move.LOST] += 1
            logger.warning("a connection that came from another worker is lost: %s", exc)
        else:
            self._let_in(cohort, arrival, connection)
        self._remove_standins(cohort, arrival.number)

    def _let_in(self, cohort: Expected, arrival: Arrival, connection: ArrivedConnection) -> None:
        """Let a connection take the place of its stand-ins, which get what a pass in progress owes them first."""
        standins = cohort.standins.get(arrival.number, {})
        for kept in standins.values():
            self._fanout.settle(kept)
        for topic in connection.listening:
            standin = standins.get(cohort.stream.get(topic, NO_STREAM))
            if standin is None or not self._topics.swap(topic, standin, connection):
                self._topics.join(topic, connection)  # it can't be, but a topic must not be lost
        connection.arrive(frame for standin in standins.values() for frame in standin.frames)
        if any(standin.overrun for standin in standins.values()):
            connection.close_with(Close.SLOW_CONSUMER, TOO_SLOW)
        for standin in standins.values():
            for topic, reason in standin.refused.items():
                connection.topic_refused(topic, reason)
        self._moved += 1

    def _remove_standins(self, cohort: Expected, number: int) -> None:
        for stream, standin in cohort.standins.pop(number, {}).items():
            for topic in cohort.wanted[number]:
                if cohort.stream[topic] == stream:
                    self._topics.leave(topic, standin)

    def _forget(self, cohort: Expected) -> None:
        """The giver has nothing more of a cohort."""
        if self._cohorts.pop(cohort.number, None) is None:
            return
        self._gaps.update(cohort.told.values())
        for number in list(cohort.standins):
            self._remove_standins(cohort, number)
        for topic in cohort.topics:
            self._topics.leave(topic, cohort.anchor)
        for arrival in cohort.come:
            arrival.sock.close()
