"""The models of Redis behave as Redis does: the same conversations, the same replies in the same order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from random import Random

import pytest
import redis

from tests.lib.pipe import ask
from tests.lib.resp import bulk
from tests.lib.servers import RedisServer, redis_version
from tests.lib.topologies import ClusterOfSix, SentinelTrio
from tests.simulation.cluster import Node, Slots
from tests.simulation.conversations import Transcript, play
from tests.simulation.redis import COMMANDS
from tests.simulation.sentinel import Sentinel
from tests.simulation.stages import (
    ModelCluster,
    ModelSentinels,
    ModelServer,
    RealCluster,
    RealSentinels,
    RealServer,
    Stage,
)
from wsd.redis.slots import SLOTS

pytestmark = pytest.mark.skipif(redis_version()[:2] != (7, 0), reason="the model speaks as Redis 7.0")

SINGLE = {
    "handshakes": """
        anna> PING
        anna> HELLO
        anna> HELLO 3 SETNAME anna
        anna> CLIENT INFO
        anna> HELLO 4
        anna> HELLO three
        anna> HELLO -1
        anna> HELLO 3 FOO
        anna> HELLO 3 AUTH default
        anna> HELLO 3 SETNAME
        anna> HELLO 3 SETNAME 'a b'
        anna> HELLO 3 AUTH default whatever SETNAME anne
        anna> HELLO 3 AUTH nobody whatever SETNAME nobody
        anna> CLIENT INFO
        anna> AUTH whatever
        anna> AUTH default whatever
        anna> AUTH nobody whatever
        anna> AUTH a b c
        anna> HELLO 2
        anna> HELLO
        anna> QUIT
    """,
    "passwords": """
        root> HELLO 3
        anna> HELLO 3
        root> ACL SETUSER default >secret
        anna> PING
        bert> PING
        bert> NOTHING
        bert> GET
        bert> HELLO 3
        bert> HELLO 3 SETNAME bert
        bert> HELLO 3 AUTH default wrong
        bert> AUTH wrong
        bert> PING
        bert> HELLO 3 AUTH default secret SETNAME bert
        bert> CLIENT INFO
        carl> AUTH secret
        carl> PING
        dora> AUTH default secret
        dora> HELLO 3
        dora> HELLO 3 AUTH default wrong
        dora> PING
        root> ACL SETUSER default nopass
        emil> PING
        root> ACL SETUSER fred on >his ~* &a* +@all -publish
        fred> HELLO 3 AUTH fred his
        fred> CLIENT INFO
        root> ACL SETUSER fred off
        fred> PING
        gina> HELLO 3 AUTH fred his
        root> ACL SETUSER default resetpass >secret
        gina> PING
        hans> PING
        root> ACL SETUSER default nopass
        root> ACL SETUSER default foo
    """,
    "subscribe": """
        anna> HELLO 3
        bert> HELLO 3
        anna> SUBSCRIBE a
        anna> SUBSCRIBE a b a c
        anna> UNSUBSCRIBE x
        anna> UNSUBSCRIBE a x b
        bert> PUBLISH a 1
        bert> PUBLISH c 2
        bert> SUBSCRIBE c
        bert> PUBLISH c 3
        anna> PUBLISH c 4
        anna> PING
        anna> PING hello
        anna> PUBSUB NUMSUB
        anna> PUBSUB NUMSUB a b c '' c
        anna> CLIENT INFO
        anna> UNSUBSCRIBE
        anna> UNSUBSCRIBE
        anna> UNSUBSCRIBE c
        bert> PUBLISH c 5
        bert> UNSUBSCRIBE
        bert> PUBLISH c 6
        bert> PUBSUB NUMSUB c
    """,
    "sharded channels without a cluster": """
        anna> HELLO 3
        bert> HELLO 3
        anna> SSUBSCRIBE a b
        anna> SUBSCRIBE a
        anna> SSUBSCRIBE b c
        bert> SPUBLISH a 1
        bert> PUBLISH a 2
        bert> PUBSUB SHARDNUMSUB a b x
        bert> PUBSUB NUMSUB a b x
        anna> CLIENT INFO
        anna> INFO
        anna> SUNSUBSCRIBE x a
        anna> SUNSUBSCRIBE b c
        anna> SUNSUBSCRIBE
        anna> SPUBLISH a 3
        anna> PUBLISH a 4
    """,
    "RESP2": """
        anna> SUBSCRIBE a
        anna> PING
        anna> PING x
        anna> GET k
        anna> PUBLISH a 1
        anna> HELLO 3
        bert> SSUBSCRIBE a b
        bert> CLIENT INFO
        bert> SUNSUBSCRIBE
        carl> PUBLISH a 2
        carl> HELLO 3
        carl> PUBLISH a 3
        anna> UNSUBSCRIBE
        anna> UNSUBSCRIBE
        anna> GET k
        anna> MGET k l
        anna> ROLE
        anna> INFO
        anna> CLIENT INFO
    """,
    "errors": r"""
        anna> HELLO 3
        anna> NOTHING
        anna> nothing at all
        anna> NOTHING "line\r\nbreak" and a long word xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx xxxxxxxxxxxxxxxx more
        anna> SUBSCRIBE
        anna> SSUBSCRIBE
        anna> PUBLISH a
        anna> PUBLISH a b c
        anna> SPUBLISH a
        anna> PING a b
        anna> ROLE a
        anna> PUBSUB
        anna> PUBSUB NOTHING
        anna> CLIENT
        anna> client nothing
        anna> CLIENT INFO a
        anna> CLIENT SETNAME 'a b'
        anna> CLIENT SETNAME ''
        anna> client setname anna
        anna> CLIENT PAUSE x
        anna> CLIENT PAUSE 1 NOTHING
        anna> CLUSTER INFO
        anna> CLUSTER SLOTS
        anna> CLUSTER NODES
        anna> CLUSTER NOTHING
        anna> SENTINEL MASTER mymaster
        anna> ASKING
        anna> MGET
        anna> SET k
        anna> SET k v FOO
        anna> subscribe a
        anna> Publish a 1
    """,
    "permissions": """
        root> HELLO 3
        root> ACL SETUSER default resetchannels &a* &b?
        anna> HELLO 3
        anna> SUBSCRIBE a ab b1
        anna> SUBSCRIBE c
        anna> SUBSCRIBE a c
        anna> SSUBSCRIBE b12
        anna> PUBLISH c 1
        anna> SPUBLISH c 1
        anna> PUBLISH b1 1
        anna> UNSUBSCRIBE c
        anna> SUNSUBSCRIBE c
        anna> PUBSUB NUMSUB c b1
        bert> HELLO 3
        bert> SSUBSCRIBE b1 a1
        carl> HELLO 3
        carl> SUBSCRIBE a
        dora> SUBSCRIBE b1
        root> ACL SETUSER default resetchannels &a*
        root> PUBSUB NUMSUB a ab b1
        root> PUBSUB SHARDNUMSUB a1 b1
        root> ACL SETUSER default resetchannels
        carl> PING
        root> ACL SETUSER default allchannels -publish
        anne> HELLO 3
        anne> SUBSCRIBE c
        anne> PUBLISH c 1
        root> ACL SETUSER default +publish -client -subscribe -ping
        anne> CLIENT INFO
        anne> PING
        anne> SUBSCRIBE d
        anne> PUBLISH c 1
        anne> HELLO 3
        root> ACL SETUSER default -@all +acl +ping
        anne> PUBLISH c 1
        anne> INFO
        anne> PING
        anne> NOTHING
        anne> PUBLISH c
        root> ACL SETUSER default +@all
        anne> PUBLISH c 1
        anne> UNSUBSCRIBE
    """,
    "data": """
        anna> HELLO 3
        anna> SET k v
        anna> GET k
        anna> GET l
        anna> MGET k l k
        anna> ROLE
        anna> INFO
        anna> INFO replication
    """,
    "paused writes": """
        anna> HELLO 3
        bert> HELLO 3
        root> HELLO 3
        anna> SUBSCRIBE a
        root> CLIENT PAUSE 60000 WRITE
        bert> PING
        bert> PUBLISH a 1
        bert> PING
        anna> PING
        anna> SUBSCRIBE b
        anna> SPUBLISH a 2
        anna> GET k
        bert> HELLO 3
        root> CLIENT UNPAUSE => anna 3, bert 2
        root> CLIENT PAUSE 100 WRITE
        bert> PUBLISH a 3 => anna 1, bert 1
    """,
}
"""Conversations with one server."""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A redis-server that only this process uses."""
    server = RedisServer()
    yield server
    server.remove()


def _reset(server: RedisServer) -> None:
    server("ACL", "SETUSER", "default", "on", "nopass", "allchannels", "allkeys", "+@all")
    server("FLUSHALL")


def _sorted(transcript: Transcript) -> Transcript:
    """A transcript in which the answers to UNSUBSCRIBE without channels have an order: Redis has one of a hash."""
    return [
        (line, {name: _sort(said) if line.endswith("UNSUBSCRIBE") else said for name, said in heard.items()})
        for line, heard in transcript
    ]


def _sort(said: list[str]) -> list[str]:
    channels = sorted(" ".join(push.split(" ")[:-1]) for push in said)
    counts = [push.split(" ")[-1] for push in said]
    return [f"{channel} {count}" for channel, count in zip(channels, counts, strict=True)]


@pytest.mark.parametrize("script", SINGLE.values(), ids=SINGLE)
def test_one_server(server: RedisServer, script: str) -> None:
    _reset(server)
    real, model = RealServer(server), ModelServer()
    played = play(model, script)
    expected = play(real, script, like=played)
    real.close()
    assert _sorted(played) == _sorted(expected)


# By chance.

WORDS = ("", "a", "b", "c", "aa", "x")

CHANCES: list[tuple[int, str, tuple[int, int]]] = [
    (6, "SUBSCRIBE", (0, 4)),
    (6, "SSUBSCRIBE", (0, 4)),
    (5, "UNSUBSCRIBE", (0, 2)),
    (5, "SUNSUBSCRIBE", (0, 2)),
    (8, "PUBLISH", (1, 3)),
    (8, "SPUBLISH", (1, 3)),
    (3, "PUBSUB NUMSUB", (0, 3)),
    (3, "PUBSUB SHARDNUMSUB", (0, 3)),
    (2, "PING", (0, 2)),
    (2, "HELLO 3", (0, 1)),
    (1, "HELLO 2", (0, 0)),
    (1, "CLIENT INFO", (0, 0)),
    (1, "CLIENT SETNAME", (0, 1)),
    (1, "INFO", (0, 0)),
    (1, "ROLE", (0, 1)),
    (2, "SET", (1, 3)),
    (2, "GET", (0, 1)),
    (1, "MGET", (0, 3)),
    (1, "CLUSTER NODES", (0, 1)),
    (1, "NOTHING", (0, 2)),
    (1, "ACL SETUSER default resetchannels &a* &b", (0, 0)),
    (2, "ACL SETUSER default allchannels", (0, 0)),
    (1, "ACL SETUSER default -publish", (0, 0)),
    (1, "ACL SETUSER default +publish", (0, 0)),
    (1, "QUIT", (0, 0)),
]
"""How likely a command is, its beginning, and how many words follow at least and at most."""


def _by_chance(random: Random, lines: int) -> str:
    """Make a conversation of three, of whom some leave, and others come in their place."""
    weights = [weight for weight, _, _ in CHANCES]
    names = ["anna", "bert", "carl"]
    script = []
    for number in range(lines):
        index = random.randrange(len(names))
        [(_, command, (least, most))] = random.choices(CHANCES, weights)
        words = [random.choice(WORDS) for _ in range(random.randint(least, most))]
        script.append(" ".join([f"{names[index]}>", command, *(word or "''" for word in words)]))
        if random.random() < 0.02:
            names[index] = f"guest {number}"
    return "\n".join(script)


@pytest.mark.parametrize("seed", range(8))
def test_one_server_by_chance(server: RedisServer, seed: int) -> None:
    script = _by_chance(Random(seed), 300)
    _reset(server)
    real, model = RealServer(server), ModelServer()
    played = play(model, script)
    expected = play(real, script, like=played)
    real.close()
    assert _sorted(played) == _sorted(expected)


# A Cluster. Slots: b and bar are A's, c is B's, a is C's.

C_SLOT = 7365
"""The slot of c."""

CLUSTER = {
    "what is where": """
        anna@A> HELLO 3
        anna> CLUSTER INFO
        anna> CLUSTER SLOTS
        anna> CLUSTER NODES
        anna> ROLE
        anna> INFO
        anna> CLUSTER NOTHING
        anna> CLUSTER SLOTS x
        rita@a> HELLO 3
        rita> CLUSTER INFO
        rita> CLUSTER SLOTS
        rita> CLUSTER NODES
        rita> ROLE
        rita> INFO
        old@A> CLUSTER SLOTS
        old> CLUSTER NODES
        anna> SSUBSCRIBE b
        anna> SSUBSCRIBE b {b}1
        anna> SSUBSCRIBE b bar
        anna> SSUBSCRIBE c
        anna> SSUBSCRIBE c a
        anna> SUNSUBSCRIBE c
        anna> SUNSUBSCRIBE {b}1 {b}2
        bert@B> HELLO 3
        bert> SPUBLISH b 1
        bert> SPUBLISH c 1
        bert> SSUBSCRIBE c c
        bert> SPUBLISH c 2
        cleo@A> SPUBLISH b 2 => anna 1
        rita> SSUBSCRIBE b
        cleo> SPUBLISH b 3 => anna 1, rita 1
        rita> SPUBLISH b 4 => anna 1
        anna> SUBSCRIBE news
        bert> SUBSCRIBE news
        cleo> PUBLISH news 1 => anna 1, bert 1
        rita> PUBLISH news 2 => anna 1, bert 1
        anna> PUBLISH news 3 => anna 2, bert 1
        anna> PUBSUB SHARDNUMSUB b c a
        anna> PUBSUB NUMSUB news b
        rita> PUBSUB SHARDNUMSUB b
        anna> CLIENT INFO
        anna> SUNSUBSCRIBE
        anna> SUNSUBSCRIBE
        anna> SET b v
        anna> GET b
        anna> SET c v
        anna> GET c
        anna> MGET b {b}1
        anna> MGET b c
        anna> MGET c b
        rita> GET b
        anna> ASKING
        anna> GET c
        cleo> GET c
        cleo> ACL SETUSER default resetchannels &b*
        anna> SSUBSCRIBE c
        anna> SPUBLISH c 1
        anna> SSUBSCRIBE b
        cleo> ACL SETUSER default allchannels
        cleo> CLUSTER FAILOVER
        rita> CLUSTER SETSLOT 1 STABLE
    """,
    "a slot moves": """
        anna@A> HELLO 3
        bert@B> HELLO 3
        beth@b> HELLO 3
        bill@B> HELLO 3
        carl@C> HELLO 3
        bert> SSUBSCRIBE c {c}2 {c}1
        beth> SSUBSCRIBE c
        anna> CLUSTER SETSLOT 3300 IMPORTING {id:B}
        anna> CLUSTER SETSLOT 7365 MIGRATING {id:B}
        anna> CLUSTER SETSLOT 7365 IMPORTING 0123456789012345678901234567890123456789
        anna> CLUSTER SETSLOT 7365 NODE 0123456789012345678901234567890123456789
        anna> CLUSTER SETSLOT 7365 IMPORTING {id:B}
        bill> CLUSTER SETSLOT 7365 MIGRATING {id:A}
        anna> CLUSTER NODES
        bill> CLUSTER NODES
        bill> CLUSTER SLOTS
        anna> SSUBSCRIBE c
        anna> ASKING
        anna> SSUBSCRIBE c
        anna> SPUBLISH c 0
        bert> SPUBLISH c 1 => beth 1
        bill> GET {c}none
        bill> SET {c}none 1
        bill> SPUBLISH {c}1 1 => bert 1
        anna> GET {c}none
        anna> ASKING
        anna> GET {c}none
        anna> ASKING
        anna> MGET {c}none {c}nothing
        anna> CLUSTER SETSLOT 7365 NODE {id:A} => bert 3, beth 1
        bill> CLUSTER SETSLOT 7365 NODE {id:A}
        bert> SUNSUBSCRIBE c
        bert> SPUBLISH c 2
        bert> PUBSUB SHARDNUMSUB c
        bill> CLUSTER NODES
        anna> SSUBSCRIBE c
        anna> SPUBLISH c 3
        ! until C NODES 7365
        ! settle
        carl> SPUBLISH c 5
        carl> CLUSTER SLOTS
        anna> CLUSTER SLOTS
        bill> CLUSTER SETSLOT 7365 IMPORTING {id:A}
        anna> CLUSTER SETSLOT 7365 MIGRATING {id:B}
        bill> CLUSTER SETSLOT 7365 NODE {id:B} => anna 1
        ! until A NODES 5461-10922
        anna> CLUSTER NODES
        anna> CLUSTER SETSLOT 7365 NODE {id:B}
        ! settle
        anna> CLUSTER SETSLOT 3300 MIGRATING {id:B}
        anna> SET {b}one 1
        anna> GET {b}two
        anna> MGET {b}one {b}two
        anna> SET {b}two 2
        anna> CLUSTER SETSLOT 3300 STABLE
        anna> GET {b}two
        anna> CLUSTER NODES
    """,
    "a failover by hand": """
        anna@A> HELLO 3
        anna> SUBSCRIBE news
        anna> SSUBSCRIBE {b}1 b bar
        anna> SSUBSCRIBE {b}1 b
        anna> SSUBSCRIBE bar
        rita@a> HELLO 3
        rita> SSUBSCRIBE b
        bert@B> HELLO 3
        rita> CLUSTER FAILOVER => anna 3
        ! settle
        anna> ROLE
        rita> ROLE
        bert> CLUSTER SLOTS
        bert> CLUSTER NODES
        bert> SPUBLISH b 0
        anna> SPUBLISH b 1 => rita 1
        rita> SPUBLISH b 2
        anna> SSUBSCRIBE b
        rita> SPUBLISH b 3 => anna 1
        rita> PUBLISH news 4 => anna 1
        anna> SET b 1
    """,
    "nobody has some slots": """
        anna@A> HELLO 3
        carl@C> HELLO 3
        cleo@c> HELLO 3
        anna> SSUBSCRIBE b
        ! freeze b
        ! until A NODES slave,fail {id:B}
        anna> CLUSTER SLOTS
        anna> CLUSTER INFO
        ! freeze B
        ! until A CLUSTER cluster_state:fail
        ! until C CLUSTER cluster_state:fail
        ! until c CLUSTER cluster_state:fail
        anna> CLUSTER INFO
        anna> CLUSTER NODES
        anna> CLUSTER SLOTS
        anna> SSUBSCRIBE b {b}1
        anna> SPUBLISH b 1
        anna> SSUBSCRIBE c
        anna> SPUBLISH c 1
        anna> SUNSUBSCRIBE {b}1
        anna> GET {b}never
        anna> GET c
        anna> PUBLISH news 1
        anna> SUNSUBSCRIBE b c
        cleo> SSUBSCRIBE a
        cleo> GET a
        carl> SPUBLISH a 1 => cleo 1
        ! serve_when_down A no
        anna> SSUBSCRIBE b
        anna> SPUBLISH b 1
        anna> SUNSUBSCRIBE b
        anna> SSUBSCRIBE c
        anna> SUNSUBSCRIBE
        ! serve_when_down A yes
        ! thaw B
        ! thaw b
        ! settle
        anna> CLUSTER INFO
        anna> GET {b}never
    """,
    "a minority": """
        anna@A> HELLO 3
        anna> SSUBSCRIBE b
        ! freeze b
        ! freeze c
        ! freeze B
        ! freeze C
        ! until A CLUSTER cluster_state:fail
        ! until A CLUSTER cluster_slots_pfail:10923
        anna> CLUSTER INFO
        anna> CLUSTER SLOTS
        anna> SPUBLISH b 1
        anna> SSUBSCRIBE {b}1
        anna> SSUBSCRIBE c
        anna> GET {b}never
        ! thaw B
        ! thaw C
        ! thaw b
        ! thaw c
        ! settle
        anna> SPUBLISH b 2
    """,
    "a replica takes over": """
        anna@A> HELLO 3
        bert@B> HELLO 3
        beth@b> HELLO 3
        bert> SSUBSCRIBE c
        bert> SUBSCRIBE news
        beth> SSUBSCRIBE c
        anna> CLUSTER NODES
        ! freeze B
        ! until b ROLE master
        ! until A CLUSTER cluster_state:ok
        ! until b CLUSTER cluster_state:ok
        anna> SPUBLISH c 1
        anna> CLUSTER NODES
        anna> CLUSTER SLOTS
        anna> CLUSTER INFO
        beth> ROLE
        beth> SPUBLISH c 2
        ! thaw B => bert 1
        ! settle
        bert> SPUBLISH c 3 => beth 1
        bert> SSUBSCRIBE c
        bert> ROLE
        anna> PUBLISH news 4 => bert 1
        beth> SPUBLISH c 5 => bert 1
    """,
}
"""Conversations with a Cluster."""


@pytest.fixture(scope="module")
def six() -> Iterator[ClusterOfSix]:
    """A Cluster that only this process uses."""
    with ClusterOfSix() as cluster:
        yield cluster


@pytest.mark.parametrize("script", CLUSTER.values(), ids=CLUSTER)
def test_a_cluster(six: ClusterOfSix, script: str) -> None:
    modelled = play(ModelCluster(), script)
    for left in (2, 1, 0):  # on a busy machine, real nodes take others for dead that have only waited
        real = RealCluster(six)
        try:
            played = play(real, script)
        except AssertionError:
            if not left:
                raise
            continue
        finally:
            real.close()
        if played == modelled:
            break
    assert modelled == played


# A master with replicas and Sentinels.

SENTINEL = {
    "a Sentinel": """
        sara@S> PING
        sara> HELLO
        sara> HELLO 3 SETNAME sara
        sara> ROLE
        sara> INFO
        sara> CLIENT INFO
        sara> SENTINEL GET-MASTER-ADDR-BY-NAME mymaster
        sara> SENTINEL MASTER mymaster
        sara> SENTINEL GET-MASTER-ADDR-BY-NAME other
        sara> SENTINEL MASTER other
        sara> SENTINEL MASTER
        sara> SENTINEL NOTHING
        sara> SENTINEL FAILOVER other
        sara> SUBSCRIBE +switch-master
        sara> PUBLISH +switch-master 1
        sara> SSUBSCRIBE a
        sara> PUBSUB NUMSUB a
        sara> GET k
        sara> CLUSTER INFO
        sara> UNSUBSCRIBE
        sam@S> SENTINEL GET-MASTER-ADDR-BY-NAME mymaster
        sam> SENTINEL GET-MASTER-ADDR-BY-NAME other
        sam> HELLO 3
        sam> ACL SETUSER default >secret
        sue@S> SENTINEL MASTER mymaster
        sue> HELLO 3 AUTH default secret
        sue> ACL SETUSER default nopass -sentinel
        sue> SENTINEL MASTER mymaster
        sue> ACL SETUSER default +@all
        sue> SENTINEL MASTER mymaster
    """,
    "a master with replicas": """
        mona@M> HELLO 3
        mona> ROLE
        mona> INFO
        rita@R> HELLO 3
        rita> ROLE
        rita> INFO
        rolf@r> HELLO 3
        mona> SUBSCRIBE news
        rita> SUBSCRIBE news
        rolf> SUBSCRIBE news
        rolf> SSUBSCRIBE shard
        mona> PUBLISH news 1 => rita 1, rolf 1
        rita> PUBLISH news 2
        mona> SPUBLISH shard 3 => rolf 1
        rita> SET k v
        rita> GET k
        mona> PUBSUB NUMSUB news
    """,
    "a failover by hand": """
        sara@S> HELLO 3
        tom@T> HELLO 3
        sara> SUBSCRIBE +switch-master
        tom> SUBSCRIBE +switch-master
        mona@M> HELLO 3
        rita@R> HELLO 3
        rolf@r> HELLO 3
        mona> SUBSCRIBE news
        rita> SUBSCRIBE news
        rolf> SUBSCRIBE news
        uma@U> HELLO 3
        uma> SENTINEL FAILOVER mymaster
        uma> SENTINEL FAILOVER mymaster => sara 1, tom 1, rita 99, rolf 99
        sara> SENTINEL GET-MASTER-ADDR-BY-NAME mymaster
        tom> SENTINEL GET-MASTER-ADDR-BY-NAME mymaster
        ! until M ROLE slave => mona 99
        ! until M INFO master_link_status:up
        ! until U MASTER 'flags master '
        uma> SENTINEL MASTER mymaster
        mia@M> HELLO 3
        mia> ROLE
    """,
    "a master that is away": """
        sara@S> HELLO 3
        tom@T> HELLO 3
        sara> SUBSCRIBE +switch-master
        tom> SUBSCRIBE +switch-master
        mona@M> HELLO 3
        mona> SUBSCRIBE news
        ! freeze M => sara 1, tom 1
        sara> SENTINEL GET-MASTER-ADDR-BY-NAME mymaster
        tom> SENTINEL GET-MASTER-ADDR-BY-NAME mymaster
        ! thaw M => mona 99
        ! until M ROLE slave
        ! until M INFO master_link_status:up
        mia@M> HELLO 3
        mia> ROLE
    """,
}
"""Conversations with a master, its replicas, and Sentinels."""


@pytest.fixture(scope="module")
def trio() -> Iterator[SentinelTrio]:
    """A master, two replicas and three Sentinels that only this process uses."""
    with SentinelTrio() as trio:
        yield trio


ATTEMPTS = 3
"""How often a conversation is played with real Sentinels. They fail over by timers of their own, and on a busy machine
they may have got further when the next line is said."""


@pytest.mark.parametrize("script", SENTINEL.values(), ids=SENTINEL)
def test_sentinels(trio: SentinelTrio, script: str) -> None:
    said = _alike(play(ModelSentinels(), script))
    for _ in range(ATTEMPTS):
        real = RealSentinels(trio)
        try:
            expected = _alike(play(real, script))
        finally:
            real.close()
        if said == expected:
            break
    assert said == expected


def _alike(transcript: Transcript) -> dict[str, str]:
    """What each connection got, without the subscriptions of Sentinels, and without which replica is the master now."""
    said: dict[str, str] = {}
    for _, heard in transcript:
        for name, replies in heard.items():
            said[name] = said.get(name, "") + "".join(f"{reply}\n" for reply in replies)
    return {name: re.sub(r"pubsub_channels \d", "", text).replace("<r>", "<R>") for name, text in said.items()}


# What is in no conversation.


def test_commands_are_as_redis_says(server: RedisServer) -> None:
    for name, command in COMMANDS.items():
        [[_, arity, said, *_]] = ask(server.port, "COMMAND", "INFO", name)
        assert arity == command.arity, name
        assert ("loading" in said) == command.loading, name
        assert ("no_auth" in said) == command.free, name
        assert ("write" in said) == command.writes, name


def test_a_sentinel_knows_these_commands(trio: SentinelTrio) -> None:
    for name in COMMANDS:
        [info] = ask(trio.sentinels[0].port, "COMMAND", "INFO", name)
        assert (info is not None) == (name in Sentinel.commands), name


def test_a_server_that_loads() -> None:
    script = """
        anna> HELLO 3 SETNAME anna
        anna> PING
        anna> SUBSCRIBE a
        bert> PING
        bert> HELLO 3
        bert> PUBLISH a 1 => anna 1
        bert> SSUBSCRIBE a
        bert> GET k
        bert> SET k v
        bert> INFO
        bert> ROLE
        bert> CLIENT INFO
        bert> PUBSUB NUMSUB a
        bert> CLUSTER INFO
        bert> MGET
        ! until A PING PONG
        bert> PING
        bert> GET other
        bert> PUBLISH a 2
    """
    server = RedisServer("--rdbcompression", "no")  # Redis looks up from loading after so many bytes of the file
    try:
        with redis.Redis(port=server.port) as client:
            client.mset({f"key-{number}": "x" * 1024 for number in range(600)})
            client.save()
        server.stop()
        slow = ("--key-load-delay", "3000", "--loading-process-events-interval-bytes", "1024")
        server.start(*slow, until="server initialized")
        real = RealServer(server)
        expected = play(real, script)
        real.close()
    finally:
        server.remove()
    assert play(ModelServer(loading=7.0), script) == expected


@pytest.mark.parametrize("kind", ["real", "model"])
def test_output_that_overruns(make_redis: Callable[..., RedisServer], kind: str) -> None:
    if kind == "real":
        stage: Stage = RealServer(make_redis("--client-output-buffer-limit", "pubsub 1mb 0 0"))
    else:
        stage = ModelServer(lambda server: setattr(server, "output_limits", (1 << 20, 1 << 30, 0.0)))
    deaf = stage.open("A")
    deaf.send(bulk("SUBSCRIBE", "a"))
    stage.wait("A")
    assert deaf.receive().startswith(b"*3\r\n$9\r\nsubscribe")
    deaf.stop()
    heard = [stage.ask("A", "PUBLISH", "a", "x" * 500_000) for _ in range(60)]
    # The kernels keep some, too; a message that overruns the limit is still counted.
    assert heard[0] == 1 and heard[-1] == 0
    deaf.go_on()
    stage.until(lambda: deaf.receive() == b"" and deaf.ended, "the end")
    deaf.close()
    stage.close()


def test_output_that_is_long_for_long() -> None:
    stage = ModelServer(lambda server: setattr(server, "output_limits", (1 << 30, 1 << 19, 10.0)))
    deaf = stage.open("A")
    deaf.send(bulk("SUBSCRIBE", "a"))
    stage.wait("A")
    deaf.stop()
    stage.ask("A", "PUBLISH", "a", "x" * 1_000_000)
    assert stage.ask("A", "PUBSUB", "NUMSUB", "a") == ["a", 1]
    stage.until(lambda: stage.ask("A", "PUBSUB", "NUMSUB", "a") == ["a", 0], "the end")
    assert 10 <= stage.loop.now < 20
    assert stage.servers["A"].overruns == 1


def test_two_nodes_claim_a_slot() -> None:
    """A master that is cut off from the others goes on serving its clients, and says that the cluster is down."""
    stage = ModelCluster()
    nodes = {name: node for name, node in stage.servers.items() if isinstance(node, Node)}
    stage.cluster.isolate(nodes["B"])
    stage.until(lambda: nodes["b"].owns(C_SLOT), "its replica takes over")
    assert nodes["B"].owns(C_SLOT)
    transcript = play(
        stage,
        """
            bert@B> HELLO 3
            beth@b> HELLO 3
            bert> SSUBSCRIBE c
            beth> SSUBSCRIBE c
            bert> SPUBLISH c 1
            beth> SPUBLISH c 2
            ! until B CLUSTER cluster_state:fail
            ! until b CLUSTER cluster_state:ok
            bert> SSUBSCRIBE {c}1
            bert> GET c
            ! join B => bert 2
            ! settle
            bert> SSUBSCRIBE c
            beth> SPUBLISH c 3 => bert 1
        """,
    )
    assert [heard for _, heard in transcript][2:] == [
        {"bert": ["push [ssubscribe c 1]"]},
        {"beth": ["push [ssubscribe c 1]"]},
        {"bert": ["push [smessage c 1]", "1"]},
        {"beth": ["push [smessage c 2]", "1"]},
        {},
        {},
        {"bert": ["push [ssubscribe {c}1 2]"]},
        {"bert": ["error CLUSTERDOWN The cluster is down"]},
        {"bert": ["push [sunsubscribe c 1]", "push [sunsubscribe {c}1 0]"]},
        {},
        {"bert": ["push [ssubscribe c 1]"]},
        {"bert": ["push [smessage c 3]"], "beth": ["push [smessage c 3]", "1"]},
    ]
    assert stage.cluster.owner(b"c") is nodes["b"]


def test_what_a_world_does_to_a_server() -> None:
    stage = ModelServer()
    server = stage.servers["A"]
    anna = stage.open("A")
    anna.send(bulk("SUBSCRIBE", "a"))
    stage.wait("A")
    server.permit(b"b*")
    stage.wait("A")
    assert anna.ended and stage.ask("A", "PUBSUB", "NUMSUB", "a") == ["a", 0]
    assert "NOPERM" in str(stage.ask("A", "SUBSCRIBE", "a"))
    server.permit(b"*")
    assert stage.ask("A", "SUBSCRIBE", "a") == ["subscribe", "a", 1]
    server.load(2.0)
    assert "LOADING" in str(stage.ask("A", "PING"))
    stage.until(lambda: stage.ask("A", "PING") == "PONG", "it has loaded")
    server.pause(2.0)
    begun = stage.loop.now
    assert stage.ask("A", "PUBLISH", "a", "1") == 0
    assert 2 <= stage.loop.now - begun < 3
    bert = stage.open("A")
    server.drop_clients()
    stage.wait("A")
    assert bert.ended


def test_what_a_world_does_to_a_cluster() -> None:
    stage = ModelCluster()
    cluster, nodes = stage.cluster, dict(zip("ABCabc", stage.cluster.nodes, strict=True))
    cluster.migrate([C_SLOT], nodes["A"])
    assert str(stage.ask("B", "GET", "c")) == f"ASK {C_SLOT} 10.0.0.1:7000"
    cluster.move_slots([C_SLOT], nodes["A"])
    stage.settle()
    assert stage.ask("A", "GET", "c") is None
    assert str(stage.ask("B", "GET", "c")) == f"MOVED {C_SLOT} 10.0.0.1:7000"
    # The newer of two claims wins also if the older one is told later.
    cluster.isolate(nodes["B"], nodes["b"])
    cluster.move_slots(range(10_923, SLOTS), nodes["A"])
    stage.until(lambda: not nodes["C"].owns(12_000) and nodes["C"].master is nodes["A"], "C has nothing any more")
    assert nodes["B"].slots.at(12_000) is nodes["C"]
    cluster.join(nodes["B"], nodes["b"])
    stage.until(lambda: nodes["B"].slots.at(12_000) is nodes["A"], "B hears of it")
    stage.settle()
    # Without a majority nobody takes over.
    cluster.isolate(nodes["B"])
    stage.until(lambda: not nodes["A"].ok and not nodes["B"].ok, "no majority anywhere")
    stage.until(lambda: stage.loop.now > 60, "a while")
    assert nodes["b"].master is nodes["B"] and not nodes["A"].ok
    cluster.join(nodes["B"])
    stage.settle()


def test_the_same_seed_gives_the_same_conversation() -> None:
    script = CLUSTER["a replica takes over"]
    stages = [ModelCluster(seed) for seed in (7, 7, 8)]
    one, two, other = [(play(stage, script), stage.loop.now) for stage in stages]
    assert one == two
    assert one[0] == other[0] and one[1] != other[1]


def test_slots_are_given_and_found() -> None:
    random = Random(1)
    stage = ModelCluster()
    owners = stage.cluster.nodes[:3]
    slots = Slots()
    plain: list[Node | None] = [None] * SLOTS
    for _ in range(300):
        first = random.randrange(SLOTS)
        last = min(first + random.choice((0, 1, 500, SLOTS)), SLOTS - 1)
        owner = random.choice([None, *owners])
        slots.give(first, last, owner)
        plain[first : last + 1] = [owner] * (last + 1 - first)
        assert [slots.at(slot) for slot in range(0, SLOTS, 97)] == plain[::97]
        stretches = list(slots)
        assert all(one[1] + 1 == other[0] and one[2] is not other[2] for one, other in pairwise(stretches))
        assert [owner for first, last, owner in stretches for _ in range(first, last + 1)] == plain
