"""The giving side of a hand-over: cohort after cohort, connections are cut out of this worker and sent to another.

A cohort is a few hundred connections that move together. In the order of the conversation, G the giver and T the
taker::

    G  hello     which records it writes, how it names channels        T  hello     whether it can read them
    G  prepare   the cohort's topics, and a mark for each stream       T  prepared  what Redis has confirmed
    G  mark      the streams that are ready on both sides              T  marked    those whose mark both must get
       ... the marks come back to both: stand-ins take the places of the cohort here, and begin to listen there ...
    G  cut       the streams that were cut so, the topics that had a gap
    G  client    the record of a connection, and its descriptor        T  have      it has come
    G  gone      a connection that has ended here
    G  sent      all that could be sent at once is sent                T  done      the cohort is served
    G  end       nothing more comes of this cohort

From ``prepare`` on nothing is read from the cohort, so no request is half here and half there. A connection is still
written to until the cut; after it, stand-ins keep what comes. So whoever dies, nothing is lost: when the taker does not
answer or dies, the stand-ins are what the connections here go on with. When the giver dies, those that it has sent are
served by the taker.

A connection whose socket has not taken everything that the transport holds is sent when it has, while the next cohorts
move. It is let go when the taker has it, and not before.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice

from wsd.clients.connection import TOO_SLOW
from wsd.clients.moving import MovableConnection
from wsd.clients.phases import Phase
from wsd.clients.record import VERSION, encode
from wsd.codes import Close, Move
from wsd.handover import marks
from wsd.handover.barrier import behind_barrier
from wsd.handover.marks import CONFIRM_PATIENCE, Marks
from wsd.handover.parts import Given, Parts
from wsd.handover.standin import StandIn
from wsd.handover.steps import Step, reached
from wsd.pipe import Message, Pipe

__all__ = ["Giver"]

FIRST_COHORT, LARGEST_COHORT, SMALLEST_COHORT = 64, 512, 64
"""Connections that move together. A smaller cohort would not move faster: the conversation takes its time, too."""

PAUSE = 0.05
"""Seconds that are aimed at for sending the connections of a cohort and opening them on the other side: the next cohort
is made as large as fits. A client waits a little longer, because from the cut on both event loops must have their
turns; but that is no shorter for a smaller cohort."""

ANSWER_PATIENCE = 10.0
"""Seconds for the taker to answer. It waits for Redis itself, at most about three."""

IDLE = 0.05
"""Seconds between two looks for connections that can be moved now, when some can't."""

NO_ROOM_WAIT = 0.2
"""Seconds until the taker is asked again that had no room."""

logger = logging.getLogger(__name__)


class _Broken(Exception):
    """The taker has died, or does not answer."""


class _Parting:
    """A connection on its way out.

    Args:
        number: names it in the conversation.
        connection: the connection.
        standin: what listens in its place from the cut on.
    """

    __slots__ = ("connection", "cut", "number", "sent", "standin")

    def __init__(self, number: int, connection: MovableConnection, standin: StandIn) -> None:
        self.number = number
        self.connection = connection
        self.standin = standin
        self.cut: list[str] = []  # topics in which the stand-in has taken its place
        self.sent = False  # whether its record is on its way


class _Cohort:
    """Connections that move together."""

    def __init__(self, number: int, members: list[_Parting]) -> None:
        self.number = number
        self.members = {member.number: member for member in members}  # those that are neither let go nor gone
        self.topics: list[str] = []
        self.streams: dict[bytes, set[str]] = {}  # by the channel of its mark: the topics that come by it
        self.rest: set[str] = set()  # topics that came by none when that was asked
        self.missed: set[str] = set()  # topics that Redis did not deliver here when they were cut
        self.cut: dict[bytes, asyncio.Event] = {}  # set when the stream is cut here
        self.ended = False


class Giver:
    """Gives connections to another worker.

    Args:
        parts: of this worker.
        sock: the end of a pipe; the taker has the other one.
        count: how many connections to give; None for all, and those that finish their handshake meanwhile.
        seconds: that it goes on without a connection that moves: some do not take what was sent to them.
    """

    def __init__(self, parts: Parts, sock: socket.socket, *, count: int | None, seconds: float) -> None:
        self._parts = parts
        self._fanout = parts.shared.fanout
        self._topics = parts.shared.topics
        self._loop = asyncio.get_running_loop()
        self._count = count
        self._patience = seconds
        self._deadline = self._loop.time() + seconds  # put off whenever a connection has moved
        self._name = f"mark:{secrets.token_hex(8)}"
        self._marks = Marks(self._topics, self._on_mark)
        self._cohorts: dict[int, _Cohort] = {}  # those that have members
        self._size = FIRST_COHORT
        self._numbers = 0
        self._moved = 0
        self._gaps: Counter[str] = Counter()  # clients that may have missed something, by why
        self._no_room = False  # whether the taker had no room for anybody when it was asked last
        self._closed = False
        self._refused = False  # whether the taker could not take a connection that was sent
        self._answer: asyncio.Future[Message] | None = None  # of the message that was sent last
        self._pipe = Pipe(sock, self._receive, self._on_closed)

    async def run(self) -> Given:
        """Give until all are given, the time is over, or the taker can't go on."""
        reason = ""
        try:
            reason = await self._greet() or await self._give()
        except _Broken as exc:
            reason = str(exc)
        finally:
            await self._end()
        left = sum(1 for _ in self._movable())
        if self._count is not None:
            left = min(left, self._count - self._moved)
        return Given(self._moved, dict(self._gaps), left, reason)

    async def _greet(self) -> str:
        reached(Step.GIVER_BEGINS)
        hello = await self._ask(
            {"do": "hello", "record": VERSION, "naming": self._parts.naming, "process": os.getpid()}
        )
        return str(hello.get("refusal", ""))

    async def _give(self) -> str:
        """Give until there is nobody left to give, or the time is over; return what has hindered it then."""
        while not self._closed and self._loop.time() < self._deadline:
            wanted = (
                self._size if self._count is None else min(self._size, self._count - self._moved - self._on_the_way())
            )
            members = self._choose(wanted)
            if members:
                await self._move(members)
            elif self._cohorts or (self._count is None and self._expects_more()):
                await asyncio.sleep(IDLE)
            else:
                return ""
        if self._closed:
            raise _Broken("the other worker has died")
        if self._no_room:
            return "the other worker has no room for more"
        if self._cohorts:
            return f"what had been sent to them was not taken within {self._patience:g} s"
        return ""  # those who stay are in a handshake, which goes on here

    def _on_the_way(self) -> int:
        return sum(len(cohort.members) for cohort in self._cohorts.values())

    def _movable(self) -> Iterator[MovableConnection]:
        connections = self._parts.gateway.connections
        return (each for each in connections if isinstance(each, MovableConnection) and each.movable)

    def _expects_more(self) -> bool:
        """Whether there are connections that may become movable: their handshake goes on."""
        return any(each.phase in (Phase.HANDSHAKE, Phase.OPEN) for each in self._parts.gateway.connections)

    def _choose(self, wanted: int) -> list[MovableConnection]:
        """Choose a cohort; those that keep up come first. Those that have moved aren't looked at again."""
        wanted = max(wanted, 0)
        taken = {member.connection for cohort in self._cohorts.values() for member in cohort.members.values()}
        swift = (each for each in self._movable() if not each.lagging and each not in taken)
        others = (each for each in self._movable() if each not in taken)
        return list(islice(swift, wanted)) or list(islice(others, wanted))

    # One cohort.

    async def _move(self, connections: list[MovableConnection]) -> None:
        begun = self._loop.time()
        cohort = self._begin(connections)
        prepared = await self._ask(self._preparation(cohort))
        self._no_room = not self._trim(cohort, int(prepared.get("room", 0)))
        if self._no_room:
            self._end_cohort(cohort)
            await asyncio.sleep(NO_ROOM_WAIT)
            return
        await self._marks.wait(cohort.streams, CONFIRM_PATIENCE)
        ready = [
            channel
            for channel in marks.channels(prepared, "ready")
            if self._marks.live(channel) and channel in cohort.cut
        ]
        marked = await self._ask({"do": "mark", "cohort": cohort.number, "ready": list(map(marks.text, ready))})
        known = [channel for channel in marks.channels(marked, "known") if channel in cohort.cut]
        await marks.wait_for((cohort.cut[channel] for channel in known), CONFIRM_PATIENCE)
        known = [channel for channel in known if cohort.cut[channel].is_set()]
        await self._cut_rest(cohort)
        reached(Step.GIVER_CUT)
        cut = self._loop.time()
        self._note_missed(cohort, cohort.topics)
        self._pipe.send(
            {
                "do": "cut",
                "cohort": cohort.number,
                "known": list(map(marks.text, known)),
                "missed": sorted(cohort.missed),
            }
        )
        reached(Step.GIVER_SENDS)
        for member in list(cohort.members.values()):
            member.connection.when_sent(partial(self._send, cohort, member))
        sent = self._loop.time()
        served = await self._ask({"do": "sent", "cohort": cohort.number})
        self._gaps.update(served.get("gaps", {}))
        reached(Step.GIVER_DONE)
        served_at = self._loop.time()
        logger.debug(
            "%d connections: prepared and cut in %.1f ms, served after %.1f ms more, %d of %d streams known",
            len(connections),
            (cut - begun) * 1000,
            (served_at - cut) * 1000,
            len(known),
            len(cohort.streams),
        )
        if self._refused:
            self._refused = False
            await asyncio.sleep(NO_ROOM_WAIT)
        self._adapt(len(connections), sent - cut + float(served.get("seconds", 0.0)))
        self._end_cohort(cohort)

    def _begin(self, connections: list[MovableConnection]) -> _Cohort:
        members = []
        for connection in connections:
            self._numbers += 1
            members.append(_Parting(self._numbers, connection, StandIn(self._parts.shared.bounds)))
        self._numbers += 1
        cohort = self._cohorts[self._numbers] = _Cohort(self._numbers, members)
        for member in members:
            member.connection.hold_still(partial(self._drop, cohort, member))
        reached(Step.GIVER_PREPARES)
        return cohort

    def _preparation(self, cohort: _Cohort) -> Message:
        """Find out which topics come by which stream; say so."""
        places: dict[str, int] = {}
        clients = {}
        for member in cohort.members.values():
            connection = member.connection
            for topic in (*connection.listening, *connection.waiting):
                places.setdefault(topic, len(places))
            clients[member.number] = [places[topic] for topic in connection.listening]
        cohort.topics = list(places)
        for topic in cohort.topics:
            stream = self._parts.source.stream(self._topics.channel(topic))
            channel = self._parts.source.private(stream, self._name) if stream else b""
            if channel:
                self._marks.want(channel)
                cohort.streams.setdefault(channel, set()).add(topic)
            else:
                cohort.rest.add(topic)
        cohort.cut = {channel: asyncio.Event() for channel in cohort.streams}
        return {
            "do": "prepare",
            "cohort": cohort.number,
            "topics": cohort.topics,
            "streams": {
                marks.text(mark): [places[topic] for topic in topics] for mark, topics in cohort.streams.items()
            },
            "clients": clients,
        }

    def _trim(self, cohort: _Cohort, room: int) -> int:
        """Leave out those for whom the taker has no room; return how many stay."""
        for member in list(cohort.members.values())[max(room, 0) :]:
            self._take_back(cohort, member)
        return len(cohort.members)

    # The cut.

    def _on_mark(self, channel: bytes, payload: bytes) -> None:
        cohort = self._cohorts.get(int(payload)) if payload.isdigit() else None
        if cohort is not None and channel in cohort.cut:
            reached(Step.GIVER_MARKED)
            # Not at the barrier: the gap notice of what is confirmed until then will not come to the connections.
            self._note_missed(cohort, cohort.streams[channel])
            self._fanout.barrier(partial(self._cut, cohort, channel))

    def _cut(self, cohort: _Cohort, channel: bytes) -> None:
        # The rest may come by this stream by now. Cut later it would be ahead of what the taker has of the others.
        self._replace(cohort, cohort.streams[channel] | cohort.rest)
        cohort.cut[channel].set()

    def _note_missed(self, cohort: _Cohort, topics: Iterable[str]) -> None:
        cohort.missed.update(topic for topic in topics if not self._topics.confirmed(topic))

    def _replace(self, cohort: _Cohort, topics: Iterable[str] | None = None) -> None:
        """Let stand-ins take the places of the connections: in these topics, or in all."""
        for member in cohort.members.values():
            for topic in member.connection.listening:
                if (topics is None or topic in topics) and self._topics.swap(topic, member.connection, member.standin):
                    member.cut.append(topic)

    async def _cut_rest(self, cohort: _Cohort) -> None:
        """Cut where no mark has come: anywhere will do, because there will be a gap."""
        cut = set().union(*(topics for channel, topics in cohort.streams.items() if cohort.cut[channel].is_set()))
        if all(cut.issuperset(member.connection.listening) for member in cohort.members.values()):
            return  # a barrier is a pass of the fan-out, which under full load takes as long as all the rest
        await behind_barrier(self._fanout, partial(self._replace, cohort))

    # Away with them.

    def _send(self, cohort: _Cohort, member: _Parting) -> None:
        """Send a connection. Its socket has taken all that the transport held."""
        if member.number not in cohort.members or member.sent or self._closed:
            return
        if not member.connection.movable:  # a write has failed, of which the loop tells next: see _drop()
            return
        try:
            # One of its own, because nothing else may take the number while the message waits.
            descriptor = os.dup(member.connection.descriptor)
        except OSError:  # none is free; one will be
            self._loop.call_later(IDLE, self._send, cohort, member)
            return
        member.sent = True
        record = encode(member.connection.pack())
        message = {"do": "client", "cohort": cohort.number, "client": member.number, "record": record}
        self._pipe.send(message, [descriptor], gives=True)
        reached(Step.GIVER_SENT)

    def _let_go(self, cohort: _Cohort, member: _Parting) -> None:
        reached(Step.GIVER_LETS_GO)
        del cohort.members[member.number]
        self._moved += 1
        self._deadline = self._loop.time() + self._patience
        member.connection.let_go()
        for topic in member.cut:
            self._topics.leave(topic, member.standin)
        self._forget_if_over(cohort)

    def _drop(self, cohort: _Cohort, member: _Parting) -> None:
        """A connection has ended here: the taker need not wait for it."""
        if cohort.members.pop(member.number, None) is None:
            return
        for topic in member.cut:
            self._topics.leave(topic, member.standin)
        self._pipe.send({"do": "gone", "cohort": cohort.number, "client": member.number})
        self._forget_if_over(cohort)

    def _take_back(self, cohort: _Cohort, member: _Parting) -> None:
        """Let a connection go on here, with what its stand-in has kept."""
        self._parts.shared.metrics.moves[Move.BACK] += 1
        del cohort.members[member.number]
        self._pipe.send({"do": "gone", "cohort": cohort.number, "client": member.number})

        def go_on() -> None:
            connection, standin = member.connection, member.standin
            for topic in member.cut:
                self._topics.swap(topic, standin, connection)
            connection.go_on()
            for topic, reason in standin.refused.items():
                connection.topic_refused(topic, reason)
            if standin.overrun:
                connection.close_with(Close.SLOW_CONSUMER, TOO_SLOW)
            for frames in standin.frames:
                connection.write(frames)

        self._fanout.barrier(go_on)

    def _end_cohort(self, cohort: _Cohort) -> None:
        cohort.ended = True
        self._forget_if_over(cohort)

    def _forget_if_over(self, cohort: _Cohort) -> None:
        if cohort.ended and not cohort.members and self._cohorts.pop(cohort.number, None) is not None:
            self._pipe.send({"do": "end", "cohort": cohort.number})

    def _adapt(self, size: int, seconds: float) -> None:
        """Choose the size of the next cohort by how long it took to send and to open the last one."""
        fitting = int(size * PAUSE / max(seconds, 0.001))
        self._size = max(SMALLEST_COHORT, min(fitting, 2 * self._size, LARGEST_COHORT))

    # The conversation.

    async def _ask(self, message: Message) -> Message:
        """Say something, and wait for the answer."""
        if self._closed:
            raise _Broken("the other worker has died")
        self._answer = self._loop.create_future()
        self._pipe.send(message)
        try:
            async with asyncio.timeout(ANSWER_PATIENCE):
                return await self._answer
        except TimeoutError:
            raise _Broken(f"the other worker did not answer within {ANSWER_PATIENCE:g} s") from None

    def _receive(self, message: Message, descriptors: list[int]) -> None:
        said = message.get("say")
        if said in ("have", "not"):
            cohort = self._cohorts.get(message["cohort"])
            member = cohort.members.get(message["client"]) if cohort is not None else None
            if cohort is None or member is None:
                return
            if said == "have":
                self._let_go(cohort, member)
            else:  # it has no descriptor left, for example
                self._take_back(cohort, member)
                self._refused = True
        elif self._answer is not None and not self._answer.done():
            self._answer.set_result(message)

    def _on_closed(self) -> None:
        self._closed = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(_Broken("the other worker has died"))

    async def _end(self) -> None:
        """Say nothing more, hear what the taker has said, and let those go on that it does not have."""
        self._pipe.send({"do": "bye"})
        await self._pipe.hang_up()
        self._closed = True
        for cohort in list(self._cohorts.values()):
            cohort.ended = True
            for member in list(cohort.members.values()):
                self._take_back(cohort, member)
        self._cohorts.clear()
        self._marks.close()
        await behind_barrier(self._fanout)  # behind which they go on
