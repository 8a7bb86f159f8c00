"""What comes from Redis is input: whatever a server, a Sentinel or a node answers, at whichever step, nothing of ours
ends, and nothing is left to the loop's handler."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from unittest.mock import patch

import hiredis
import pytest
import uvloop
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.lib.resp import bulk
from wsd.cli import main
from wsd.deployment import Address, Cluster, Deployment, Sentinel, Standalone
from wsd.errors import LinkError
from wsd.metrics import Metrics
from wsd.redis.place import told_number, told_place
from wsd.redis.slots import SLOTS
from wsd.redis.source import make_source
from wsd.redis.topology import _parse
from wsd.redis.wire import CLASSIC, REPLY_MOST, Wire, public
from wsd.source import Events

CONNECTIONS = 12
"""Connections of one example: the first gets rubbish as its first answer, the second as its second, and so on."""


# Everything that RESP3 can say. https://redis.io/docs/latest/develop/reference/protocol-spec/


def text(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


def many(kind: bytes, values: list[bytes]) -> bytes:
    return kind + b"%d\r\n" % (len(values) // (2 if kind == b"%" else 1)) + b"".join(values)


WORDS = [
    *(b"", b"?", b"\xff", b"\x00", b"redis..svc", b"127.0.0.1", b"0", b"-1", b"70000", b"6379.0", b"\xc2\xbd", b"role"),
    *(
        b"message",
        b"subscribe",
        b"unsubscribe",
        b"smessage",
        b"ssubscribe",
        b"sunsubscribe",
        b"+switch-master",
        b"slave",
    ),
    *(
        b"config-epoch",
        b"9" * 5000,
        b"a" * 64,
        b"a\r\nb\x1b[2J",
        b"cluster_state:ok",
        b"m x 1 y 2",
        b"m a 1 redis..svc 2",
    ),
    *(b"run_id:0 client_output_buffer_limit_disconnections:" + b"9" * 5000, b"sub=" + b"9" * 5000),
]

leaves = st.one_of(
    st.sampled_from(WORDS).map(text),
    st.binary(max_size=20).map(text),
    st.sampled_from([0, 1, -1, SLOTS, 6379, 70000, 2**63 - 1, -(2**63)]).map(lambda number: b":%d\r\n" % number),
    st.sampled_from(
        [
            *(b"_\r\n", b"$-1\r\n", b"*-1\r\n", b"#t\r\n", b"#f\r\n", b",1.5\r\n", b",inf\r\n", b",nan\r\n"),
            *(
                b"(" + b"9" * 5000 + b"\r\n",
                b"(12345678901234567890123\r\n",
                b"+OK\r\n",
                b"+\xff\r\n",
                b"=5\r\ntxt:x\r\n",
            ),
            *(
                b"-ERR no\r\n",
                b"-\xff\xfe\r\n",
                b"-MOVED\r\n",
                b"-MOVED x y\r\n",
                b"-MOVED 1 \r\n",
                b"-WRONGPASS\r\n",
                b"-\r\n",
            ),
            *(
                b"*0\r\n",
                b"%0\r\n",
                b"~0\r\n",
                b">0\r\n",
                b"rubbish",
                b"*3333333333\r\n",
                b"$3333333333\r\n",
                b"$-7\r\n",
            ),
        ]
    ),
)
values = st.recursive(
    leaves,
    lambda inner: st.builds(
        lambda kind, inside: many(kind, inside if kind != b"%" else inside[: len(inside) // 2 * 2]),
        st.sampled_from([b"*", b"%", b"~", b">"]),
        st.lists(inner, max_size=5),
    ),
    max_leaves=12,
)
numbers = st.sampled_from([b":0\r\n", b":5\r\n", b":-1\r\n", b":16383\r\n", b":16384\r\n", b":9223372036854775807\r\n"])
nodes = st.lists(leaves, max_size=4).map(lambda node: many(b"*", node))
slots = st.lists(
    st.tuples(numbers, numbers, nodes, nodes).map(lambda entry: many(b"*", list(entry))), min_size=1, max_size=3
).map(lambda entries: many(b"*", entries))
places = st.tuples(leaves, leaves).map(lambda place: many(b"*", list(place)))
pushes = st.tuples(st.sampled_from(WORDS[12:19]), st.lists(leaves, max_size=3)).map(
    lambda push: many(b">", [text(push[0]), *push[1]])
)
maps = st.lists(st.tuples(leaves, leaves), max_size=3).map(
    lambda pairs: many(b"%", [x for pair in pairs for x in pair])
)
anything = st.one_of(values, slots, places, pushes, maps)


class Liar:
    """A server that is Redis, Sentinel and node in one, and answers rubbish at one step of each connection."""

    def __init__(self, rubbish: bytes) -> None:
        self.rubbish = rubbish
        self.connections = 0
        self._serving: set[asyncio.StreamWriter] = set()

    async def listen(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1")
        self.port = int(self.server.sockets[0].getsockname()[1])
        self.right = {
            "HELLO": b"%2\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n",
            "GET-MASTER-ADDR-BY-NAME": bulk("127.0.0.1", self.port),
            "MASTER": bulk("ip", "127.0.0.1", "port", self.port, "config-epoch", 3),
            "SLOTS": b"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$0\r\n\r\n:%d\r\n$2\r\nid\r\n" % self.port,
            "INFO": text(b"cluster_state:ok"),
            "NODES": text(b"id 127.0.0.1:1@1 myself,master - 0 0 1 connected 0-16383\n"),
            "PUBLISH": b":1\r\n",
            "SPUBLISH": b":1\r\n",
        }

    async def close(self) -> None:
        self.server.close()
        while self._serving:
            for writer in self._serving:
                writer.transport.abort()
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(writer)
        step, self.connections = self.connections, self.connections + 1
        commands = hiredis.Reader()
        answered = 0
        with suppress(OSError):
            async with asyncio.timeout(0.5):
                while answered <= step + 3 and (data := await reader.read(65536)):
                    commands.feed(data)
                    while command := commands.gets():
                        writer.write(self.rubbish if answered == step else self._answer(command))
                        answered += 1
        writer.transport.abort()
        self._serving.discard(writer)

    def _answer(self, command: list[bytes]) -> bytes:
        name, *words = (word.decode("utf-8", "replace").upper() for word in command)
        if name in ("SUBSCRIBE", "SSUBSCRIBE"):
            return b"".join(many(b">", [text(name.lower().encode()), text(word), b":1\r\n"]) for word in command[1:])
        if name in ("CLUSTER", "SENTINEL"):
            name = words[0]
        return self.right.get(name, b"+OK\r\n")


def of_server(port: int) -> Deployment:
    return Standalone(Address("127.0.0.1", port))


def of_sentinel(port: int) -> Deployment:
    return Sentinel((Address("127.0.0.1", port),), "m", Address())


def of_cluster(port: int) -> Deployment:
    return Cluster((Address("127.0.0.1", port),))


async def survive(make: Callable[[int], Deployment], pubsub: Any, rubbish: bytes) -> None:
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
    liar = Liar(rubbish)
    await liar.listen()
    metrics = Metrics()
    source = make_source(
        make(liar.port),
        pubsub=pubsub,
        prefix="",
        heartbeat=0.05,
        metrics=metrics,
        events=Events(*[lambda *args: None] * 4),
    )
    source.subscribe(b"c")
    task = asyncio.create_task(source.run())
    try:
        async with asyncio.timeout(20):
            while liar.connections < CONNECTIONS and not task.done():  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.002)
        assert not task.done(), task
        _ = source.problem, [link.line for link in source.links]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await liar.close()
        for _ in range(5):
            await asyncio.sleep(0)  # what was aborted is closed
    assert not problems
    assert metrics.internal_errors == 0


@pytest.mark.parametrize(
    ("make", "pubsub"),
    [(of_server, "auto"), (of_sentinel, "auto"), (of_cluster, "sharded"), (of_cluster, "classic")],
    ids=["server", "Sentinel", "sharded", "classic"],
)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(rubbish=anything)
@example(rubbish=b"*2\r\n$10\r\nredis..svc\r\n$4\r\n6379\r\n")
@example(rubbish=b"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$10\r\nredis..svc\r\n:6379\r\n$2\r\nid\r\n")
@example(rubbish=b"%1\r\n*1\r\n:1\r\n:1\r\n")
@example(rubbish=b"*3333333333\r\n")
@example(rubbish=b"%1\r\n$1\r\n\xff\r\n$1\r\n\xff\r\n")
@example(rubbish=b">1\r\n$9\r\nsubscribe\r\n")
@example(rubbish=b">2\r\n$7\r\nmessage\r\n$1\r\nc\r\n")
@example(rubbish=b">3\r\n$7\r\nmessage\r\n*1\r\n:1\r\n$1\r\nx\r\n")
@example(rubbish=b">3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n$20\r\nm a 1 redis..svc 6379\r\n")
def test_whatever_is_answered_nothing_of_ours_ends(
    make: Callable[[int], Deployment], pubsub: str, rubbish: bytes
) -> None:
    quick = {
        "wsd.redis.link.BACKOFF_MAX": 0.001,
        "wsd.redis.cluster.BACKOFF_MAX": 0.001,
        "wsd.redis.cluster.REFRESH_INTERVAL": 0.01,
        "wsd.redis.guides.REFRESH_INTERVAL": 0.01,
        "wsd.redis.sentinel.BACKOFF_MAX": 0.001,
        "wsd.redis.sentinel.MIN_PATIENCE": 0.05,
        "wsd.redis.link.MIN_CONNECT_TIMEOUT": 0.05,
        "wsd.redis.vitals.AUDIT_INTERVAL": 0.0,
    }
    patches = [patch(name, seconds) for name, seconds in quick.items()]
    for each in patches:
        each.start()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(survive(make, pubsub, rubbish))
    finally:
        for each in patches:
            each.stop()


# Step by step.


def read(reply: bytes) -> Any:
    reader = hiredis.Reader()
    reader.feed(reply)
    return reader.gets()


@settings(max_examples=300, deadline=None)
@given(anything, anything, anything)
def test_a_topology_is_read_or_refused(slots: bytes, info: bytes, nodes: bytes) -> None:
    read_replies = []
    for reply in (slots, info, nodes):
        try:
            read_replies.append(read(reply))
        except (hiredis.HiredisError, ValueError, TypeError, MemoryError):
            return  # the wire refuses it
    with suppress(LinkError):
        found = _parse(read_replies[0], read_replies[1], read_replies[2], Address("here", 1))
        assert all(0 <= claim.first <= claim.last < SLOTS for claim in found.claims)
        for host, port in [*found.replicas, *(claim.master for claim in found.claims if claim.master)]:
            host.encode("idna")
            assert 1 <= port <= 65535


NO_PORTS: list[object] = [0, -1, 65536, 70000, 1.0, True, None, b"", b"x", b"6379.0", b"-1", "\u00bd".encode(), "6379"]
NO_PORTS += [b"9" * 5000, [6379], {}, 10**30]
NO_HOSTS: list[object] = [b"redis..svc", b"\xff", b"", None, 7, [b"h"], b"a" * 64, b"h\r\n", b"h\x00", b"?", b"a b"]
NO_HOSTS += [b"[::1]", b"::zz", b"1.2.3.4:5", b"x" * 1_000_000]


@pytest.mark.parametrize(("host", "port"), [*((b"h", port) for port in NO_PORTS), *((host, 6379) for host in NO_HOSTS)])
def test_a_place_where_no_server_can_be_is_refused(host: object, port: object) -> None:
    with pytest.raises(LinkError, match=r"it announces a server at host .*, which can't be") as caught:
        told_place(host, port)
    assert len(str(caught.value)) < 700
    assert str(caught.value).isprintable()


def test_places_are_read() -> None:
    assert told_place(b"redis-1.example", b"6379") == ("redis-1.example", 6379)
    assert told_place(b"::1", 65535) == ("::1", 65535)
    assert [told_number(value) for value in (b"0", b"007", 5, b"\xb2", True, -1)] == [0, 7, 5, None, None, None]


def view(*node: object, nodes: bytes = b"") -> Any:
    return _parse([[0, SLOTS - 1, list(node)]], b"cluster_state:ok", nodes, Address("asked", 1))


@pytest.mark.parametrize(
    ("node", "master"),
    [
        ([b"", 7, b"id", []], ("asked", 7)),
        ([None, 7, b"id", []], ("asked", 7)),
        ([b"?", 7, b"id", [b"ip", b"10.0.0.1"]], ("10.0.0.1", 7)),
        ([b"?", 7, b"id", {b"ip": b"10.0.0.1"}], ("10.0.0.1", 7)),
        ([b"n.example", 7, b"id", {b"ip": b"10.0.0.1"}], ("n.example", 7)),
        ([b"10.0.0.1", 7], ("10.0.0.1", 7)),
    ],
)
def test_where_a_node_is(node: list[object], master: tuple[str, int]) -> None:
    found = view(*node)
    assert {claim.master for claim in found.claims} == {master}
    assert found.problem == ""


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        ([b"?", 7, b"id", []], "without a host name or an address; set cluster-announce-hostname"),
        ([b"?", 7], "without a host name or an address"),
        ([b"?", 7, b"id", {b"ip": None}], "without a host name or an address"),
        ([b"redis..svc", 7, b"id"], "host 'redis..svc', which can't be"),
        ([b"h", 0, b"id"], "port '0', which can't be"),
        ([b"h"], "says not where it is"),
    ],
)
def test_a_node_that_can_t_be_reached_is_left_out_and_said(node: list[object], problem: str) -> None:
    found = view(*node)
    assert {claim.master for claim in found.claims} == {None}
    assert problem in found.problem


@pytest.mark.parametrize(
    "slots",
    [
        [[0, 2**62, [b"h", 1]]],
        [[-1, 5, [b"h", 1]]],
        [[5, 4, [b"h", 1]]],
        [[0, SLOTS, [b"h", 1]]],
        [[0, 10_000, [b"h", 1]], [5000, SLOTS - 1, [b"h", 2]]],
        [[0, SLOTS - 1, [b"h", 1]]] * 1000,
        [[True, 1, [b"h", 1]]],
        [[0, 1]],
        [b"xxx"],
        {},
        None,
    ],
)
def test_slots_that_can_t_be_are_refused(slots: Any) -> None:
    with pytest.raises(LinkError, match="it answered CLUSTER SLOTS with"):
        _parse(slots, b"cluster_state:ok", b"", Address("asked", 1))


async def test_a_reply_without_an_end_is_given_up() -> None:
    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            writer.write(b"*1000000\r\n$2000000000\r\n")
            while True:
                writer.write(b"x" * 400_000)
                await writer.drain()
        writer.transport.abort()

    async with await asyncio.start_server(pour, "127.0.0.1") as server:
        made: list[Wire] = []

        def make_wire() -> Wire:
            made.append(Wire(CLASSIC, lambda *args: None, lambda *args: None))
            return made[-1]

        port = server.sockets[0].getsockname()[1]
        await asyncio.get_running_loop().create_connection(make_wire, "127.0.0.1", port)
        assert await made[0].closed == f"Redis sent more than {REPLY_MOST} bytes that belong to one reply"


def test_what_is_shown_of_a_reply_is_bounded_and_plain() -> None:
    for reply in ([[b"x" * 1000] * 1000] * 1000, b"\x1b" * 10_000_000, {b"k" * 999: [1]}, math.inf, None, "x" * 999):
        shown = public(reply)
        assert len(shown) <= 1000 and shown.isprintable()


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (bulk("redis..svc", 6379), "announces a server at host 'redis..svc', which can't be"),
        (bulk("127.0.0.1", 70_000), "port '70000', which can't be"),
        (bulk("127.0.0.1", "x"), "no Sentinel says where m is: 127.0.0.1:"),
        (bulk(b"\xff", 6379), "which can't be; allowed: UTF-8"),
    ],
)
async def test_wsd_publish_refuses_a_place_that_can_t_be(
    told: bytes, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    liar = Liar(b"")
    await liar.listen()
    liar.right["GET-MASTER-ADDR-BY-NAME"] = told
    liar.connections = 1000  # no step of it is rubbish
    monkeypatch.setenv("WSD_REDIS_URL", f"redis+sentinel://127.0.0.1:{liar.port}/m")
    assert await asyncio.to_thread(main, ["publish", "topic", "x"]) == 1
    await liar.close()
    assert words in capsys.readouterr().err
