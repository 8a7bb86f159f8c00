"""What goes wrong in a world. Each kind of fault is a function, which says what it has done, for the timeline.

What a fault breaks is whole again after a while by itself, and in the end everything is mended (`mend_all`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import TYPE_CHECKING, TypeAlias

from tests.simulation.loop import Process
from tests.simulation.network import Endpoint
from tests.simulation.redis import Server
from tests.simulation.sites import WSD

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["FAULTS", "KINDS", "mend_all", "mend_one"]

Fault: TypeAlias = "Callable[[World, Random], str]"

FAULTS: dict[str, Fault] = {}
"""Every fault, by name. A function returns what it has done, or "" if there was nothing to break."""

KINDS: dict[str, list[str]] = {}
"""The names of the faults, by what breaks."""


def _fault(kind: str) -> Callable[[Fault], Fault]:
    def add(function: Fault) -> Fault:
        FAULTS[function.__name__] = function
        KINDS.setdefault(kind, []).append(function.__name__)
        return function

    return add


def _span(world: World, random: Random) -> float:
    """Seconds that something is broken: mostly moments, sometimes as long as the world permits."""
    longest = world.swarm.longest
    return random.choice((0.01, 0.1, 1.0)) * longest * (0.1 + random.random())


def _later(world: World, seconds: float, act: Callable[[], object]) -> None:
    world.loop.call_later(seconds, act)


# Redis.


@_fault("Redis")
def redis_is_killed(world: World, random: Random) -> str:
    """A server dies, and starts again."""
    server = random.choice(world.site.servers)
    if not server.process.alive:
        return ""
    seconds, loading = _span(world, random), random.choice((0.0, 0.0, 1.0)) * _span(world, random)
    server.kill()
    _later(world, seconds, lambda: None if server.process.alive else server.start(loading))
    return f"{server.process} is killed, starts after {seconds:.1f} s, and loads for {loading:.1f} s"


@_fault("Redis")
def redis_is_paused(world: World, random: Random) -> str:
    """Somebody lets writes and PUBLISH wait at a server (CLIENT PAUSE), or everything."""
    server = random.choice(world.site.servers)
    if not server.works:
        return ""
    seconds, everything = _span(world, random), random.random() < 0.3
    server.pause(seconds, everything)
    return f"{server.process} lets {'everything' if everything else 'writes'} wait for {seconds:.1f} s"


@_fault("Redis")
def permissions_change(world: World, random: Random) -> str:
    """The user of wsd may use some channels no more, or must say a password."""
    server = random.choice(world.site.servers)
    seconds = _span(world, random)
    _later(world, seconds, partial(_permit, server))
    if random.random() < 0.3:
        server.set_user(b"default", b"resetpass", b">unknown")
        return f"{server.process} asks for a password for {seconds:.1f} s"
    private = [b"__*"] if random.random() < 0.8 else []
    topics = [topic.encode() for topic in world.swarm.topics if random.random() < 0.5]
    server.permit(*private, *topics)
    return f"{server.process} permits only {b' '.join((*private, *topics)).decode() or 'nothing'} for {seconds:.1f} s"


@_fault("Redis")
def redis_is_frozen(world: World, random: Random) -> str:
    """A server stands still: SIGSTOP, a slow disk, a virtual machine that is moved."""
    process = random.choice(world.site.servers).process
    if not process.alive or process.frozen:
        return ""
    seconds = _span(world, random)
    world.loop.freeze(process)
    _later(world, seconds, lambda: _thaw(world, process))
    return f"{process} stands still for {seconds:.1f} s"


@_fault("Redis")
def links_are_reset(world: World, random: Random) -> str:
    """Connections to a server are reset."""
    server = random.choice(world.site.servers)
    clients = [client for client in server.clients if random.random() < 0.7]
    for client in clients:
        client.transport.abort()
    return f"{len(clients)} connections to {server.process} are reset" if clients else ""


@_fault("Redis")
def way_is_cut(world: World, random: Random) -> str:
    """Nothing gets through between wsd and a server, in one direction or in both."""
    server = random.choice(world.site.servers)
    seconds = _span(world, random)
    ways = [(WSD, server.host), (server.host, WSD)]
    if random.random() < 0.4:
        ways = [random.choice(ways)]
    _cut(world, ways, seconds)
    return f"nothing gets {' or '.join(f'from {one} to {other}' for one, other in ways)} for {seconds:.1f} s"


@_fault("Redis")
def servers_are_parted(world: World, random: Random) -> str:
    """Nothing gets through between some servers and the others. wsd reaches both sides."""
    hosts = list(dict.fromkeys(server.host for server in world.site.servers))
    if len(hosts) < 2:
        return ""
    some = random.sample(hosts, random.choice((1, 1, len(hosts) // 2)))
    seconds = _span(world, random)
    ways = [(one, other) for one in some for other in hosts if other not in some]
    _cut(world, [*ways, *((other, one) for one, other in ways)], seconds)
    return f"{', '.join(some)} {'are' if some[1:] else 'is'} parted from the other servers for {seconds:.1f} s"


@_fault("Redis")
def redis_fails_over(world: World, random: Random) -> str:
    """Somebody tells a replica to become the master."""
    return world.site.fail_over(random)


@_fault("Redis")
def topics_move(world: World, random: Random) -> str:
    """Topics move to another server."""
    return world.site.move(random, world.topic(random).encode())


@_fault("Redis")
def subscriptions_die(world: World, random: Random) -> str:
    """A server forgets the subscriptions of a connection, as a proxy does that has lost its way."""
    server = random.choice([server for server in world.site.servers if server.mode != b"sentinel"])
    clients = [client for client in server.clients if client.subscribed]
    if not server.works or not clients:
        return ""
    client = random.choice(clients)
    some = random.random() < 0.5
    is_probed = any(channel.startswith(b"__") for channel in (*client.channels, *client.shards))
    forgotten = server.forget(client, lambda channel: not some or random.random() < 0.5)
    if len(world.site.servers) > 1:
        world.doubt_latest(1.0)
    for topic in world.swarm.topics:
        if topic.encode() in forgotten and random.random() < 0.5:
            world.publish_soon(topic)
    world.bereft[client] = None
    if is_probed and not client.subscribed:
        world.deaf[client] = world.loop.now
    return f"{server.process} forgets {'some' if some else 'all'} subscriptions of {client.name.decode()}"


# The network.


@_fault("network")
def a_direction_stalls(world: World, random: Random) -> str:
    """One direction of a connection of wsd delivers nothing for a while."""
    endpoint = _endpoint(world, random)
    if endpoint is None:
        return ""
    seconds = min(_span(world, random), 5.0)
    outgoing = random.random() < 0.5
    direction = endpoint.outgoing if outgoing else endpoint.incoming
    direction.stalled_until = world.loop.now + seconds
    direction.hurry()
    world.excuse_peer(endpoint)
    return f"{'to' if outgoing else 'from'} {endpoint.peer_address}: nothing arrives for {seconds:.1f} s"


@_fault("network")
def a_connection_is_reset(world: World, random: Random) -> str:
    """A connection of wsd is reset, at one end first."""
    endpoint = _endpoint(world, random)
    if endpoint is None:
        return ""
    peer = endpoint.outgoing.receiver
    world.excuse_peer(endpoint)
    for end in (endpoint, peer) if random.random() < 0.5 else (peer, endpoint):
        end.reset_by_peer()
    return f"the connection with {endpoint.peer_address} is reset"


@_fault("network")
def the_network_is_bad(world: World, random: Random) -> str:
    """The ways between wsd and somebody lose packets, and are slow."""
    other = random.choice([*(server.host for server in world.site.servers), *(each.name for each in world.clients)])
    seconds = _span(world, random)
    paths = [world.network.path(WSD, other), world.network.path(other, WSD)]
    slow = random.choice((0.01, 0.1, 0.5))
    for path in paths:
        path.latency, path.lossy, path.chop = (0.0, slow), random.choice((0.0, 0.2)), 0.5

    def mend() -> None:
        for path in paths:
            path.latency, path.lossy, path.chop = (0.0001, world.swarm.latency), 0.0, 0.05

    _later(world, seconds, mend)
    return f"the network to {other} is bad for {seconds:.1f} s: up to {slow:g} s slow"


@_fault("network")
def a_client_is_cut_off(world: World, random: Random) -> str:
    """Nothing gets through between wsd and a client, in one direction or in both."""
    client = random.choice(world.clients)
    seconds = _span(world, random)
    ways = [(WSD, client.name), (client.name, WSD)]
    if random.random() < 0.4:
        ways = [random.choice(ways)]
    world.excuse(client)
    _cut(world, ways, seconds)
    return f"nothing gets {' or '.join(f'from {one} to {other}' for one, other in ways)} for {seconds:.1f} s"


# Publishers and clocks.


@_fault("outside")
def a_burst(world: World, random: Random) -> str:
    """Many messages at once."""
    topic = world.topic(random)
    count, padding = random.choice((5, 5, 20, 20, 200)), random.choice((0, 500, *world.swarm.padding))
    for _ in range(count):
        world.publish(topic, padding)
    return f"{count} messages at once on {topic}"


@_fault("outside")
def the_clock_is_set(world: World, random: Random) -> str:
    """The clock on the wall is set otherwise."""
    seconds = random.choice((0.5, 30.0, 3600.0, 86_400.0)) * random.choice((-1, 1)) * random.random()
    world.clock.step += seconds
    return f"the clock on the wall is set {seconds:+.1f} s"


# wsd.


@_fault("wsd")
def wsd_is_reloaded(world: World, random: Random) -> str:
    """New code and new settings, perhaps while a client sends more than it may."""
    if random.random() < 0.05:
        random.choice(world.clients).hurry()
    world.service.reload()
    return "reload"


@_fault("wsd")
def a_process_is_killed(world: World, random: Random) -> str:
    """A process of wsd dies, perhaps again and again, and somebody reloads because of that."""
    process = _process(world, random)
    if process is None:
        return ""
    world.service.kill(process)
    if random.random() < 0.7:
        return f"{process} is killed"
    times, seconds = random.choice((1, 2, 4)), 2.0 * random.random()
    for number in range(times):
        _later(world, (number + random.random()) * seconds, partial(_kill_worker, world, random))
    _later(world, (times + random.random()) * seconds, partial(_reload, world))
    return f"{process} is killed, and {times} more within {times * seconds:.1f} s; then somebody reloads"


@_fault("wsd")
def a_process_stands_still(world: World, random: Random) -> str:
    """A process of wsd stands still."""
    process = _process(world, random)
    if process is None or process.frozen:
        return ""
    seconds = min(_span(world, random), 30.0)
    world.stand_still(process, seconds)
    return f"{process} stands still for {seconds:.1f} s"


# How it is done.


def _process(world: World, random: Random) -> Process | None:
    processes = [process for process in world.service.processes if process.alive]
    return random.choice(processes) if processes else None


def _kill_worker(world: World, random: Random) -> None:
    workers = [process for process in world.service.processes if process is not world.service.supervisor]
    if workers and not world.mended:
        process = random.choice(workers)
        world.note(f"{process} is killed, too")
        world.service.kill(process)


def _reload(world: World) -> None:
    if not world.mended:
        world.note("reload, because of that")
        world.service.reload()


def _endpoint(world: World, random: Random) -> Endpoint | None:
    endpoints = world.network.endpoints(WSD)
    return random.choice(endpoints) if endpoints else None


def _permit(server: Server) -> None:
    server.set_user(b"default", b"nopass", b"allchannels")


def _thaw(world: World, process: Process) -> None:
    if process.alive and process.frozen:
        world.loop.thaw(process)


def _cut(world: World, ways: list[tuple[str, str]], seconds: float) -> None:
    for way in ways:
        world.network.cut(*way)
        _later(world, seconds, partial(world.network.mend, *way))


def mend_one(world: World, random: Random) -> str:
    """Make a server of those whole where something is broken; return what has been done, "" if nothing was."""
    broken = [
        server
        for server in world.site.servers
        if not server.works or server.is_paused() or any(server.host in way for way in world.network.cuts)
    ]
    if not broken:
        return ""
    server = random.choice(broken)
    _mend(world, server)
    return f"{server.process} is whole again, and the way to it"


def mend_all(world: World) -> None:
    """Make everything whole."""
    for way in world.network.cuts:
        world.network.mend(*way)
    for server in world.site.servers:
        _mend(world, server)
    world.service.go_on()


def _mend(world: World, server: Server) -> None:
    if not server.process.alive:
        server.start()
    _thaw(world, server.process)
    server.unpause()
    _permit(server)
    for way in world.network.cuts:
        if server.host in way:
            world.network.mend(*way)
