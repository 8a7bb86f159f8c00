"""Looks at the workers while a world lives: does /readyz tell the truth, and does memory stay bounded?"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.simulation.chance import EPOCH
from tests.simulation.loop import Process, within
from tests.simulation.network import READ_MOST, Endpoint
from tests.simulation.sites import is_reached
from wsd.admin.service import unready
from wsd.clients.phases import CLOSE_TIMEOUT
from wsd.delivery import fanout
from wsd.handover.fence import FENCE_PATIENCE
from wsd.handover.marks import CONFIRM_PATIENCE
from wsd.redis import vitals
from wsd.redis.channels import REFUSED_RETRY
from wsd.redis.sentinel import REVIEW_INTERVAL
from wsd.redis.topology import REFRESH_INTERVAL
from wsd.supervisor import pages
from wsd.supervisor.autopsy import STACKS_PATIENCE
from wsd.supervisor.child import Stage

if TYPE_CHECKING:
    from tests.simulation.redis import Client as Redis
    from tests.simulation.world import World
    from wsd.supervisor.team import Seat, Team
    from wsd.worker.worker import Worker

__all__ = ["Watch", "holdings", "is_of"]

LOOKS = 2000
"""Looks in the life of a world, at most; but not more often than `SHORTEST`."""

SHORTEST = 0.5
"""Seconds between two looks, at least."""

DOUBT = 3.0
"""Heartbeats of the link within which /readyz must say that nothing comes from Redis. One is on its way to Redis, or
about to be, and is waited for; the next connection is given as long. See systemd/README.md."""

DOUBT_MORE = 3.0
"""Seconds beyond that: ways may be slow."""

STUCK = 30.0
"""Seconds after which a client is closed that takes nothing of its backlog (max_backlog_age), and gone."""

MISLED = {"single": 5.0, "sentinel": REVIEW_INTERVAL + 5, "cluster": 2 * REFRESH_INTERVAL, "classic cluster": 0.0}
"""Seconds that it may take until wsd hears where a topic is published by now, where all servers can be reached, by the
kind of site."""

OVERDUE = 60.0
"""Seconds after which a client is closed whose token is good no more."""

AUTH_TIMEOUT = 10.0
"""Seconds that a client has to authorize (auth_timeout)."""

AUTH_LATE = 3.0
"""Seconds that it may take longer, until wsd looks again and the client hears of it."""

EMPTY = 2.0
"""Seconds, at most, in which nobody cares for a place that has no worker."""

LARGEST_PASS = 4 * 2**20
"""Bytes that one pass of the fan-out may bring a connection, beyond its bound: it is closed then."""

MOST_READ = 2 * READ_MOST
"""Bytes that a link may bring when it has been told that it is enough: what it has read, with what goes around it."""


@dataclass
class _Seen:
    """What was seen of a worker."""

    silent_since: float | None = None  # since when nothing can come from Redis, and the worker runs all the time
    connects: int = 0  # links that it had made by the last look: what came and went between two looks is no silence


class Watch:
    """Looks, again and again.

    Args:
        world: where.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: dict[Process, _Seen] = {}
        self._doubt = DOUBT * world.swarm.heartbeat + DOUBT_MORE + 4 * world.slowest
        self._told: set[str] = set()  # problems that were told already
        self._astray: dict[tuple[Process, str], float] = {}  # topics that are subscribed elsewhere, and since when
        self._excused: dict[tuple[Redis, bytes], float] = {}  # what is forgotten, and when wsd could last not know
        self._overdue: dict[str, float] = {}  # connections whose token is good no more, and since when
        self._stuck: dict[Endpoint, tuple[int, float]] = {}  # what a client with a backlog had taken, and since when
        self._frozen: dict[Process, float] = {}  # workers that stand still, and since when somebody could see that
        self._empty: dict[Seat, float] = {}  # places for which nobody starts a worker, and since when
        self._paused_at = 0.0  # when Redis last let writes wait

    @property
    def _paused_until(self) -> float:
        """Until when wsd may take a silent Redis for one that lets writes wait."""
        return self._paused_at + vitals.PAUSED_HEARTBEATS * self._world.swarm.heartbeat if self._paused_at else 0.0

    async def run(self) -> None:
        """Look until cancelled."""
        world = self._world
        period = max(SHORTEST, world.swarm.seconds / LOOKS)
        while True:
            await asyncio.sleep(period)
            silent = world.site.is_silent()
            if any(server.is_paused() for server in world.site.servers):
                self._paused_at = world.loop.now
            for process, worker in world.service.serving:
                self._look(process, worker, silent)
            self._look_at_backlogs()
            self._look_at_clients()
            self._look_at_links()
            self._look_at_places()
            self._look_at_processes()

    def _look(self, process: Process, worker: Worker, silent: bool) -> None:
        world, now = self._world, self._world.loop.now
        if (seen := self._seen.get(process)) is None:
            seen = self._seen[process] = _Seen()
            self._listen_in(process, worker)
        connects, seen.connects = seen.connects, worker.metrics.link_connects
        if not silent or process.frozen or worker.gateway.draining or connects != seen.connects:
            seen.silent_since = None
        elif seen.silent_since is None or seen.silent_since < self._stirred():
            seen.silent_since = now
        elif now - max(seen.silent_since, self._paused_until) > self._doubt and not worker.status.unready():
            self._tell(f"{process}: /readyz says 200, and nothing comes since {seen.silent_since:.1f}")
        most = world.swarm.max_backlog + LARGEST_PASS
        for connection in worker.gateway.connections:
            if connection.backlog_bytes > most:
                self._tell(f"{process}: a backlog has {connection.backlog_bytes} bytes, more than {most}")
        waiting = worker.parts.shared.fanout._waiting
        if waiting > fanout.MAX_WAITING + MOST_READ * len(worker.source.links):
            self._tell(f"{process}: {waiting} bytes wait for the fan-out, which is full with {fanout.MAX_WAITING}")

    def _listen_in(self, process: Process, worker: Worker) -> None:
        """What is said to be confirmed is delivered by the link that it should come by."""
        confirm = worker.topics.confirm

        def confirmed(channel: bytes) -> None:
            if not worker.source.stream(channel):
                self._tell(f"{process} takes {channel.decode()} for confirmed, which no link delivers where it should")
            confirm(channel)

        worker.topics.confirm = confirmed  # type: ignore[method-assign]

    def _stirred(self) -> float:
        """When a server, or the way to one, has last come back, perhaps only for a moment."""
        servers = self._world.site.servers
        times = [time for server in servers for time in (server.process.thawed, server.started_at, server.unpaused_at)]
        return max((*times, *self._world.network.mended.values()))

    def _look_at_backlogs(self) -> None:
        """Whoever takes nothing of his backlog any more is closed."""
        world, now, seen = self._world, self._world.loop.now, self._stuck
        self._stuck = {}
        for process, worker in world.service.serving:
            for connection in worker.gateway.connections:
                endpoint = connection.transport.endpoint  # type: ignore[attr-defined]
                if not connection.backlog_bytes:
                    continue
                taken = endpoint.outgoing.taken
                before, began = seen.get(endpoint, (-1, now))
                self._stuck[endpoint] = (taken, began if taken == before and began > world.calm_since else now)
                if now - self._stuck[endpoint][1] > STUCK + 2 * world.swarm.pace:
                    self._tell(f"{process} keeps {endpoint.peer_address}, which takes nothing of its backlog")

    def _look_at_clients(self) -> None:
        """Clients that should have been closed are closed."""
        world, now, leisure = self._world, self._world.loop.now, max(self._world.swarm.pace, 1.0)
        if now < world.calm_since:
            return
        # Whose close frame is late, or lost, is aborted. Nobody looks at a connection that is on its way.
        late = AUTH_LATE * leisure + world.slowest + CLOSE_TIMEOUT + 2 * CONFIRM_PATIENCE + FENCE_PATIENCE
        overdue: dict[str, float] = {}
        wall = EPOCH + now + world.clock.step
        for client in world.clients:
            connection = client.connection
            if connection is None or not connection.settled or not connection.is_held() or not connection.judged:
                continue
            if wall > connection.expires:
                since = overdue[connection.diary.name] = self._overdue.get(connection.diary.name, now)
                if now - since > OVERDUE * max(1.0, world.swarm.leisure):
                    self._tell(
                        f"{connection.diary.name} is still there, and its token is good no more since {since:.1f}"
                    )
            if connection.lazy and now - connection.greeted_at > AUTH_TIMEOUT + late:
                self._tell(f"{connection.diary.name} is still there, and has not authorized")
        self._overdue = overdue

    def _look_at_links(self) -> None:
        """Connections to a Redis that delivers nothing on them are given up."""
        world, now = self._world, self._world.loop.now
        for client, since in list(world.deaf.items()):
            server = client.server
            owner = self._owner(client)
            if client not in server.clients or client.subscribed or owner is None:  # it is over, and Redis may not know
                del world.deaf[client]
                continue
            process, worker = owner
            is_dazed = process.frozen or now - max(process.thawed, world.accident) < self._doubt
            # Where wsd may not publish to itself, or hear of it, only an audit shows that a link is deaf.
            is_probed = not any(link.unprobed for link in worker.source.links)
            if not is_reached(world.network, server) or server.is_paused() or is_dazed:
                world.deaf[client] = now
            elif now - since > self._doubt + (0 if is_probed else vitals.AUDIT_INTERVAL):
                del world.deaf[client]
                self._tell(f"{client.name.decode()} keeps a connection to {server.process} that delivers nothing")

        if world.site.kind in ("cluster", "classic cluster") or now < world.calm_since:
            return
        for server in world.site.servers:
            for client in server.clients:
                owner = self._owner(client) if client.forgotten else None
                wanted = _wanted(owner[1]) if owner is not None else ()
                for channel, forgotten_at in client.forgotten.items():
                    since = max(forgotten_at, self._excused.get((client, channel), 0.0))
                    if not is_reached(world.network, server) or server.is_paused() or channel not in wanted:
                        self._excused[client, channel] = now
                    elif now - since > vitals.AUDIT_INTERVAL + self._doubt + world.swarm.heartbeat:
                        self._excused[client, channel] = now
                        self._tell(f"{client.name.decode()} does not know that {channel.decode()} is not subscribed")

    def _owner(self, client: Redis) -> tuple[Process, Worker] | None:
        """Whose link a client of a Redis is."""
        return next((each for each in self._world.service.serving if is_of(client, each[0])), None)

    def _look_at_places(self) -> None:
        """Who is ready listens where messages are published, or soon will."""
        world, now, seen = self._world, self._world.loop.now, self._astray
        misled = MISLED[world.site.kind] * world.swarm.leisure + self._doubt
        self._astray = {}
        if not all(is_reached(world.network, server) and not server.loading for server in world.site.servers):
            return
        for process, worker in world.service.serving:
            if worker.status.unready() or process.frozen:
                continue
            for channel in _wanted(worker):
                topic, home = channel.decode(), world.site.home(channel)
                if home is None or not home.users[b"default"].may_use(channel) or home.is_paused():
                    continue  # a connection that waits for its PUBLISH can subscribe to nothing
                there = (*home.channels.get(channel, ()), *home.shards.get(channel, ()))
                if any(is_of(client, process) for client in there):
                    continue
                near = [client for client in home.clients if is_of(client, process)]
                # Between two looks it may have been found out, and forgotten again.
                times = (
                    max(client.forgotten.get(channel, 0.0), self._excused.get((client, channel), 0.0))
                    for client in near
                )
                since = max((seen.get((process, topic), now), *times))
                self._astray[process, topic] = since
                is_refused = bool(worker.topics._topics[topic].refusal)  # while it was not permitted
                finds = vitals.AUDIT_INTERVAL + REFUSED_RETRY * is_refused if near else 0
                if now - since > misled + finds:
                    self._tell(f"{process} says 200, and {topic} is not subscribed at {home.process}")

    def _look_at_processes(self) -> None:
        """A worker that stands still is told of, and put down, unless the supervisor stands still, too."""
        service, now, seen = self._world.service, self._world.loop.now, self._frozen
        supervisor, team, pace = service.supervisor, service.team, self._world.swarm.pace
        self._frozen = {}
        if supervisor is None or supervisor.frozen or team is None or not team.complete.is_set():
            return
        self._look_at_seats(team, supervisor)
        seated = {seat.child.pid for seat in team.seats if seat.child is not None and seat.child.stage is Stage.READY}
        for process, _ in service.serving:
            if not process.frozen or process.pid not in seated:
                continue
            began = seen.get(process, now)
            if process.thawed >= began:  # it has gone on since
                began = now
            since = self._frozen[process] = max(began, supervisor.since, supervisor.thawed)
            timeout = self._world.settings().worker_timeout
            if now - since > timeout / 2 + 1 + pace and not within(supervisor, lambda: unready(pages.standing(team))):
                self._tell(f"{process} stands still since {since:.1f}, and /readyz of the service says 200")
            if now - since > timeout + STACKS_PATIENCE + 3 + 2 * pace:
                self._tell(f"{process} stands still since {since:.1f}, and nobody has put it down")

    def _look_at_seats(self, team: Team, supervisor: Process) -> None:
        """A place without a worker is about to have one."""
        now, seen = self._world.loop.now, self._empty
        self._empty = {}
        for seat in team.seats:
            if seat.child is None and seat.comes is None and seat.timer is None and not team.closing:
                since = self._empty[seat] = max(seen.get(seat, now), supervisor.thawed)
                if now - since > EMPTY:
                    self._tell(f"there is no worker {seat.number} since {since:.1f}, and none is about to be started")

    def _tell(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._world.problem(what)


def is_of(client: Redis, process: Process) -> bool:
    """Whether a client of a Redis is a link of a process of wsd, which still has its end of it."""
    return client.name.endswith(b":%d" % process.pid) and client.transport.endpoint.has_peer


def _wanted(worker: Worker) -> list[bytes]:
    """The channels of the topics that a worker wants."""
    return [topic.encode() for topic, held in worker.topics._topics.items() if held.wanted]


def holdings(process: Process, worker: Worker, descriptors: int, timers: int) -> dict[str, float]:
    """What a worker holds, of all that must be as before when nobody is there any more.

    Args:
        process: its process.
        worker: the worker.
        descriptors: how many sockets its process has.
        timers: the same of timers.
    """
    gauges = worker.status._known() | worker.status._counted_now()
    return {
        "connections": gauges["open_connections"],
        "topics": gauges["topics"],
        "wanted channels": gauges["redis_channels_wanted"],
        "confirmed channels": gauges["redis_channels_confirmed"],
        "bytes of backlogs": gauges["backlog_bytes"],
        "deadlines": sum(map(len, worker._sweep._slots.values())),
        "links": len(worker.source.links),
        # What is asked of a server is under way now and then.
        "tasks": sum("Wire.ask" not in str(task.get_coro()) for task in process.tasks),
        "descriptors": descriptors,
        "timers": timers,
    }
