"""A model of Sentinels: they watch a master, elect another when it is away, and tell each other and their clients.

Each believes what it has heard last. One leads a failover. As soon as the chosen replica is a master, the leader names
it to who asks for the address; the other Sentinels learn it from the leader, and tell of the switch at once; the leader
itself tells of it only when the other replicas follow the new master. A former master goes on as a master until the
Sentinels have seen it in the wrong role for some seconds.

https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tests.simulation.loop import SimulatedLoop
from tests.simulation.network import Network
from tests.simulation.redis import COMMANDS, Client, Command, Commands, Server
from tests.simulation.resp import NO_ARRAY, Error

__all__ = ["Sentinel", "Sentinels"]

PERIOD = 1.0
"""Seconds between two looks of a Sentinel at the servers."""

HELLO = 2.0
"""Seconds between two times that it tells the others what it knows."""

DOWN_AFTER = 3.0
"""Seconds without an answer after which a server is down to a Sentinel."""

WRONG_FOR = 8.0
"""Seconds for which a server must have had the wrong role or master until a Sentinel sets it right: 4 times HELLO."""

REPORTS = 20.0
"""Seconds, beyond DOWN_AFTER, for which the master may report that it is a replica: twice the period of INFO."""

RECONFIGURE = 10.0
"""Seconds at most that a failover waits for replicas to follow the new master."""


class Sentinel(Server):
    """A Sentinel.

    Args:
        loop: the loop.
        network: the network.
        host: where it is.
        team: the Sentinels it belongs to.
    """

    def __init__(self, loop: SimulatedLoop, network: Network, host: str, team: Sentinels) -> None:
        super().__init__(loop, network, host, 26379)
        self.mode = b"sentinel"
        self.team = team
        self.believes = team.servers[0]
        self.epoch = 0  # the config epoch: of the election that made the master
        self._current = 0  # the newest election that it has heard of
        self._chosen: Server | None = None  # of the failover that it leads: who is to be the master
        self._promoted: Server | None = None  # the same when it is the master
        self._deadline = 0.0  # when that failover is over, whether all replicas follow or not
        self._said_at = 0.0  # when it told the others last
        self._down_since: dict[Server, float] = {}
        self._wrong_since: dict[Server, float] = {}

    def start(self, loading: float = 0.0) -> None:
        """See :meth:`Server.start`."""
        super().start(loading)
        self._down_since.clear()
        self._wrong_since.clear()
        self.believes = self.address  # its configuration names the new master as soon as there is one
        self._chosen = self._promoted = None
        self._said_at = self.now
        self._look_later()

    @property
    def address(self) -> Server:
        """The master that it names: in a failover of its own already the new one."""
        return self._promoted or self.believes

    def is_down(self, server: Server) -> bool:
        """Whether a server is down, as far as it sees."""
        since = self._down_since.get(server)
        return since is not None and self.now - since >= DOWN_AFTER

    def _look_later(self) -> None:
        self.after(PERIOD * (0.5 + self._network.random.random()), self._look)

    def _look(self) -> None:
        self._look_later()
        for server in self.team.servers:
            if self.sees(server) and server is self.believes and server.master is not None:
                # A master that says that it is a replica is down, after a while (sentinelCheckSubjectivelyDown).
                self._down_since.setdefault(server, self.now + REPORTS)
            elif self.sees(server):
                self._down_since.pop(server, None)
            else:
                self._down_since.setdefault(server, self.now)
        if self.now - self._said_at >= HELLO:
            self._say()
        if self._chosen is not None:
            self._go_on_failing_over(self._chosen)
        else:
            self._set_right()
            self.team.consider(self)

    def _say(self) -> None:
        self._said_at = self.now
        for other in self.team.sentinels:
            if other is not self:
                self.tell(other, partial(other.learn, self.address, self.epoch))

    def learn(self, master: Server, epoch: int) -> None:
        """Another Sentinel tells who the master is."""
        self._current = max(self._current, epoch)
        if epoch > self.epoch:
            self._chosen = self._promoted = None
            self.epoch = epoch
            if master is not self.believes:
                self._switch(master)

    def _switch(self, master: Server) -> None:
        """Believe in another master, and tell the clients."""
        old, self.believes = self.believes, master
        self._wrong_since.clear()
        words = f"{self.team.name} {old.host} {old.port} {master.host} {master.port}"
        self.deliver(b"+switch-master", words.encode())

    # Failovers.

    def lead(self) -> bool:
        """Begin a failover; return whether there is a replica for it, or a server that should be one."""
        seen = [server for server in self.team.servers if self.sees(server) and not server.loading]
        fit = [server for server in seen if server.master is self.believes]
        fit = fit or [server for server in seen if server.master is None and server is not self.believes]
        if not fit:
            return False
        # No two elections have the same number: who votes tells what he knows.
        self._current = 1 + max(sentinel._current for sentinel in self.team.sentinels)
        chosen = self._chosen = fit[int(self._network.random.random() * len(fit))]
        self._deadline = self.now + RECONFIGURE

        def obey() -> None:
            chosen.follow(None)
            chosen.drop_clients()

        self.tell(chosen, obey)
        return True

    def votes_for(self, other: Sentinel) -> bool:
        """Whether it lets another lead a failover."""
        return self._chosen is None and self.epoch <= other.epoch

    def _go_on_failing_over(self, chosen: Server) -> None:
        if self._promoted is None:
            if self.sees(chosen) and chosen.master is None:
                self._promoted = chosen
                self.epoch = self._current
                self._say()
                self._let_follow(chosen)
            elif self.now >= self._deadline:
                self._chosen = None
            return
        others = [server for server in self._replicas(chosen) if self.sees(server)]
        if self.now >= self._deadline or all(server.master is chosen and server.hears_master() for server in others):
            self._chosen = self._promoted = None
            self._switch(chosen)

    def _replicas(self, chosen: Server) -> list[Server]:
        """The replicas of the former master."""
        return [server for server in self.team.servers if server not in (chosen, self.believes)]

    def _let_follow(self, master: Server) -> None:
        for server in self._replicas(master):
            self._order(server, master)

    def _order(self, server: Server, master: Server) -> None:
        """Tell a server to be a replica."""

        def obey() -> None:
            server.follow(master)
            server.drop_clients()

        self.tell(server, obey)

    def _set_right(self) -> None:
        """Tell servers that have followed the wrong master for a while."""
        for server in self.team.servers:
            if server is self.believes or server.master is self.believes or not self.sees(server):
                self._wrong_since.pop(server, None)
            elif self.now - self._wrong_since.setdefault(server, self.now) >= WRONG_FOR and self._master_is_sane():
                del self._wrong_since[server]
                self._order(server, self.believes)

    def _master_is_sane(self) -> bool:
        return self.believes.master is None and self.believes not in self._down_since

    # Commands.

    def _master(self, words: Sequence[bytes]) -> Server:
        """The master that is asked for.

        Raises:
            Error: if it has another name.
        """
        if words[0] != self.team.name.encode():
            raise Error("ERR No such master with that name")
        return self.believes

    def tell_address(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/#sentinel-api"""
        known = words[0] == self.team.name.encode()
        client.send([self.address.host.encode(), b"%d" % self.address.port] if known else NO_ARRAY)

    def tell_master(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/#sentinel-api"""
        master = self._master(words)
        flags = b"master"
        if self.is_down(master):
            flags += b",s_down"
        if self._chosen is not None:
            flags += b",failover_in_progress"
        client.send(
            {
                b"name": self.team.name.encode(),
                b"ip": master.host.encode(),
                b"port": b"%d" % master.port,
                b"runid": master.run_id,
                b"flags": flags,
                b"config-epoch": b"%d" % self.epoch,
                b"num-slaves": b"%d" % (len(self.team.servers) - 1),
                b"num-other-sentinels": b"%d" % (len(self.team.sentinels) - 1),
                b"quorum": b"%d" % (len(self.team.sentinels) // 2 + 1),
            }
        )

    def begin_failover(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/#sentinel-api"""
        self._master(words)
        if self._chosen is not None:
            raise Error("INPROG Failover already in progress")
        if not self.lead():
            raise Error("NOGOODSLAVE No suitable replica to promote")
        client.send("OK")

    def refuse_publish(self, client: Client, words: list[bytes]) -> None:
        """Only Sentinels publish at Sentinels."""
        raise Error("ERR Only HELLO messages are accepted by Sentinel instances.")

    def tell_role(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/role/"""
        client.send([b"sentinel", [self.team.name.encode()]])

    def _tell_hello_role(self) -> dict[bytes, bytes]:
        return {}

    def _tell_info(self) -> dict[bytes, dict[bytes, bytes]]:
        told = super()._tell_info()
        masters = {b"sentinel_masters": b"1"}
        return {section: told[section] for section in (b"Server", b"Clients", b"Stats")} | {b"Sentinel": masters}

    commands: Commands = {name: command for name, command in COMMANDS.items() if command.sentinel} | {
        "PUBLISH": Command(refuse_publish, 3, sentinel=True),
        "ROLE": Command(tell_role, 1, sentinel=True),
        "SENTINEL|GET-MASTER-ADDR-BY-NAME": Command(tell_address, 3, sentinel=True),
        "SENTINEL|MASTER": Command(tell_master, 3, sentinel=True),
        "SENTINEL|FAILOVER": Command(begin_failover, 3, sentinel=True),
    }


class Sentinels:
    """A master, its replicas, and the Sentinels that watch them.

    Args:
        servers: the first is the master.
    """

    name = "mymaster"

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = list(servers)
        self.sentinels: list[Sentinel] = []
        for replica in self.servers[1:]:
            replica.follow(self.servers[0])

    @property
    def master(self) -> Server:
        """The master, as the newest election has it."""
        return max(self.sentinels, key=lambda sentinel: sentinel.epoch).address

    def consider(self, sentinel: Sentinel) -> None:
        """A Sentinel has looked: it leads a failover if most of them can't see the master, and it sees most of them."""
        if not sentinel.is_down(sentinel.believes):
            return
        others = [other for other in self.sentinels if other is not sentinel and sentinel.sees(other)]
        agreed = [other for other in others if other.is_down(sentinel.believes) and other.votes_for(sentinel)]
        if (1 + len(agreed)) * 2 > len(self.sentinels):
            sentinel.lead()

    def fail_over(self, leader: Sentinel) -> bool:
        """Let a Sentinel make a replica the master, although there is one; return whether it can."""
        return leader.votes_for(leader) and leader.lead()
