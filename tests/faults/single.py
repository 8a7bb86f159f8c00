"""Faults of a single Redis, and of the network in front of it."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Sequence

import redis

from tests.faults import names
from tests.faults.scene import TOPICS, Fault, with_many_topics
from tests.faults.watch import ObservedDaemon
from tests.lib.pipe import Pipe
from tests.lib.proxy import Direction, Flow, Proxy
from tests.lib.routes import Route, Server
from tests.lib.servers import RedisServer, redis_version

__all__ = ["FAULTS", "HEAVY", "LEAKS", "SingleStage"]

USER, PASSWORD = "wsd", "right-s3cret"

SLOW_KEYS, KEY_DELAY = 1000, 3000
"""Keys of a Redis that loads slowly, and microseconds that it takes for each: three seconds."""

FLOOD = "flood"
"""A topic without numbers, to fill buffers with."""


class SingleStage:
    """A Redis, a proxy in front of it, and a daemon in front of that. Each fault finds new ones."""

    kind = "single"
    options: tuple[str, ...] = ()  # of redis-server
    daemon: ObservedDaemon

    def __init__(self) -> None:
        self.topics: tuple[str, ...] = TOPICS
        self.more_topics: tuple[str, ...] = ()
        self.idlers = 0

    async def begin(self) -> None:
        """Start Redis and the proxy."""
        self.topics, self.more_topics, self.idlers = TOPICS, (), 0
        self.program: Sequence[str] = ObservedDaemon.program
        self.login: tuple[str, ...] = ()  # of the publisher
        self.redis = await asyncio.to_thread(RedisServer, *self.options)
        self.environment = {"WSD_REDIS_URL": self.redis.url}
        self.proxy = await Proxy(self.redis.port).__aenter__()
        self.names = names.Names()

    async def again(self) -> None:
        """It is whole again: what struck has been restored."""

    async def end(self) -> None:
        """End both."""
        await self.proxy.refuse()
        await asyncio.to_thread(self.redis.remove)
        self.names.remove()

    def route(self) -> Route:
        """Messages are published at Redis, not through the proxy."""
        return Server(self.redis.port, self.login)


Act = Callable[[SingleStage], Awaitable[object]]


def at_redis(*command: str | int) -> Act:
    """Run a command at Redis."""
    return lambda stage: asyncio.to_thread(stage.redis, *command)


# Redis itself.


async def kill(stage: SingleStage) -> None:
    """End Redis without a warning."""
    stage.redis.stop(signal.SIGKILL)


async def start(stage: SingleStage) -> None:
    """Start Redis where it was."""
    await asyncio.to_thread(stage.redis.start)


async def restart(stage: SingleStage) -> None:
    """End Redis politely and start it at once."""
    stage.redis.stop(signal.SIGTERM)
    await start(stage)


async def freeze(stage: SingleStage) -> None:
    """Stop Redis; its connections stay open."""
    stage.redis.freeze()


async def thaw(stage: SingleStage) -> None:
    """Let Redis run on."""
    stage.redis.thaw()


# What Redis demands.


async def with_user(stage: SingleStage) -> None:
    """Let the daemon log in as a user who may do just what systemd/README.md says."""
    await at_redis("ACL", "SETUSER", USER, "on", f">{PASSWORD}", "+@connection", "+@pubsub", "resetchannels", "&*")(
        stage
    )
    stage.environment["WSD_REDIS_URL"] = f"redis://{USER}:{PASSWORD}@127.0.0.1:{stage.redis.port}"


async def with_password(stage: SingleStage) -> None:
    """Let everyone log in with a password."""
    await at_redis("CONFIG", "SET", "requirepass", PASSWORD)(stage)
    stage.login = (PASSWORD,)
    stage.environment["WSD_REDIS_URL"] = f"redis://:{PASSWORD}@127.0.0.1:{stage.redis.port}"


async def restart_with_another_password(stage: SingleStage) -> None:
    """As after a mistake in a deployment."""
    stage.redis.stop(signal.SIGTERM)
    await asyncio.to_thread(stage.redis.start, "--requirepass", "another-s3cret")


async def correct_password(stage: SingleStage) -> None:
    """Mend the mistake."""

    def configure() -> None:
        with redis.Redis(port=stage.redis.port, password="another-s3cret") as client:
            client.config_set("requirepass", PASSWORD)

    await asyncio.to_thread(configure)


REVOKED = TOPICS[10:]
"""Topics that the daemon's user loses. Redis then cuts off the connection of a user who listens to them."""


async def permit_again(stage: SingleStage) -> None:
    """Give the topics back."""
    await at_redis("ACL", "SETUSER", USER, "allchannels")(stage)


async def delete_user(stage: SingleStage) -> None:
    """Delete the daemon's user; Redis cuts off its connections."""
    await at_redis("ACL", "DELUSER", USER)(stage)


# LOADING.


async def with_keys(stage: SingleStage) -> None:
    """Give Redis something to load."""

    def fill() -> None:
        with redis.Redis(port=stage.redis.port) as client, client.pipeline(transaction=False) as pipe:
            for number in range(SLOW_KEYS):
                pipe.set(f"key-{number}", "x" * 100)
            pipe.execute()
            client.save()

    await asyncio.to_thread(fill)


def loads_in_silence() -> str:
    """Why this Redis can't be made to answer while it loads few keys, or ``""``."""
    return "" if redis_version() >= (7, 0) else "loading-process-events-interval-bytes came with Redis 7.0"


async def restart_loading(stage: SingleStage) -> None:
    """Restart Redis, which loads its keys slowly, and looks up from that now and then."""
    stage.redis.stop(signal.SIGKILL)
    slow = ("--key-load-delay", str(KEY_DELAY), "--loading-process-events-interval-bytes", "1024")
    await asyncio.to_thread(lambda: stage.redis.start(*slow, until="server initialized"))


async def until_loaded(stage: SingleStage) -> None:
    """Wait until Redis has loaded its keys."""
    while True:  # the old one was ended before this began
        try:
            if not (await at_redis("INFO", "persistence")(stage))["loading"]:  # type: ignore[index]
                return
        except redis.ConnectionError:
            pass
        await asyncio.sleep(0.02)


# The network.


async def through_proxy(stage: SingleStage) -> None:
    """Let the daemon reach Redis through the proxy."""
    stage.environment["WSD_REDIS_URL"] = f"redis://127.0.0.1:{stage.proxy.port}"


def flow(flow: Flow, *directions: str) -> Act:
    """Do something to the bytes of directions."""

    async def act(stage: SingleStage) -> None:
        for direction in _directions(stage, directions):
            direction.flow = flow

    return act


def delay(seconds: float) -> Act:
    """Delay the bytes of both directions."""

    async def act(stage: SingleStage) -> None:
        for direction in _directions(stage, ("upward", "downward")):
            direction.delay = seconds

    return act


def _directions(stage: SingleStage, names: Sequence[str]) -> list[Direction]:
    return [getattr(stage.proxy, name) for name in names]


async def heal(stage: SingleStage) -> None:
    """Let everything pass."""
    stage.proxy.heal()


async def drop(stage: SingleStage) -> None:
    """Close the connection."""
    await stage.proxy.drop()


async def reset(stage: SingleStage) -> None:
    """End the connection with an RST."""
    await stage.proxy.reset()


async def refuse(stage: SingleStage) -> None:
    """Close the connection, and refuse others."""
    await stage.proxy.refuse()


async def accept(stage: SingleStage) -> None:
    """Accept connections again."""
    await stage.proxy.accept()


def proxied(name: str, strike: Act, restore: Act | None = heal, **more: object) -> Fault[SingleStage]:
    """A fault of the network."""
    return Fault(name, strike, prepare=through_proxy, restore=restore, **more)  # type: ignore[arg-type]


# Names.


async def by_name(stage: SingleStage) -> None:
    """Let the daemon reach Redis by a name that only it knows."""
    stage.program = stage.names.private_to(stage.program)
    stage.names.point_to("127.0.0.1")
    stage.environment["WSD_REDIS_URL"] = f"redis://{names.NAME}:{stage.redis.port}"


async def forget_name(stage: SingleStage) -> None:
    """Make the name unknown, and the daemon ask for it."""
    stage.names.point_to(None)
    await at_redis("CLIENT", "KILL", "TYPE", "pubsub")(stage)


async def recall_name(stage: SingleStage) -> None:
    """Make the name known again."""
    stage.names.point_to("127.0.0.1")


# Output buffers.


async def with_small_buffer(stage: SingleStage) -> None:
    """Let Redis keep little for a subscriber that doesn't read."""
    await at_redis("CONFIG", "SET", "client-output-buffer-limit", "pubsub 64kb 32kb 1")(stage)
    stage.more_topics, stage.idlers = (FLOOD,), 1


async def overrun(stage: SingleStage) -> None:
    """Publish while the daemon stands still, until Redis has cut it off: more than the kernel keeps for it.

    In many messages: Redis sends nothing of one that passes the limit by itself.
    """

    def publish() -> None:
        pipe = Pipe(stage.redis.port)
        for _ in range(64):
            pipe.repeat(("PUBLISH", FLOOD, b"x" * 2**14), 64)
            if pipe.run([("PUBSUB", "NUMSUB", FLOOD)]) == [[FLOOD, 0]]:
                break
        pipe.close()

    stage.daemon.signal(signal.SIGSTOP)
    try:
        await asyncio.to_thread(publish)
    finally:
        stage.daemon.signal(signal.SIGCONT)


FULL_SHARE = 0.7
"""Share of a core that counts as full load: beyond it a busy machine would do something else than the daemon."""

FIRST_RATE, FASTER, LAST_RATE = 10_000, 1.2, 60_000
"""Messages a second to begin with, the factor from one step to the next, and where the steps end. At the last rate the
daemon would have to stand still for three seconds before Redis had kept too much, so a busy machine does no harm."""

STEP, HOLD = 0.4, 2.0
"""Seconds of each step, and of full load."""

LISTENING = 300
"""Clients that listen to the flood."""

KEPT_BOUND = 16 * 2**20
"""Bytes that Redis may keep for the daemon: half of what makes it cut a subscriber off by default."""


class FullLoad:
    """Publishes faster and faster until the daemon is at full load, and looks at what Redis has to keep for it."""

    def __init__(self) -> None:
        self._rate = 0.0  # messages a second
        self._share = 0.0  # of a core, that the daemon took
        self._kept = 0  # bytes at most, in the output buffer of the daemon's connection
        self._looks = 0  # how often that was seen

    async def strike(self, stage: SingleStage) -> None:
        """Publish for a while."""
        self._rate, self._share, self._kept, self._looks = FIRST_RATE, 0.0, 0, 0
        ended = threading.Event()
        looking = asyncio.create_task(asyncio.to_thread(self._look, stage.redis.port, ended))
        try:
            await asyncio.to_thread(self._publish, stage)
        finally:
            ended.set()
            await looking

    def _publish(self, stage: SingleStage) -> None:
        pipe = Pipe(stage.redis.port)
        while self._run(stage, pipe, STEP) < FULL_SHARE and self._rate < LAST_RATE:
            self._rate *= FASTER
        self._run(stage, pipe, HOLD)
        pipe.close()

    def _run(self, stage: SingleStage, pipe: Pipe, seconds: float) -> float:
        """Publish at the present rate; set the share and the rate that came of it."""
        cpu, start = stage.daemon.cpu_seconds(), time.monotonic()
        sent = 0
        while (now := time.monotonic()) < start + seconds:
            if (due := int((now - start) * self._rate) - sent) > 0:
                pipe.repeat(("PUBLISH", FLOOD, b"x" * 50), due)
                sent += due
            time.sleep(0.001)
        self._share = (stage.daemon.cpu_seconds() - cpu) / seconds
        return self._share if sent > self._rate * seconds * 0.9 else FULL_SHARE  # Redis can't do more

    def _look(self, port: int, ended: threading.Event) -> None:
        with redis.Redis(port=port) as client:
            while not ended.wait(0.01):
                ours = [line for line in client.client_list() if line["name"].startswith("wsd:")]
                self._looks += len(ours)
                self._kept = max([self._kept, *(int(line["omem"]) for line in ours)])

    async def check(self, stage: SingleStage) -> tuple[str, list[str]]:
        """Say what was seen."""
        remark = (
            f"{self._rate:,.0f} messages a second to {LISTENING} clients took {self._share:.0%} of a core;"
            f" Redis kept {self._kept:,} bytes at most"
        )
        problems = [f"Redis kept {self._kept} bytes"] if self._kept > KEPT_BOUND else []
        if not self._looks:
            problems.append("the daemon's connection is not in CLIENT LIST")
        return remark, problems


_full_load = FullLoad()


async def with_flood(stage: SingleStage) -> None:
    """Let clients listen to the flood."""
    stage.more_topics, stage.idlers = (FLOOD,), LISTENING


FAULTS: list[Fault[SingleStage]] = [
    Fault("kill -9", kill, restore=start),
    Fault("SIGSTOP", freeze, restore=thaw),
    Fault("restart", restart),
    Fault("CLIENT KILL", at_redis("CLIENT", "KILL", "TYPE", "pubsub")),
    proxied("connection closed", drop, None),
    proxied("connection reset", reset, None),
    proxied("connection refused", refuse, accept),
    proxied("from Redis: black hole", flow(Flow.DISCARD, "downward")),
    proxied("to Redis: black hole", flow(Flow.DISCARD, "upward")),
    proxied("both ways: black hole", flow(Flow.DISCARD, "upward", "downward")),
    proxied("from Redis: stalled", flow(Flow.STALL, "downward")),
    proxied("to Redis: stalled", flow(Flow.STALL, "upward")),
    proxied("only messages vanish", flow(Flow.SWALLOW_PUSHES, "downward")),
    proxied("delay of 0.2 s", delay(0.2), harmless=True),
    proxied("delay of 3 s", delay(3.0)),
    Fault(
        "output buffer overrun",
        overrun,
        prepare=with_small_buffer,
        settings={"WSD_MAX_BACKLOG": "256MiB"},
        often=False,  # the client whose messages fill the buffer would fall behind, and be cut off
        log=["because its output buffer passed client-output-buffer-limit"],
    ),
    Fault(
        "permission revoked",
        at_redis("ACL", "SETUSER", USER, "resetchannels", *(f"&{topic}" for topic in TOPICS if topic not in REVOKED)),
        prepare=with_user,
        restore=permit_again,
        ready_meanwhile=True,
        heal_bound=45.0,
        log=["Redis refuses the channel"],
    ),
    Fault("user deleted", delete_user, prepare=with_user, restore=with_user, log=["user or the password"]),
    Fault(
        "wrong password after restart",
        restart_with_another_password,
        prepare=with_password,
        restore=correct_password,
        log=["user or the password"],
    ),
    Fault("LOADING", restart_loading, prepare=with_keys, recovery=until_loaded, impossible=loads_in_silence),
    Fault(
        "name does not resolve",
        forget_name,
        prepare=by_name,
        restore=recall_name,
        impossible=names.why_impossible,
    ),
]

LEAKS: list[Fault[SingleStage]] = [
    Fault("CLIENT KILL, 100 times", at_redis("CLIENT", "KILL", "TYPE", "pubsub"), times=100),
    Fault("restart, 100 times", restart, times=100),
    proxied("connection reset, 100 times", reset, None, times=100),
]

HEAVY: list[Fault[SingleStage]] = [
    Fault(
        "full load",
        _full_load.strike,
        prepare=with_flood,
        harmless=True,
        check=_full_load.check,
        settings={"WSD_MAX_BACKLOG": "1GiB"},
    ),
    Fault(
        "CLIENT KILL, 50,000 topics",
        at_redis("CLIENT", "KILL", "TYPE", "pubsub"),
        prepare=with_many_topics,
        settings={"WSD_MAX_TOPICS": "100000", "WSD_MAX_BACKLOG": "256MiB"},
        heal_bound=30.0,
    ),
]
