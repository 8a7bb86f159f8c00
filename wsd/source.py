"""What the daemon sees of Redis: something that delivers channels, and says how it stands.

Whoever brings messages is a `Source`: one connection to Redis, or those of a Cluster (`wsd.redis`). What it brings it
tells by `Events`; what people and metrics want to know about its connections are values, `LinkStatus`.

Nothing here says that a source is a connection of its own. With N workers a message costs Redis one delivery for each
of them. If that is what limits a host, a source may as well be fed by a process that has one connection for all: it
then passes on what `Events` tells, answers for the streams of that connection, and publishes through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Events", "LinkStatus", "Source"]


@dataclass(frozen=True, slots=True)
class Events:
    """Whom to call about what comes from Redis."""

    on_message: Callable[[bytes, bytes], None]  # with channel and payload
    on_confirmed: Callable[[bytes, bool], None]  # with a wanted channel, and whether messages may have been missed
    on_refused: Callable[[bytes, str], None]  # with a wanted channel, and why Redis refuses it
    on_lost: Callable[[Iterable[bytes]], None]  # with channels that aren't delivered until they are confirmed again


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """How one connection to Redis stands, at one moment."""

    name: str  # the connection and its server, for people
    server: Mapping[str, str]  # what the server says of itself: its server, version, mode, role
    up: bool  # whether Redis has let us in, and something can be subscribed
    unprobed: str  # why nobody can see whether it delivers; "" if it is seen
    probe_age: float | None  # seconds since the last probe came back; None if none has, on this connection
    probe_round_trip: float  # seconds that this one took; NaN if none has come back
    line: str  # all of it in one line for people


class Source(Protocol):
    """What delivers channels."""

    def subscribe(self, channel: bytes) -> None:
        """Want a channel; ``on_confirmed`` or ``on_refused`` tells the answer, at the end of this pass or later."""

    def unsubscribe(self, channel: bytes) -> None:
        """Want a channel no more."""

    def missed(self, channel: bytes) -> bool:
        """Someone who has just come to a channel may have missed messages of it: let its next confirmation tell so.

        Returns:
            Whether a confirmation is to come, which will tell of a gap. If not, because the channel is confirmed now or
            nobody wants it, nothing has happened: the caller announces the gap.
        """

    def stream(self, channel: bytes) -> str:
        """Name the connection that delivers a channel now: by the server that it leads to.

        Two sources of one host whose streams have the same name are at the same server, as far as anyone knows. How
        many get what is published there proves it (`publish`).

        Returns:
            The name; ``""`` if nobody delivers the channel now, because it is not confirmed or not wanted.
        """

    @property
    def streams(self) -> Sequence[str]:
        """The names of all connections that are there now, also of those that deliver nothing yet."""

    def private(self, stream: str, name: str) -> bytes:
        """Name a channel on a stream that no client can name.

        Args:
            stream: the stream.
            name: what tells the channel from others; letters, digits and colons.

        Returns:
            A channel that this source, and any other that has this stream, can subscribe to there; ``b""`` if this
            source has no such stream.
        """

    def publish(self, channel: bytes, payload: bytes, on_reply: Callable[[int | str], object]) -> None:
        """Publish on the stream of a wanted channel, behind what is subscribed there in this pass.

        Args:
            channel: the channel.
            payload: what is published.
            on_reply: called once, later, with the number of those at that server who are subscribed, or with the reason
                why that is not known: Redis refuses, or the connection is lost or down. Then it may have been published
                all the same.
        """

    def renew(self, stream: str, reason: str) -> None:
        """Give up the connection of a stream, if there is one, and make another. What it has yet to bring never comes.

        Args:
            stream: the stream.
            reason: for people.
        """

    def hold(self, full: bool) -> None:
        """Bring no more messages until called with False; keep the connections."""

    async def run(self) -> None:
        """Connect and stay connected until cancelled."""

    @property
    def links(self) -> Sequence[LinkStatus]:
        """The connections, as they stand now."""

    @property
    def up(self) -> bool:
        """Whether channels can be subscribed."""

    @property
    def healed(self) -> bool:
        """Whether it is up, and every channel that was delivered once is delivered again."""

    @property
    def problem(self) -> str:
        """Why it isn't up, for people; ``""`` if it is."""

    @property
    def wanted(self) -> int:
        """How many channels are wanted."""

    @property
    def confirmed(self) -> int:
        """How many channels Redis has confirmed, unwanted ones that linger included."""
