"""A model of Redis: what wsd uses of it, on a server of the simulated network.

It executes one command after another, as Redis does, and appends what is published to the output of every subscriber in
that order. `tests/simulation/test_models.py` holds it to redis-server 7.0: the same conversations, the same replies.

Redis looks at a command in this order, and so does :meth:`Server.execute`: does it exist, has it as many words as it
may have, has the client logged in, may its user say it and use its channels, is it another node's (on a Cluster),
would it write to a replica, may it be said in RESP2 by a subscriber, does Redis load its data, has it paused writes.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import hiredis

from tests.simulation.loop import PROCESS, Process, SimulatedLoop
from tests.simulation.network import Network
from tests.simulation.resp import Error, Push, Verbatim, encode, text_of
from tests.simulation.users import User

__all__ = ["COMMANDS", "Client", "Command", "Commands", "Error", "Server"]

SYNC = 1.0
"""Seconds until a replica hears a new master."""

MOST_HOPS = 8
"""Servers on the way from a replica to its master. More than there are: they follow each other in a circle."""

RESEND = 0.05
"""Seconds after which a server tries again to send to another what did not get there."""

MEBIBYTE = 1024 * 1024

SELF_LATER = (7, 2)
"""The first version that sends a client what it publishes to itself behind the reply to its PUBLISH."""

COUNTS_OVERRUNS = (7, 4)
"""The first version whose INFO tells how many clients were cut off because of their output buffers."""


class Client(asyncio.Protocol):
    """A connection to a server.

    Args:
        server: the server.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.id = 0
        self.name = b""
        default = server.users[b"default"]
        self.user = default if default.enabled and not default.needs_password else None  # as whom it is logged in
        self.protocol = 2
        self.asking = False  # whether the next command may be about a slot that is being imported
        self.channels: dict[bytes, None] = {}
        self.shards: dict[bytes, None] = {}
        self.forgotten: dict[bytes, float] = {}  # channels whose subscription the server has forgotten, and when
        self.held: deque[list[bytes]] = deque()  # commands that wait until Redis goes on with writes
        self.transport: Any = None
        self._reader = hiredis.Reader()
        self._later: list[bytes] | None = None  # pushes that wait for the reply to a command
        self._over_since: float | None = None  # since when its output passes the soft limit

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It has come."""
        self.transport = transport
        self.server.entered(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self.server.left(self)

    def data_received(self, data: bytes) -> None:
        """Execute what has come whole."""
        self._reader.feed(data)
        while not self.transport.is_closing() and (command := self._reader.gets()) is not False:
            words = [bytes(word) for word in command]
            if self.held:
                self.held.append(words)
            elif words:
                self.execute(words)

    def execute(self, words: list[bytes]) -> None:
        """Execute a command."""
        if self.server.version >= SELF_LATER:
            self._later = []
        self.server.execute(self, words)
        later, self._later = self._later, None
        for push in later or ():
            self.write(push)

    @property
    def subscribed(self) -> bool:
        """Whether it is subscribed to anything: then its output has limits."""
        return bool(self.channels or self.shards)

    def send(self, value: Any) -> None:
        """Append a reply, or what answers a command, to its output."""
        self.write(encode(value, self.protocol))

    def push(self, push: Push, encoded: bytes) -> None:
        """Append a message to its output.

        Args:
            push: the message.
            encoded: the same in RESP3.
        """
        data = encoded if self.protocol == 3 else encode(push, self.protocol)
        if self._later is not None:
            self._later.append(data)
        else:
            self.write(data)

    def write(self, data: bytes) -> None:
        """Append what is encoded to its output."""
        if self.transport is None or self.transport.is_closing():
            return
        self.transport.write(data)
        if self.subscribed:
            self._limit_output()

    def _limit_output(self) -> None:
        """https://redis.io/docs/latest/develop/reference/clients/#output-buffer-limits"""
        hard, soft, seconds = self.server.output_limits
        now, size = self.server.now, self.transport.get_write_buffer_size()
        if size <= soft:
            self._over_since = None
        elif self._over_since is None:
            self._over_since = now
            self.server.after(seconds, self._look_again)
        if size > hard or (self._over_since is not None and now - self._over_since >= seconds):
            self.server.overruns += 1
            self.transport.abort()

    def _look_again(self) -> None:
        """Redis looks at the output also when nothing is added to it."""
        if self._over_since is not None and not self.transport.is_closing():
            self._limit_output()


@dataclass(frozen=True, slots=True)
class Command:
    """A command.

    Args:
        run: executes it.
        arity: how many words it has, its name (and that of what contains it) included; negative: at least so many.
        loading: whether it is executed while Redis loads its data.
        free: whether one may say it who has not logged in, or who has no permission.
        sentinel: whether a Sentinel knows it.
        writes: whether it changes data.
        waits: whether it waits while Redis has paused writes.
        channels: which of its words are channels that the user must be permitted to use.
        keys: which of its words must belong to the slots of a node.
    """

    run: Callable[[Any, Client, list[bytes]], None]
    arity: int
    loading: bool = True
    free: bool = False
    sentinel: bool = False
    writes: bool = False
    waits: bool = False
    channels: slice | None = None
    keys: slice | None = None


Commands: TypeAlias = dict[str, Command]

FIRST, ALL = slice(1, 2), slice(1, None)
"""Words of a command."""

IN_RESP2 = ("PING", "SUBSCRIBE", "UNSUBSCRIBE", "SSUBSCRIBE", "SUNSUBSCRIBE", "QUIT")
"""What a subscriber may say in RESP2."""


class Server:
    """One Redis.

    Args:
        loop: the loop.
        network: the network.
        host: where it is.
        port: where it listens.
    """

    commands: Commands

    link_patience = 60.0
    """Seconds that what is sent to another server may take; a replica is given that long (repl-timeout)."""

    def __init__(self, loop: SimulatedLoop, network: Network, host: str, port: int = 6379) -> None:
        self._loop = loop
        self._network = network
        self.host = host
        self.port = port
        self.process = Process(f"redis {host}:{port}", host)
        self.context = Context()  # in which what happens to it runs
        self.unpaused_at = 0.0  # when it last went on after it had let commands wait
        self.on_command: Callable[[Client, list[bytes]], object] = lambda client, words: None  # has been carried out
        # How it is configured.
        self.version = (7, 0, 15)  # only what follows from it: see SELF_LATER and COUNTS_OVERRUNS
        self.mode = b"standalone"
        self.users = {b"default": User.default()}
        self.output_limits = (32 * MEBIBYTE, 8 * MEBIBYTE, 60.0)  # of subscribers: hard, soft, and for how many seconds
        # How it stands.
        self.loading = False
        self.overruns = 0  # clients that were cut off because of their output
        self.run_id = b""
        self.clients: dict[Client, None] = {}
        self.channels: dict[bytes, dict[Client, None]] = {}
        self.shards: dict[bytes, dict[Client, None]] = {}
        self.data: dict[bytes, bytes] = {}
        self.master: Server | None = None  # of a replica
        self.replicas: dict[Server, None] = {}
        self._paused = (0.0, False)  # until when nothing is executed that waits, and whether that is everything
        self._waiting: dict[Client, None] = {}  # who has said something that waits, in that order
        self._follows_since = 0.0
        self._unsent: dict[Server, deque[tuple[float, Callable[[], object]]]] = {}  # and since when
        self._next: dict[Server, float] = {}  # when what was sent to a server last arrives there
        self._ids = 0
        self._runs = 0
        self.started_at = 0.0

    # Its life.

    def start(self, loading: float = 0.0) -> None:
        """Start it: a new process.

        Args:
            loading: seconds for which it loads its data.
        """
        self._runs += 1
        self.started_at = self.now
        self.run_id = hashlib.sha1(f"{self.host}:{self.port} {self._runs}".encode()).hexdigest().encode()
        self.process = Process(f"redis {self.host}:{self.port}", self.host)
        self.context = Context()
        self.context.run(PROCESS.set, self.process)
        self.clients.clear()
        self._waiting.clear()
        self._unsent.clear()
        self.channels.clear()
        self.shards.clear()
        self.loading, self.overruns, self._ids, self._paused = False, 0, 0, (0.0, False)
        listener = self._network.listen(self.host, self.port)
        self.process.on_death.append(listener.close)

        async def main() -> None:
            await self._loop.create_server(lambda: Client(self), sock=listener)
            await self._loop.create_future()

        self._loop.start(self.process, main)
        if loading:
            self.load(loading)

    def load(self, seconds: float) -> None:
        """Load data for some seconds: most commands are refused meanwhile, but not SUBSCRIBE and PUBLISH."""
        self.loading = True
        self.after(seconds, self._loaded)

    def _loaded(self) -> None:
        self.loading = False

    def kill(self) -> None:
        """End it at once."""
        self._loop.kill(self.process)

    @property
    def place(self) -> tuple[str, int]:
        """Where it listens."""
        return self.host, self.port

    @property
    def works(self) -> bool:
        """Whether it runs."""
        return self.process.alive and not self.process.frozen

    @property
    def now(self) -> float:
        """Seconds since the beginning of the world."""
        return self._loop.now

    def after(self, seconds: float, act: Callable[[], object]) -> None:
        """Do something later, if it lives until then."""
        self._loop.call_later(seconds, act, context=self.context)

    def sees(self, other: Server) -> bool:
        """Whether another server answers it."""
        network = self._network
        return other.works and not network.is_cut(self.host, other.host) and not network.is_cut(other.host, self.host)

    # Replication.

    def follow(self, master: Server | None) -> None:
        """Become a replica of a server, or a master."""
        if self.master is not None:
            self.master.replicas.pop(self, None)
        self.master = master
        self._follows_since = self._loop.now + SYNC
        if master is not None:
            master.replicas[self] = None
            self.after(SYNC, self._copy)

    def _copy(self) -> None:
        if self.master is not None and self.hears_master():
            self.data = dict(self.master.data)

    def hears_master(self) -> bool:
        """Whether a replica's link to its master is up."""
        return self.master is not None and self.sees(self.master) and self.now >= self._follows_since

    def _has_stream(self) -> bool:
        """Whether it is a master, or follows one in the end: replicas in a circle have nothing to send on."""
        server: Server | None = self
        for _ in range(MOST_HOPS):
            assert server is not None
            server = server.master
            if server is None:
                return True
        return False

    def tell(self, other: Server, act: Callable[[], object]) -> None:
        """Let something happen at another server, a moment later, in the order of sending.

        If nothing gets there it is sent again, until the connection is given up.
        """
        if not other.process.alive:
            return
        unsent = self._unsent.setdefault(other, deque())
        unsent.append((self.now, act))
        if len(unsent) == 1:
            self._send_on(other)

    def _send_on(self, other: Server) -> None:
        unsent = self._unsent[other]
        if self._network.is_cut(self.host, other.host):
            while unsent and self.now - unsent[0][0] > self.link_patience:
                unsent.popleft()
            if unsent:
                self.after(RESEND, lambda: self._send_on(other))
            return
        path = self._network.path(self.host, other.host)
        latency = path.latency[0] + (path.latency[1] - path.latency[0]) * self._network.random.random()
        when = self._next[other] = max(self._next.get(other, 0.0), self.now + latency)
        while unsent:
            self._loop.call_at(when, unsent.popleft()[1], context=other.context)

    def _tell_replicas(self, act: Callable[[Any], object]) -> None:
        for replica in self.replicas if self._has_stream() else ():
            if self.now >= replica._follows_since:
                self.tell(replica, partial(self._replicate, replica, act))

    def _replicate(self, replica: Server, act: Callable[[Any], object]) -> None:
        if replica.master is self:  # it may have another one by now, or none
            act(replica)

    # What an operator does.

    def drop_clients(self) -> None:
        """Close the connections of all clients, as a Sentinel lets a server do that it makes a replica or a master."""
        for client in list(self.clients):
            client.transport.abort()

    def set_user(self, name: bytes, *rules: bytes) -> None:
        """Change a user, or make one. Those are cut off who are subscribed to what they may use no more.

        https://redis.io/docs/latest/commands/acl-setuser/

        Raises:
            Error: if a rule is none.
        """
        user = self.users.get(name) or User(name)
        for rule in rules:
            user.apply(rule)
        self.users[name] = user
        for client in list(self.clients):
            if client.user is user and not all(map(user.may_use, (*client.channels, *client.shards))):
                client.transport.abort()

    def forget(self, client: Client, chosen: Callable[[bytes], bool]) -> list[bytes]:
        """Forget subscriptions of a client, and tell nobody; return their channels."""
        forgotten = []
        for table, held in ((self.channels, client.channels), (self.shards, client.shards)):
            for channel in [channel for channel in held if chosen(channel)]:
                self._unsubscribe(client, channel, table, held)
                client.forgotten[channel] = self.now
                forgotten.append(channel)
        return forgotten

    def permit(self, *channels: bytes) -> None:
        """Let clients use channels that match one of these patterns, and no others; without any, none."""
        self.set_user(b"default", b"resetchannels", *(b"&" + pattern for pattern in channels))

    def pause(self, seconds: float, everything: bool = False) -> None:
        """Let what writes or publishes wait, or everything."""
        self._paused = (self.now + seconds, everything)
        self.after(seconds, self._go_on)

    def is_paused(self, *, everything: bool = False) -> bool:
        """Whether what publishes must wait, or everything."""
        until, all_wait = self._paused
        return self.now < until and (all_wait or not everything)

    def unpause(self) -> None:
        """Go on with it."""
        self._paused = (0.0, False)
        self._go_on()

    def _go_on(self) -> None:
        self.unpaused_at = self.now
        waiting, self._waiting = self._waiting, {}
        for client in waiting:
            while client.held and client not in self._waiting:
                client.execute(client.held.popleft())

    def _must_wait(self, words: Sequence[bytes]) -> bool:
        until, everything = self._paused
        if self.now >= until:
            return False
        command = self.commands.get(words[0].upper().decode("latin-1"))
        return everything or (command is not None and command.waits)

    # Its clients.

    def entered(self, client: Client) -> None:
        """A client has connected."""
        self._ids += 1
        client.id = self._ids
        self.clients[client] = None

    def left(self, client: Client) -> None:
        """A client is gone."""
        self.clients.pop(client, None)
        self._waiting.pop(client, None)
        client.held.clear()
        for channel in list(client.channels):
            self._unsubscribe(client, channel, self.channels, client.channels)
        for channel in list(client.shards):
            self._unsubscribe(client, channel, self.shards, client.shards)

    @staticmethod
    def _unsubscribe(
        client: Client, channel: bytes, table: dict[bytes, dict[Client, None]], own: dict[bytes, None]
    ) -> None:
        if channel in own:
            del own[channel]
            del table[channel][client]
            if not table[channel]:
                del table[channel]

    # How commands are executed.

    def execute(self, client: Client, words: list[bytes]) -> None:
        """Execute a command, or refuse it."""
        try:
            name, command = self._find(words)
            if not command.free:
                self._check_permission(client, name, command, words)
            if command.keys is not None and words[command.keys]:
                self.check_slot(client, name, command, words[command.keys])
            if command.writes and self.master is not None:
                raise Error("READONLY You can't write against a read only replica.")
            if client.protocol == 2 and client.subscribed and name not in IN_RESP2:
                raise Error(
                    f"ERR Can't execute '{name.lower()}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET"
                    " are allowed in this context"
                )
            if self.loading and not command.loading:
                raise Error("LOADING Redis is loading the dataset in memory")
            if self._must_wait(words):
                client.held.appendleft(words)
                self._waiting[client] = None
                return
            command.run(self, client, words[2 if "|" in name else 1 :])
        except Error as exc:
            client.send(exc)
        self.on_command(client, words)
        if client.asking and words[0].upper() != b"ASKING":
            client.asking = False

    def _find(self, words: Sequence[bytes]) -> tuple[str, Command]:
        """Find a command.

        Raises:
            Error: if there is none, or it has too many or too few words.
        """
        name = words[0].upper().decode("latin-1")
        command = self.commands.get(name)
        if command is None and any(each.startswith(name + "|") for each in self.commands):
            if len(words) < 2:
                raise Error(f"ERR wrong number of arguments for '{name.lower()}' command")
            container, name = name, f"{name}|{words[1].upper().decode('latin-1')}"
            command = self.commands.get(name)
            if command is None:
                raise Error(f"ERR unknown subcommand '{text_of(words[1])}'. Try {container} HELP.")
        if command is None:
            shown = ""
            for word in words[1:]:
                if len(shown) < 128:
                    shown += f"'{text_of(word)[: 128 - len(shown)]}' "
            raise Error(f"ERR unknown command '{text_of(words[0])[:128]}', with args beginning with: {shown}")
        if len(words) != command.arity if command.arity > 0 else len(words) < -command.arity:
            raise Error(f"ERR wrong number of arguments for '{name.lower()}' command")
        return name, command

    def _check_permission(self, client: Client, name: str, command: Command, words: Sequence[bytes]) -> None:
        if client.user is None:
            raise Error("NOAUTH Authentication required.")
        if not client.user.may_say(name):
            raise Error(f"NOPERM this user has no permissions to run the '{name.lower()}' command")
        if command.channels is not None and not all(map(client.user.may_use, words[command.channels])):
            raise Error("NOPERM this user has no permissions to access one of the channels used as arguments")

    def check_slot(self, client: Client, name: str, command: Command, keys: Sequence[bytes]) -> None:
        """Refuse keys that are another node's. Without a Cluster there are none.

        Raises:
            Error: which says where they are.
        """

    # Commands about the connection.

    def log_in(self, client: Client, name: bytes, password: bytes) -> None:
        """Let a client be a user from now on.

        Raises:
            Error: if there is no such user, or he has another password.
        """
        user = self.users.get(name)
        if user is None or not user.accepts(password):
            raise Error("WRONGPASS invalid username-password pair or user is disabled.")
        client.user = user

    def hello(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/hello/"""
        protocol, name = client.protocol, None
        if words:
            if not re.fullmatch(rb"-?[0-9]{1,18}", words[0]):
                raise Error("ERR Protocol version is not an integer or out of range")
            if words[0] not in (b"2", b"3"):
                raise Error("NOPROTO unsupported protocol version")
            protocol = int(words[0])
        options, login = words[1:], None
        while options:
            option = options.pop(0)
            if option.upper() == b"AUTH" and len(options) > 1:
                login = options.pop(0), options.pop(0)
            elif option.upper() == b"SETNAME" and options:
                name = _checked_name(options.pop(0))
            else:
                raise Error(f"ERR Syntax error in HELLO option '{text_of(option)}'")
        if login is not None:
            self.log_in(client, *login)
        if client.user is None:
            raise Error(
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user>"
                " <pass> option can be used to authenticate the client and select the RESP protocol version at the"
                " same time"
            )
        if name is not None:
            client.name = name
        client.protocol = protocol
        client.send(
            {
                b"server": b"redis",
                b"version": self._version(),
                b"proto": protocol,
                b"id": client.id,
                b"mode": self.mode,
                **self._tell_hello_role(),
                b"modules": [],
            }
        )

    def _version(self) -> bytes:
        return ".".join(map(str, self.version)).encode()

    def _tell_hello_role(self) -> dict[bytes, bytes]:
        return {b"role": b"master" if self.master is None else b"replica"}

    def auth(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/auth/"""
        if len(words) > 2:
            raise Error("ERR syntax error")
        if len(words) == 1 and not self.users[b"default"].needs_password:
            raise Error(
                "ERR AUTH <password> called without any password configured for the default user. Are you sure your"
                " configuration is correct?"
            )
        self.log_in(client, *(words if len(words) == 2 else (b"default", words[0])))
        client.send("OK")

    def ping(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/ping/"""
        if len(words) > 1:
            raise Error("ERR wrong number of arguments for 'ping' command")
        if client.protocol == 2 and client.subscribed:
            client.send([b"pong", words[0] if words else b""])
        else:
            client.send(words[0] if words else "PONG")

    def quit(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/quit/"""
        client.send("OK")
        client.transport.close()

    def tell_client(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/client-info/"""
        assert client.user is not None
        client.send(
            Verbatim(
                b"id=%d name=%s flags=%s sub=%d psub=0 ssub=%d user=%s resp=%d\n"
                % (
                    client.id,
                    client.name,
                    b"P" if client.subscribed else b"N",
                    len(client.channels),
                    len(client.shards),
                    client.user.name,
                    client.protocol,
                )
            )
        )

    def name_client(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/client-setname/"""
        client.name = _checked_name(words[0])
        client.send("OK")

    def pause_clients(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/client-pause/"""
        mode = words[1].upper() if len(words) > 1 else b"ALL"
        if mode not in (b"ALL", b"WRITE"):
            raise Error("ERR CLIENT PAUSE mode must be WRITE or ALL")
        if not words[0].isdigit():
            raise Error("ERR timeout is not an integer or out of range")
        self.pause(int(words[0]) / 1000, mode == b"ALL")
        client.send("OK")

    def unpause_clients(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/client-unpause/"""
        self.unpause()
        client.send("OK")

    def change_user(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/acl-setuser/"""
        self.set_user(*words)
        client.send("OK")

    # Pub/Sub.

    def subscribe(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/subscribe/"""
        self._subscribe(client, words, b"subscribe", self.channels, client.channels)

    def unsubscribe(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/unsubscribe/"""
        self._end_subscriptions(client, words, b"unsubscribe", self.channels, client.channels)

    def ssubscribe(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/ssubscribe/"""
        self._subscribe(client, words, b"ssubscribe", self.shards, client.shards)

    def sunsubscribe(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/sunsubscribe/"""
        self._end_subscriptions(client, words, b"sunsubscribe", self.shards, client.shards)

    def _subscribe(
        self, client: Client, channels: Sequence[bytes], kind: bytes, table: _Subscribers, own: dict[bytes, None]
    ) -> None:
        for channel in channels:
            table.setdefault(channel, {})[client] = None
            own[channel] = None
            client.forgotten.pop(channel, None)
            client.send(Push([kind, channel, len(own)]))

    def _end_subscriptions(
        self, client: Client, channels: Sequence[bytes], kind: bytes, table: _Subscribers, own: dict[bytes, None]
    ) -> None:
        had = bool(own)
        for channel in channels or list(own):
            self._unsubscribe(client, channel, table, own)
            client.forgotten.pop(channel, None)
            client.send(Push([kind, channel, len(own)]))
        if not channels and not had:
            client.send(Push([kind, None, 0]))

    def publish(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/publish/"""
        client.send(self.execute_publish(*words))

    def execute_publish(self, channel: bytes, payload: bytes) -> int:
        """Publish; return how many have got it here."""
        count = self.deliver(channel, payload)
        self._tell_replicas(lambda replica: replica.execute_publish(channel, payload))
        return count

    def deliver(self, channel: bytes, payload: bytes) -> int:
        """Hand a message to those who are subscribed here; return how many they are."""
        return self._hand(self.channels.get(channel), Push([b"message", channel, payload]))

    def spublish(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/spublish/"""
        client.send(self.execute_spublish(*words))

    def execute_spublish(self, channel: bytes, payload: bytes) -> int:
        """Publish on a sharded channel; return how many have got it here."""
        count = self.deliver_shard(channel, payload)
        self._tell_replicas(lambda replica: replica.execute_spublish(channel, payload))
        return count

    def deliver_shard(self, channel: bytes, payload: bytes) -> int:
        """Hand a message to those who are subscribed here; return how many they are."""
        return self._hand(self.shards.get(channel), Push([b"smessage", channel, payload]))

    @staticmethod
    def _hand(subscribers: dict[Client, None] | None, message: Push) -> int:
        if not subscribers:
            return 0
        encoded = encode(message)
        for subscriber in list(subscribers):
            subscriber.push(message, encoded)
        return len(subscribers)

    def numsub(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/pubsub-numsub/"""
        client.send(_count(self.channels, words))

    def shardnumsub(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/pubsub-shardnumsub/"""
        client.send(_count(self.shards, words))

    # Data.

    def set(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/set/"""
        if len(words) > 2:
            raise Error("ERR syntax error")
        self.execute_set(*words)
        client.send("OK")

    def execute_set(self, key: bytes, value: bytes) -> None:
        """Set a key."""
        self.data[key] = value
        self._tell_replicas(lambda replica: replica.execute_set(key, value))

    def get(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/get/"""
        client.send(self.data.get(words[0]))

    def mget(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/mget/"""
        client.send([self.data.get(key) for key in words])

    # What it tells of itself.

    def info(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/info/"""
        wanted = {word.lower() for word in words} - {b"default", b"all", b"everything"}
        parts = [
            b"# %s\r\n%s" % (section, b"".join(b"%s:%s\r\n" % field for field in fields.items()))
            for section, fields in self._tell_info().items()
            if not wanted or section.lower() in wanted
        ]
        client.send(Verbatim(b"\r\n".join(parts)))

    def _tell_info(self) -> dict[bytes, dict[bytes, bytes]]:
        """What INFO tells, by section."""
        overruns = {b"client_output_buffer_limit_disconnections": b"%d" % self.overruns}
        return {
            b"Server": {
                b"redis_version": self._version(),
                b"redis_mode": self.mode,
                b"run_id": self.run_id,
                b"tcp_port": b"%d" % self.port,
            },
            b"Clients": {b"connected_clients": b"%d" % len(self.clients)},
            b"Persistence": {b"loading": b"%d" % self.loading},
            b"Stats": {
                b"pubsub_channels": b"%d" % len(self.channels),
                b"pubsubshard_channels": b"%d" % len(self.shards),
                **(overruns if self.version >= COUNTS_OVERRUNS else {}),
            },
            b"Replication": self._tell_replication(),
            b"Cluster": {b"cluster_enabled": b"%d" % (self.mode == b"cluster")},
        }

    def _tell_replication(self) -> dict[bytes, bytes]:
        replicas = {b"connected_slaves": b"%d" % sum(replica.hears_master() for replica in self.replicas)}
        if self.master is None:
            return {b"role": b"master", **replicas}
        return {
            b"role": b"slave",
            b"master_host": self.master.host.encode(),
            b"master_port": b"%d" % self.master.port,
            b"master_link_status": b"up" if self.hears_master() else b"down",
            **replicas,
        }

    def tell_role(self, client: Client, words: list[bytes]) -> None:
        """https://redis.io/docs/latest/commands/role/"""
        if self.master is None:
            replicas = [
                [replica.host.encode(), b"%d" % replica.port, b"0"]
                for replica in self.replicas
                if replica.hears_master()
            ]
            client.send([b"master", 0, replicas])
        else:
            state = b"connected" if self.hears_master() else b"connect"
            client.send([b"slave", self.master.host.encode(), self.master.port, state, 0])

    def no_cluster(self, client: Client, words: list[bytes]) -> None:
        """What a server says that is no node of a Cluster."""
        raise Error("ERR This instance has cluster support disabled")


_Subscribers: TypeAlias = dict[bytes, dict[Client, None]]


def _count(table: _Subscribers, channels: Sequence[bytes]) -> list[Any]:
    return [each for channel in channels for each in (channel, len(table.get(channel, ())))]


def _checked_name(name: bytes) -> bytes:
    if any(not 33 <= letter <= 126 for letter in name):
        raise Error("ERR Client names cannot contain spaces, newlines or special characters.")
    return name


COMMANDS: Commands = {
    "HELLO": Command(Server.hello, -1, free=True, sentinel=True),
    "AUTH": Command(Server.auth, -2, free=True, sentinel=True),
    "QUIT": Command(Server.quit, -1, free=True),
    "PING": Command(Server.ping, -1, loading=False, sentinel=True),
    "CLIENT|INFO": Command(Server.tell_client, 2, sentinel=True),
    "CLIENT|SETNAME": Command(Server.name_client, 3, sentinel=True),
    "CLIENT|PAUSE": Command(Server.pause_clients, -3, sentinel=True),
    "CLIENT|UNPAUSE": Command(Server.unpause_clients, 2, sentinel=True),
    "ACL|SETUSER": Command(Server.change_user, -3, sentinel=True),
    "SUBSCRIBE": Command(Server.subscribe, -2, sentinel=True, channels=ALL),
    "UNSUBSCRIBE": Command(Server.unsubscribe, -1, sentinel=True),
    "SSUBSCRIBE": Command(Server.ssubscribe, -2, channels=ALL, keys=ALL),
    "SUNSUBSCRIBE": Command(Server.sunsubscribe, -1, keys=ALL),
    "PUBLISH": Command(Server.publish, 3, sentinel=True, waits=True, channels=FIRST),
    "SPUBLISH": Command(Server.spublish, 3, waits=True, channels=FIRST, keys=FIRST),
    "PUBSUB|NUMSUB": Command(Server.numsub, -2),
    "PUBSUB|SHARDNUMSUB": Command(Server.shardnumsub, -2),
    "INFO": Command(Server.info, -1, sentinel=True),
    "ROLE": Command(Server.tell_role, 1, sentinel=True),
    "GET": Command(Server.get, 2, loading=False, keys=FIRST),
    "MGET": Command(Server.mget, -2, loading=False, keys=ALL),
    "SET": Command(Server.set, -3, loading=False, writes=True, waits=True, keys=FIRST),
    "ASKING": Command(Server.no_cluster, 1, loading=False),
    "CLUSTER|SLOTS": Command(Server.no_cluster, 2, loading=False),
    "CLUSTER|INFO": Command(Server.no_cluster, 2, loading=False),
    "CLUSTER|NODES": Command(Server.no_cluster, 2, loading=False),
    "CLUSTER|FAILOVER": Command(Server.no_cluster, -2, loading=False),
    "CLUSTER|SETSLOT": Command(Server.no_cluster, -4, loading=False),
}

Server.commands = COMMANDS
