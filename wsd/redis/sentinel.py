"""Sentinel: which server is the master, and when another becomes it.

The guide listens to every Sentinel, and believes them by two rules:

- **News is followed at once**, because one Sentinel learns of a failover before the others. It is news when a Sentinel
  that has agreed with us until now names another master: by ``+switch-master``, or with an election (its *config
  epoch*) that is newer than all that we know.
- **Without news the majority is right.** A Sentinel that was away, or that belongs to another deployment, may name a
  server that is a master, but at which nobody publishes. So at the start, and whenever there is no fresh news, the
  place that most Sentinels name is the master. The last word of a Sentinel counts also while that Sentinel is away;
  otherwise the few that are left might have no majority for anything. Of two places with as many votes, the one with
  the newer election wins.

Votes come before epochs. The epochs of two deployments can't be compared, so a Sentinel of another deployment could win
for ever. Before the majority leads the link away from a server, the other server is asked whether it is a master.

Source: https://redis.io/docs/latest/develop/reference/sentinel-clients/
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import hiredis

from wsd.backoff import Backoff, spread
from wsd.deployment import Address, Sentinel, place_text
from wsd.errors import LinkError
from wsd.logs import BoundedLogger
from wsd.redis.place import Place, told_number, told_place
from wsd.redis.wire import CLASSIC, Reply, Wire, connect, public

__all__ = ["SentinelGuide"]

BACKOFF_FIRST, BACKOFF_MAX = 0.2, 2.0
"""Seconds: bounds of the growing wait before a Sentinel that is away is tried again."""

MIN_PATIENCE = 1.0
"""Seconds that a Sentinel may take to answer, however short the heartbeat is."""

START_PATIENCE = 2.0
"""Seconds that the others have after the first Sentinel has answered, before it is believed alone."""

SETTLE = 10.0
"""Seconds after news in which the majority is not asked: Sentinels tell each other every two seconds."""

REVIEW_INTERVAL = 10.0
"""Seconds at most between two looks at who says what, while all is well."""

PAUSE = 1.0
"""Seconds at least between two moves of the link, whatever the Sentinels say."""

LOG_INTERVAL = 30.0
"""Seconds between two log lines of one kind, and of one Sentinel."""

SWITCHED = b"+switch-master"
"""The channel on which a Sentinel tells of a failover: ``NAME OLD-IP OLD-PORT NEW-IP NEW-PORT``."""

UNKNOWN = -1
"""The epoch of a Sentinel that does not tell it, for example because the user may not ask."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Voice:
    """What one Sentinel says."""

    place: Place | None = None  # the master, as it said last
    epoch: int = UNKNOWN  # of the election that it knows of
    answering: bool = False  # whether it is connected
    problem: str = ""  # why it isn't connected, or knows no master


class SentinelGuide:
    """Leads a link to the master that the Sentinels name.

    Args:
        deployment: where the Sentinels are, and the master's name.
        heartbeat: seconds; a Sentinel that doesn't answer for as long is given up.
    """

    master_only = True

    def __init__(self, deployment: Sentinel, heartbeat: float) -> None:
        self._deployment = deployment
        self._heartbeat = heartbeat
        self._patience = max(heartbeat, MIN_PATIENCE)
        self._voices = {sentinel: _Voice() for sentinel in deployment.sentinels}
        self._master: Place | None = None  # where the link was last sent
        self._tries = 0  # times that it was sent somewhere and has not arrived
        self._known = asyncio.Event()  # set when there is a master
        self._changed = asyncio.Event()  # set when a Sentinel says something else, comes or goes
        self._news: Place | None = None  # a master that we have not moved to yet
        self._settled_at = -math.inf  # when the majority may be asked again
        self._relocate: Callable[[str], None] = lambda reason: None
        self._loop = asyncio.get_running_loop()
        self._log = BoundedLogger(logger, rate=1 / LOG_INTERVAL)
        self._told = ""  # the doubt that was logged
        self.note = ""  # what is in doubt, for people

    async def locate(self) -> Address:
        """Say where the master is.

        Raises:
            LinkError: if no Sentinel has told.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                await self._known.wait()
        if self._master is None:
            problems = "; ".join(f"{sentinel}: {voice.problem}" for sentinel, voice in self._troubled())
            raise LinkError(f"no Sentinel tells where {self._deployment.name} is ({problems or 'none has answered'})")
        self._tries += 1
        if self._tries > 1:
            # The link has not arrived at this place, so the news of it may be old. Another place has its turn.
            ranked = self._ranked()
            index = ranked.index(self._master) if self._master in ranked else -1
            self._master = ranked[(index + 1) % len(ranked)]
        return self._deployment.master.at(*self._master)

    def arrived(self) -> None:
        """The link is connected to where it was sent."""
        self._tries = 0

    def abandoned(self) -> None:
        """The Sentinels say where the master is, whatever the link thinks of it."""

    async def run(self, relocate: Callable[[str], None]) -> None:
        """Listen to all Sentinels."""
        self._relocate = relocate
        async with asyncio.TaskGroup() as tasks:
            for sentinel in self._deployment.sentinels:
                tasks.create_task(self._listen_to(sentinel))
            tasks.create_task(self._judge())

    # What each Sentinel says.

    async def _listen_to(self, sentinel: Address) -> None:
        waits = Backoff(BACKOFF_FIRST, BACKOFF_MAX)
        voice = self._voices[sentinel]
        while True:
            try:
                await self._follow(sentinel, waits)
            except (OSError, LinkError) as exc:
                problem = str(exc) or type(exc).__name__
                if voice.answering or not voice.problem:
                    self._changed.set()
                if voice.problem != problem:
                    self._log.warning(sentinel.place, "the Sentinel at %s is of no use: %s", sentinel, problem)
                voice.problem = problem
            voice.answering = False
            await asyncio.sleep(next(waits))

    async def _follow(self, sentinel: Address, waits: Backoff) -> None:
        """Listen to one Sentinel until the connection is lost.

        Raises:
            LinkError, OSError: when that happens.
        """

        def heard(channel: bytes, payload: bytes) -> None:
            words = payload.split(b" ")
            if words[0] == self._deployment.name.encode() and len(words) == 5:
                self._hear_switch(sentinel, told_place(words[1], words[2]), told_place(words[3], words[4]))

        wire, _ = await connect(sentinel, partial(Wire, CLASSIC, heard, _ignore), self._patience)
        try:
            wire.send(CLASSIC.subscribe, channels=(SWITCHED,), on_reply=_refused)
            epoch: int | None = UNKNOWN
            while not wire.closed.done():
                # A user who may not ask for the epoch would only fill the Sentinel's ACL LOG.
                place, epoch = await self._ask(wire, with_epoch=epoch is not None)
                self._learn(sentinel, place, UNKNOWN if epoch is None else epoch)
                waits.reset()
                await asyncio.wait((wire.closed,), timeout=self._heartbeat / 2)
            raise LinkError(wire.closed.result())
        finally:
            wire.fail("not needed any more")

    async def _ask(self, wire: Wire, *, with_epoch: bool) -> tuple[Place, int | None]:
        """Ask a Sentinel for the master and for the epoch; that is None if it doesn't tell."""
        name = self._deployment.name
        questions = ["GET-MASTER-ADDR-BY-NAME", "MASTER"] if with_epoch else ["GET-MASTER-ADDR-BY-NAME"]
        try:
            async with asyncio.timeout(self._patience):
                reply, *state = await asyncio.gather(*(wire.ask("SENTINEL", word, name) for word in questions))
        except TimeoutError:
            raise LinkError(f"no answer within {self._patience:g} s") from None
        if reply is None:
            raise LinkError(f"it knows no master named {name}")
        if not isinstance(reply, list) or len(reply) != 2:
            raise LinkError(f"it answered {public(reply)}")
        return told_place(*reply), _epoch(state[0], reply) if state else None

    def _learn(self, sentinel: Address, place: Place, epoch: int) -> None:
        """Take what a Sentinel answers."""
        voice = self._voices[sentinel]
        newest = max(other.epoch for other in self._voices.values())
        agreed = voice.place is not None and voice.place == self._master
        if agreed and epoch > newest > UNKNOWN:
            self._news = place
        if place != voice.place or not voice.answering:
            self._changed.set()
        voice.place, voice.epoch, voice.answering, voice.problem = place, epoch, True, ""

    def _hear_switch(self, sentinel: Address, old: Place, place: Place) -> None:
        """Take what a Sentinel tells of itself. It is news if the Sentinel has agreed with us until now."""
        voice = self._voices[sentinel]
        if self._master is not None and self._master in (old, voice.place):
            self._news = place
        voice.place = place
        self._changed.set()

    # Whom to believe.

    def _ranked(self) -> list[Place]:
        """The places that Sentinels have named, the most credible first."""
        votes = Counter(voice.place for voice in self._voices.values() if voice.place is not None)
        epochs: dict[Place, int] = {}
        for voice in self._voices.values():
            if voice.place is not None:
                epochs[voice.place] = max(epochs.get(voice.place, UNKNOWN), voice.epoch)
        # The sort is stable: of equals the one whose Sentinel stands first in the URL comes first.
        return sorted(votes, key=lambda place: (votes[place], epochs[place], place == self._master), reverse=True)

    async def _judge(self) -> None:
        await self._wait_for_a_majority()
        self._master = self._ranked()[0]
        self._known.set()
        while True:
            self._changed.clear()
            if await self._reconsider():
                await asyncio.sleep(PAUSE)
            # A doubt that lasts for a moment only is not logged.
            doubtful = self._review()
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSE if doubtful else spread(REVIEW_INTERVAL)):
                    await self._changed.wait()
                    continue
            self._tell()

    async def _wait_for_a_majority(self) -> None:
        """Wait until most Sentinels agree, or all have spoken, or one has spoken and the others take too long."""
        deadline = math.inf
        while True:
            self._changed.clear()
            voices = self._voices.values()
            votes = Counter(voice.place for voice in voices if voice.place is not None)
            if votes:
                if max(votes.values()) * 2 > len(voices) or all(voice.place or voice.problem for voice in voices):
                    return
                deadline = min(deadline, self._loop.time() + min(START_PATIENCE, self._patience / 2))
            try:
                async with asyncio.timeout_at(None if math.isinf(deadline) else deadline):
                    await self._changed.wait()
            except TimeoutError:
                return

    async def _reconsider(self) -> bool:
        """Move the link if there is a reason; return whether a pause is due, because a server was left or asked."""
        news, self._news = self._news, None
        if news is not None and news != self._master:
            self._settled_at = self._loop.time() + SETTLE
            self._move(news, "Sentinel says that the master is now")
            return True
        place = self._ranked()[0]
        if place == self._master or self._loop.time() < self._settled_at:
            return False
        if await self._is_master(place) and self._is_quiet() and place == self._ranked()[0]:
            self._move(place, "most Sentinels say that the master is")
        return True

    def _is_quiet(self) -> bool:
        return self._news is None

    def _move(self, place: Place, reason: str) -> None:
        self._tries = 0
        self._master = place
        address = self._deployment.master.at(*place)
        logger.info("%s %s (%s)", reason, address, self._deployment.name)
        self._relocate(f"{reason} {address}")

    async def _is_master(self, place: Place) -> bool:
        try:
            make_wire = partial(Wire, CLASSIC, _ignore_message, _ignore)
            wire, server = await connect(self._deployment.master.at(*place), make_wire, MIN_PATIENCE)
        except (OSError, LinkError):
            return False
        wire.fail("not needed any more")
        return server.get("role") == "master"

    # What people should know.

    def _review(self) -> bool:
        """Note whether the Sentinels are in doubt; return whether that is to be logged."""
        if self._loop.time() >= self._settled_at:
            self.note = self._doubt()
        return self.note != self._told

    def _doubt(self) -> str:
        said: dict[Place, list[str]] = {}
        for sentinel, voice in self._voices.items():
            if voice.answering and voice.place is not None:
                said.setdefault(voice.place, []).append(sentinel.place)
        here = place_text(*self._master) if self._master is not None else "nowhere"
        if said.keys() - {self._master}:
            parts = "; ".join(f"{', '.join(sentinels)}: {place_text(*place)}" for place, sentinels in said.items())
            return f"the Sentinels disagree about where {self._deployment.name} is ({parts}); wsd listens to {here}"
        answering = sum(map(len, said.values()))
        if answering * 2 <= len(self._voices):
            problems = "; ".join(f"{sentinel.place}: {voice.problem}" for sentinel, voice in self._troubled())
            return (
                f"only {answering} of {len(self._voices)} Sentinels answer, so a failover may stay unknown, and the one"
                f" that is left may be wrong; wsd listens to {here} ({problems})"
            )
        return ""

    def _troubled(self) -> list[tuple[Address, _Voice]]:
        return [(sentinel, voice) for sentinel, voice in self._voices.items() if voice.problem]

    def _tell(self) -> None:
        if self.note == self._told:
            return
        self._told = self.note
        if self.note:
            self._log.warning("doubt", "%s", self.note)
        else:
            logger.info("the Sentinels agree about where %s is", self._deployment.name)


def _epoch(state: Reply, told: list[Reply]) -> int | None:
    """The config epoch in the reply to SENTINEL MASTER; None if it isn't in it.

    A failover that is under way is told by the address, and not yet by the epoch.
    """
    if isinstance(state, list):
        state = dict(zip(state[0::2], state[1::2], strict=False)) if _are_bytes(state) else None
    if not isinstance(state, dict):
        return None
    epoch = told_number(state.get(b"config-epoch"))
    if epoch is None:
        return None
    return epoch + ([state.get(b"ip"), state.get(b"port")] != told)


def _are_bytes(replies: list[Reply]) -> bool:
    return all(isinstance(reply, bytes) for reply in replies)


def _ignore(channel: bytes, subscribed: bool, asked: bool) -> None:
    """That +switch-master is subscribed is no news."""


def _ignore_message(channel: bytes, payload: bytes) -> None:
    """Nothing is subscribed."""


def _refused(reply: Reply) -> None:
    if isinstance(reply, hiredis.ReplyError):
        raise LinkError(f"it refuses SUBSCRIBE: {public(reply)}")
