"""A model of a Redis Cluster: nodes that own slots, gossip, fail over, and hand slots to each other.

Each node knows for itself who owns which slots, who follows whom, which config epoch each master has, and who has
failed. A node tells only of itself: its slots, its epoch, its master; another adopts slots from who has a newer epoch,
and tells who claims old ones better. So two nodes may claim a slot for a while, and both serve it.

Slots are kept as stretches, and what CLUSTER says is encoded once, because there are 16,384 of them.

https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from random import Random
from typing import NamedTuple

from tests.simulation.loop import SimulatedLoop
from tests.simulation.network import Network
from tests.simulation.redis import COMMANDS, Client, Command, Commands, Server
from tests.simulation.resp import Error, Push, Verbatim, encode
from wsd.redis.slots import SLOTS, key_slot

__all__ = ["Cluster", "Node"]

GOSSIP = 0.5
"""Seconds between two times that a node looks at the others, and tells some of them what they don't know yet."""

TELLS = 0.4
"""How likely it tells another node, each time."""

NODE_TIMEOUT = 3.0
"""Seconds without an answer after which a node is down to another."""

WRITABLE_DELAY = 2.0
"""Seconds for which a master that has just started says that the cluster is down."""

FAILOVER_DELAY = (0.5, 1.0)
"""Seconds that a replica waits before it asks for votes, at least and at most."""

REJOIN = (0.5, 5.0)
"""Bounds of the seconds that a master goes on saying that the cluster is down, after it was in the minority."""

TELLS_ROLE = 0.1
"""Seconds within which a node that has lost its slots tells whom it follows now. Until then it takes subscriptions, and
who has the slots sends it nothing of them: so does Redis 7.0, for 0.05 to 0.09 s where it was measured."""

MANUAL_PAUSE = 10.0
"""Seconds for which a master lets writes wait at most, during a failover by hand."""

Stretch = tuple[int, int]
"""First and last slot."""


class Slots:
    """Who owns each slot, as stretches that have the same owner."""

    def __init__(self) -> None:
        self._starts = [0]
        self._owners: list[Node | None] = [None]

    def at(self, slot: int) -> Node | None:
        """The owner of a slot."""
        return self._owners[bisect_right(self._starts, slot) - 1]

    def within(self, first: int, last: int) -> Iterator[tuple[int, int, Node | None]]:
        """The stretches from one slot to another, which itself belongs to them, with their owners."""
        index = bisect_right(self._starts, first) - 1
        while index < len(self._starts) and self._starts[index] <= last:
            end = self._starts[index + 1] if index + 1 < len(self._starts) else SLOTS
            yield max(self._starts[index], first), min(end - 1, last), self._owners[index]
            index += 1

    def __iter__(self) -> Iterator[tuple[int, int, Node | None]]:
        return self.within(0, SLOTS - 1)

    def of(self, owner: Node | None) -> tuple[Stretch, ...]:
        """The stretches of an owner; of None: those of nobody."""
        return tuple((first, last) for first, last, theirs in self if theirs is owner)

    def give(self, first: int, last: int, owner: Node | None) -> None:
        """Give a stretch to an owner."""
        parts = [(start, theirs) for start, _, theirs in self.within(0, first - 1)] if first else []
        parts.append((first, owner))
        if last + 1 < SLOTS:
            parts += [(start, theirs) for start, _, theirs in self.within(last + 1, SLOTS - 1)]
        merged = [next(group) for _, group in groupby(parts, key=lambda part: part[1])]
        self._starts = [start for start, _ in merged]
        self._owners = [theirs for _, theirs in merged]


class _Told(NamedTuple):
    """What a node tells of itself."""

    node: Node
    master: Node | None
    epoch: int  # its config epoch
    slots: tuple[Stretch, ...]  # that it claims
    current: int  # the newest epoch that it has heard of


class Node(Server):
    """A node.

    Args:
        loop: the loop.
        network: the network.
        host: where it is.
        port: where it listens.
        cluster: to which it belongs.
    """

    link_patience = NODE_TIMEOUT / 2

    def __init__(self, loop: SimulatedLoop, network: Network, host: str, port: int, cluster: Cluster) -> None:
        super().__init__(loop, network, host, port)
        self.mode = b"cluster"
        self.cluster = cluster
        self.id = b"%040x" % (int(host.replace(".", "")) * 100_000 + port)
        # How it is configured.
        self.pubsub_when_down = True  # whether sharded channels are served while the cluster is down
        # What it knows, and keeps when it is started again.
        self.epoch = 0  # its config epoch, if it is a master
        self.current = 0  # the newest epoch that it has heard of
        self.slots = Slots()
        self._epochs: dict[Node, int] = {}  # config epochs of the others
        self._masters: dict[Node, Node | None] = {}  # whom the others follow
        self.migrating: dict[int, Node] = {}  # slots that are on their way to another node
        self.importing: dict[int, Node] = {}  # slots that are on their way from another node
        # What it sees.
        self.ok = False  # whether the cluster works
        self._down: dict[Node, None] = {}  # who has not answered for NODE_TIMEOUT
        self._failed: dict[Node, float] = {}  # who is down to most masters, and since when
        self._unseen: dict[Node, float] = {}  # who doesn't answer, and since when
        self._heard: dict[Node, _Told] = {}  # what a node has told last
        self._started_at = 0.0
        self._minority_at = -REJOIN[1]  # when it was in the minority last
        self._election_at: float | None = None  # when it asks for votes
        # What is made of it, until something changes.
        self._told: _Told | None = None
        self._size: list[Node] | None = None
        self._encoded: dict[tuple[str, int], bytes] = {}

    def start(self, loading: float = 0.0) -> None:
        """See :meth:`Server.start`."""
        super().start(loading)
        for seen in (self._down, self._failed, self._unseen, self._heard):
            seen.clear()
        self.ok, self._election_at = False, None
        self._started_at = self.now
        self._changed()
        self._look_later()

    def tell(self, other: Server, act: Callable[[], object]) -> None:
        """See :meth:`Server.tell`. To a node that does not answer there is soon no connection any more."""
        since = self._unseen.get(other) if isinstance(other, Node) else None
        if since is None or self.now - since <= self.link_patience:
            super().tell(other, act)

    # What it knows.

    def epoch_of(self, node: Node) -> int:
        """The config epoch of a node, as far as it knows."""
        return self.epoch if node is self else self._epochs.get(node, 0)

    def _master_of(self, node: Node) -> Node | None:
        if node is not self:
            return self._masters.get(node)
        assert self.master is None or isinstance(self.master, Node)
        return self.master

    @property
    def leader(self) -> Node:
        """Its master, or itself."""
        return self._master_of(self) or self

    def followers(self, node: Node) -> list[Node]:
        """The replicas of a node, as far as it knows."""
        return [other for other in self.cluster.nodes if self._master_of(other) is node]

    def voters(self) -> list[Node]:
        """The masters that have slots: who has most of them has the majority."""
        if self._size is None:
            self._size = list(dict.fromkeys(owner for _, _, owner in self.slots if owner is not None))
        return self._size

    def owns(self, slot: int) -> bool:
        """Whether it believes that a slot is its own."""
        return self.slots.at(slot) is self

    def _changed(self) -> None:
        """Something that it knows has changed: make anew what is made of it."""
        self._told = self._size = None
        self._encoded.clear()

    def follow(self, master: Server | None) -> None:
        """See :meth:`Server.follow`."""
        super().follow(master)
        self._changed()

    def told(self) -> _Told:
        """What it tells of itself."""
        if self._told is None:
            slots = self.slots.of(self) if self.master is None else ()
            self._told = _Told(self, self._master_of(self), self.epoch, slots, self.current)
        return self._told

    # What it sees.

    def _look_later(self) -> None:
        self.after(GOSSIP * (0.5 + self.cluster.random.random()), self._look)

    def _look(self) -> None:
        """Look whether the others answer, and tell them what they don't know."""
        self._look_later()
        told, random = self.told(), self.cluster.random
        for other in self.cluster.nodes:
            if other is self:
                continue
            if not self.sees(other):
                self._unseen.setdefault(other, self.now)
                continue
            if other in self._unseen:
                self._seen_again(other)
            if other._heard.get(self) is not told and random.random() < TELLS:
                self.tell(other, partial(other.hear, told))
        if self._unseen:
            self._find_failed()
        if self._failed or not self.ok:
            self._consider_election()
        if self._failed or self._unseen or not self.ok:
            self.judge()

    def _seen_again(self, other: Node) -> None:
        del self._unseen[other]
        if other in self._down:
            del self._down[other]
            self._changed()
        self._forgive(other)

    def _forgive(self, other: Node) -> None:
        """A node that has failed is there again: a master must have been away for a while, so that it was replaced."""
        since = self._failed.get(other)
        if since is not None and (other not in self.voters() or self.now - since > 2 * NODE_TIMEOUT):
            del self._failed[other]
            self._changed()

    def _find_failed(self) -> None:
        for other, since in self._unseen.items():
            if self.now - since < NODE_TIMEOUT:
                continue
            if other not in self._down:
                self._down[other] = None
                self._changed()
            reports = [voter for voter in self.voters() if voter is self or (self.sees(voter) and other in voter._down)]
            if other not in self._failed and len(reports) * 2 > len(self.voters()):
                self.learn_failed(other)
                for each in self.cluster.nodes:
                    if each not in (self, other):
                        self.tell(each, partial(each.learn_failed, other))

    def learn_failed(self, node: Node) -> None:
        """Most masters don't see a node."""
        if node is not self and node not in self._failed:
            self._failed[node] = self.now
            self._changed()
            self.judge()

    def judge(self) -> None:
        """Find out whether the cluster works, as far as it sees."""
        for other in [other for other in self._failed if other not in self._unseen]:
            self._forgive(other)
        voters = self.voters()
        ok = all(owner is not None and owner not in self._failed for _, _, owner in self.slots)
        seen = [voter for voter in voters if voter not in self._down and voter not in self._failed]
        if len(seen) * 2 <= len(voters):
            ok = False
            self._minority_at = self.now
        if ok and not self.ok and self.master is None:
            rejoin = min(max(NODE_TIMEOUT, REJOIN[0]), REJOIN[1])
            if self.now - self._started_at < WRITABLE_DELAY or self.now - self._minority_at < rejoin:
                return
        if ok is not self.ok:
            self.ok = ok
            self._changed()

    # What it hears.

    def hear(self, told: _Told) -> None:
        """Another node tells of itself."""
        sender = told.node
        if self._heard.get(sender) is told:
            return
        self._heard[sender] = told
        self.current = max(self.current, told.current, told.epoch)
        if self._masters.get(sender) is not told.master:
            self._masters[sender] = told.master
            self._changed()
        if told.master is not None:
            self._forgive(sender)
            return
        self._learn_epoch(sender, told.epoch)
        if told.epoch == self.epoch and self.master is None and sender.id > self.id:
            # Two have chosen the same epoch: the one with the smaller id takes another.
            self._take_epoch()
        self._adopt(sender, told.epoch, told.slots)
        for first, last in told.slots:
            for _, _, owner in self.slots.within(first, last):
                if owner is not None and owner is not sender and self.epoch_of(owner) > told.epoch:
                    self._correct(sender, owner)
                    return

    def _learn_epoch(self, node: Node, epoch: int) -> None:
        if epoch > self._epochs.get(node, 0):
            self._epochs[node] = epoch
            self._changed()

    def _correct(self, other: Node, owner: Node) -> None:
        """Tell a node who has slots that it claims."""
        update = _Told(owner, None, self.epoch_of(owner), self.slots.of(owner), self.current)
        self.tell(other, partial(other.hear_update, update))
        self._heard.pop(other, None)  # what it says next may be the same

    def hear_update(self, told: _Told) -> None:
        """Another node tells who has slots that this one claims."""
        if told.node is self or self._epochs.get(told.node, 0) >= told.epoch:
            return
        self._masters[told.node] = None
        self.current = max(self.current, told.current)
        self._learn_epoch(told.node, told.epoch)
        self._adopt(told.node, told.epoch, told.slots)

    def _adopt(self, sender: Node, epoch: int, claimed: Iterable[Stretch]) -> None:
        """Believe that slots are a node's if its epoch is newer than that of who had them."""
        leader, taken = self.leader, []
        for first, last in claimed:
            for start, end, owner in list(self.slots.within(first, last)):
                if owner is sender or (owner is not None and self.epoch_of(owner) >= epoch):
                    continue
                for one, other in _without(start, end, self.importing):
                    taken.append((one, other, owner))
                    self.slots.give(one, other, sender)
        if not taken:
            return
        self._changed()
        self._lose([(first, last) for first, last, owner in taken if owner is leader])
        if any(owner is leader for _, _, owner in taken) and not self.slots.of(leader):
            self._yield_to(sender)
        self.judge()

    def _yield_to(self, other: Node) -> None:
        """A master without slots, and its replicas, follow who has taken the last one."""
        self.follow(other)
        self.unpause()
        self.after(TELLS_ROLE * self.cluster.random.random(), self._tell_all)

    def _lose(self, lost: Iterable[Stretch]) -> None:
        """Take away what is subscribed in slots that this node serves no more."""
        slots = {channel: key_slot(channel) for channel in self.shards}
        for first, last in lost:
            gone = [channel for channel, slot in slots.items() if first <= slot <= last]
            for channel in sorted(gone, key=lambda channel: (slots[channel], channel)):
                for client in list(self.shards[channel]):
                    self._unsubscribe(client, channel, self.shards, client.shards)
                    push = Push([b"sunsubscribe", channel, len(client.shards)])
                    client.push(push, encode(push))

    # Failovers, and slots that move.

    def _take_epoch(self) -> None:
        self.current += 1
        self.epoch = self.current
        self._changed()

    def _tell_all(self) -> None:
        for other in self.cluster.nodes:
            if other is not self:
                self.tell(other, partial(other.hear, self.told()))

    def _consider_election(self) -> None:
        """A replica whose master has failed asks for votes."""
        if self.master is None or self.leader not in self._failed:
            self._election_at = None
        elif self._election_at is None:
            least, most = FAILOVER_DELAY
            self._election_at = self.now + least + (most - least) * self.cluster.random.random()
        elif self.now >= self._election_at:
            self._election_at = None
            self.elect(forced=False)

    def elect(self, forced: bool) -> bool:
        """Take the slots of its master, if most masters agree; return whether they do.

        Args:
            forced: whether they agree although the master has not failed.
        """
        leader = self.leader
        votes = [
            voter
            for voter in self.voters()
            if self.sees(voter)
            and (forced or leader in voter._failed)
            and voter.epoch_of(leader) <= self.epoch_of(leader)
        ]
        if len(votes) * 2 <= len(self.voters()):
            return False
        # Who votes tells the newest epoch that he knows, and hears of the new one.
        self.current = 1 + max(node.current for node in (self, *votes))
        for voter in votes:
            voter.current = self.current
        self.take_over()
        return True

    def take_over(self) -> None:
        """Take the slots of its master, whoever agrees."""
        leader = self.leader
        self.follow(None)
        self.epoch = self.current
        for first, last in self.slots.of(leader):
            self.slots.give(first, last, self)
        self._changed()
        self._tell_all()
        self.judge()

    def import_slots(self, stretch: Stretch) -> None:
        """Own slots from now on, and tell the others."""
        for slot in [slot for slot in self.importing if stretch[0] <= slot <= stretch[1]]:
            del self.importing[slot]
        self.slots.give(*stretch, self)
        if self.epoch == 0 or self.epoch != max(map(self.epoch_of, self.cluster.nodes)):
            self._take_epoch()
        self._changed()
        self._tell_all()
        self.judge()

    def assign(self, slot: int, owner: Node) -> None:
        """Know that a slot is a node's from now on (CLUSTER SETSLOT NODE)."""
        if owner is self:
            if slot in self.importing:
                self.import_slots((slot, slot))
            return
        was = self.slots.at(slot)
        self.migrating.pop(slot, None)
        self.importing.pop(slot, None)
        self.slots.give(slot, slot, owner)
        self._changed()
        if was is self:
            self._lose([(slot, slot)])
            if not self.slots.of(self):
                self._yield_to(owner)

    # Commands.

    def check_slot(self, client: Client, name: str, command: Command, keys: Sequence[bytes]) -> None:
        """See :meth:`Server.check_slot`. Of a sharded channel nobody knows whether it has moved already.

        Raises:
            Error: MOVED, ASK, TRYAGAIN, CROSSSLOT or CLUSTERDOWN.
        """
        slot = key_slot(keys[0])
        owner = self.slots.at(slot)
        if owner is None:
            raise Error("CLUSTERDOWN Hash slot not served")
        if any(key_slot(key) != slot for key in keys):
            raise Error("CROSSSLOT Keys in request don't hash to the same slot")
        sharded = name in ("SSUBSCRIBE", "SUNSUBSCRIBE", "SPUBLISH")
        if not self.ok and not (sharded and self.pubsub_when_down):
            raise Error("CLUSTERDOWN The cluster is down")
        missing = 0 if sharded else sum(key not in self.data for key in keys)
        if owner is self and slot in self.migrating and missing:
            if missing < len(keys):
                raise Error("TRYAGAIN Multiple keys request during rehashing of slot")
            target = self.migrating[slot]
            raise Error(f"ASK {slot} {target.host}:{target.port}")
        if slot in self.importing and client.asking:
            if len(dict.fromkeys(keys)) > 1 and missing:
                raise Error("TRYAGAIN Multiple keys request during rehashing of slot")
            return
        if owner is not self and not (sharded and self.master is owner):
            raise Error(f"MOVED {slot} {owner.host}:{owner.port}")

    def ask(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/asking/"""
        client.asking = True
        client.send("OK")

    def tell_slots(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/cluster-slots/"""
        key = ("SLOTS", client.protocol)
        if key not in self._encoded:
            self._encoded[key] = encode(self._list_slots(), client.protocol)
        client.write(self._encoded[key])

    def _list_slots(self) -> list[object]:
        places = {
            owner: [
                [node.host.encode(), node.port, node.id, {}]
                for node in (owner, *(node for node in self.followers(owner) if node not in self._failed))
            ]
            for owner in self.voters()
        }
        return [[first, last, *places[owner]] for first, last, owner in self.slots if owner is not None]

    def tell_cluster_info(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/cluster-info/"""
        counted = [(last + 1 - first, owner) for first, last, owner in self.slots if owner is not None]
        failed = sum(count for count, owner in counted if owner in self._failed)
        down = sum(count for count, owner in counted if owner in self._down and owner not in self._failed)
        assigned = sum(count for count, _ in counted)
        fields = {
            "cluster_state": "ok" if self.ok else "fail",
            "cluster_slots_assigned": assigned,
            "cluster_slots_ok": assigned - failed - down,
            "cluster_slots_pfail": down,
            "cluster_slots_fail": failed,
            "cluster_known_nodes": len(self.cluster.nodes),
            "cluster_size": len(self.voters()),
            "cluster_current_epoch": self.current,
            "cluster_my_epoch": self.epoch_of(self.leader),
        }
        client.send(Verbatim("".join(f"{name}:{value}\r\n" for name, value in fields.items()).encode()))

    def tell_nodes(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/cluster-nodes/"""
        key = ("NODES", client.protocol)
        if key not in self._encoded:
            lines = b"".join(b"%s\n" % b" ".join(self._list_node(node)) for node in self.cluster.nodes)
            self._encoded[key] = encode(Verbatim(lines), client.protocol)
        client.write(self._encoded[key])

    def _list_node(self, node: Node) -> list[bytes]:
        master = self._master_of(node)
        flags = [b"myself"] if node is self else []
        flags.append(b"master" if master is None else b"slave")
        if node in self._failed:
            flags.append(b"fail")
        elif node in self._down:
            flags.append(b"fail?")
        slots = [b"%d" % first if first == last else b"%d-%d" % (first, last) for first, last in self.slots.of(node)]
        if node is self:
            slots += [b"[%d->-%s]" % (slot, other.id) for slot, other in self.migrating.items()]
            slots += [b"[%d-<-%s]" % (slot, other.id) for slot, other in self.importing.items()]
        return [
            node.id,
            b"%s:%d@%d" % (node.host.encode(), node.port, node.port + 10_000),
            b",".join(flags),
            b"-" if master is None else master.id,
            b"0",
            b"0",
            b"%d" % self.epoch_of(master or node),
            b"disconnected" if node in self._down else b"connected",
            *slots,
        ]

    def set_slot(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/cluster-setslot/"""
        if self.master is not None:
            raise Error("ERR Please use SETSLOT only with masters.")
        slot, action = int(words[0]), words[1].upper()
        if action == b"STABLE":
            self.migrating.pop(slot, None)
            self.importing.pop(slot, None)
        else:
            other = next((node for node in self.cluster.nodes if node.id == words[2]), None)
            if other is None:
                known = "Unknown node" if action == b"NODE" else "I don't know about node"
                raise Error(f"ERR {known} {words[2].decode()}")
            if action == b"NODE":
                self.assign(slot, other)
            elif action == b"MIGRATING" and not self.owns(slot):
                raise Error(f"ERR I'm not the owner of hash slot {slot}")
            elif action == b"IMPORTING" and self.owns(slot):
                raise Error(f"ERR I'm already the owner of hash slot {slot}")
            else:
                (self.migrating if action == b"MIGRATING" else self.importing)[slot] = other
        self._changed()
        client.send("OK")

    def begin_failover(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/cluster-failover/"""
        if self.master is None:
            raise Error("ERR You should send CLUSTER FAILOVER to a replica")
        if not words and (self.leader in self._failed or not self.hears_master()):
            raise Error("ERR Master is down or failed, please use CLUSTER FAILOVER FORCE")
        client.send("OK")
        if words and words[0].upper() == b"TAKEOVER":
            self._take_epoch()
            self.take_over()
        elif words:
            self.elect(forced=True)
        else:
            self.fail_over()

    def fail_over(self) -> None:
        """Take over with the consent of its master, which lets writes wait meanwhile."""
        leader = self.leader
        self.tell(leader, partial(leader.pause, MANUAL_PAUSE))
        leader.tell(self, partial(self.elect, forced=True))

    # Pub/Sub.

    def execute_publish(self, channel: bytes, payload: bytes) -> int:
        """Publish on a channel, at all nodes that can be reached."""
        for other in self.cluster.nodes:
            if other is not self:
                self.tell(other, partial(other.deliver, channel, payload))
        return self.deliver(channel, payload)

    def execute_spublish(self, channel: bytes, payload: bytes) -> int:
        """Publish on a sharded channel, at the nodes of this shard; return how many have got it here.

        Raises:
            Error: if its slot is not ours.
        """
        owner = self.slots.at(key_slot(channel))
        if owner is None or owner is not self.leader:
            raise Error(f"MOVED {key_slot(channel)}")
        leader = self.leader
        for other in (leader, *self.followers(leader)):
            if other is not self:
                self.tell(other, partial(other.hear_shard, leader, channel, payload))
        return self.deliver_shard(channel, payload)

    def hear_shard(self, leader: Node, channel: bytes, payload: bytes) -> None:
        """Deliver what was published at another node of the same shard, which had this master then.

        Redis would also deliver what comes late, to those who have subscribed at the new master meanwhile and may have
        had it from the former one. Nobody could tell that from a message that was published twice.
        """
        if self.leader is leader:
            self.deliver_shard(channel, payload)

    commands: Commands = COMMANDS | {
        "ASKING": Command(ask, 1, loading=False),
        "CLUSTER|SLOTS": Command(tell_slots, 2, loading=False),
        "CLUSTER|INFO": Command(tell_cluster_info, 2, loading=False),
        "CLUSTER|NODES": Command(tell_nodes, 2, loading=False),
        "CLUSTER|FAILOVER": Command(begin_failover, -2, loading=False),
        "CLUSTER|SETSLOT": Command(set_slot, -4, loading=False),
    }


def _without(first: int, last: int, left_out: Iterable[int]) -> Iterator[Stretch]:
    """A stretch without some of its slots."""
    for slot in sorted(slot for slot in left_out if first <= slot <= last):
        if first < slot:
            yield first, slot - 1
        first = slot + 1
    if first <= last:
        yield first, last


class Cluster:
    """Masters with a replica each.

    Args:
        random: of what happens by chance.
    """

    def __init__(self, random: Random) -> None:
        self.random = random
        self.nodes: list[Node] = []

    def form(self, masters: int) -> None:
        """Let the first nodes share the slots, and the others follow them."""
        bounds = [round(SLOTS * number / masters - 1) + 1 for number in range(masters + 1)]  # as redis-cli does
        for number, node in enumerate(self.nodes):
            if number < masters:
                node.epoch = number + 1
            else:
                node.follow(self.nodes[number % masters])
        for node in self.nodes:
            node.current = len(self.nodes)
            for number, owner in enumerate(self.nodes[:masters]):
                node.slots.give(bounds[number], bounds[number + 1] - 1, owner)
            for other in self.nodes:
                if other is not node:
                    node._epochs[other] = other.epoch
                    node._masters[other] = other._master_of(other)

    def owner(self, channel: bytes) -> Node | None:
        """The node at which a channel is published: of those that claim its slot the one with the newest epoch.

        Others may believe that it is another one's, which would say MOVED.
        """
        return max(self.claimants(channel), key=lambda node: node.epoch, default=None)

    def claimants(self, channel: bytes) -> list[Node]:
        """The masters that take a channel's slot for their own."""
        slot = key_slot(channel)
        return [node for node in self.nodes if node.master is None and node.owns(slot)]

    # What an operator does, and what goes wrong.

    def fix(self) -> None:
        """Give slots that no node takes for its own to one of them, as ``redis-cli --cluster fix`` does.

        Before Redis 7.2, a node that has not heard of a slot's move may talk its new owner out of it, for good.
        """
        masters = [node for node in self.nodes if node.works and node.master is None]
        orphans = Slots()
        for node in masters:
            for first, last in node.slots.of(node):
                orphans.give(first, last, node)
        for first, last in orphans.of(None):
            masters[0].import_slots((first, last))

    def fail_over(self, replica: Node) -> None:
        """Let a replica take the slots of its master: with its consent if it answers, else with that of the others."""
        if replica.master is None:
            return
        if replica.hears_master():
            replica.fail_over()
        else:
            replica.elect(forced=True)

    def migrate(self, slots: Sequence[int], to: Node) -> None:
        """Begin to move slots to another master: keys that are not there any more are asked for at the new one."""
        for slot in slots:
            owner = to.slots.at(slot)
            if owner is not None and owner is not to:
                owner.migrating[slot], to.importing[slot] = to, owner
                owner._changed()
        to._changed()

    def move_slots(self, slots: Sequence[int], to: Node) -> None:
        """Give slots in a row to another master; the former owner and the others learn of it a moment later."""
        for slot in slots:
            for node in self.nodes:
                node.migrating.pop(slot, None)
                node.importing.pop(slot, None)
        if to.master is None and len(slots):
            to.import_slots((slots[0], slots[-1]))

    def isolate(self, *nodes: Node) -> None:
        """Cut nodes off from the others, and not from their clients. See :meth:`join`."""
        for one, other in self._ways(nodes):
            one._network.cut(one.host, other.host)
            one._network.cut(other.host, one.host)

    def join(self, *nodes: Node) -> None:
        """Connect nodes with the others again."""
        for one, other in self._ways(nodes):
            one._network.mend(one.host, other.host)
            one._network.mend(other.host, one.host)

    def _ways(self, nodes: Sequence[Node]) -> Iterator[tuple[Node, Node]]:
        return ((one, other) for one in nodes for other in self.nodes if other not in nodes)
