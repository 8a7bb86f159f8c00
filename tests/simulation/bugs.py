"""Bugs that are planted one by one, to see whether the simulation finds them: ``python -m tests.simulation.bugs``.

Each is a slip that a programmer may make on the way from Redis to the client, and breaks a promise to clients or to
operators. For each, wsd is copied into a temporary folder, the bug is put into the copy, and worlds are played with the
copy, in the order of their seeds, until something is wrong in one that is well without the bug. A bug that is not found
in ten minutes says what the worlds lack: a fault, a habit of clients, or something that nobody looks at.

The pieces of text that the bugs replace are held to the code by `tests/simulation/test_bugs.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import IO, TYPE_CHECKING, NamedTuple, cast

from tests import ROOT

if TYPE_CHECKING:
    from tests.simulation.swarm import Swarm

__all__ = ["BUGS", "CONTROL", "Bug", "Change", "Finding", "Played", "plant", "play_with", "search", "seeds", "table"]


class Change(NamedTuple):
    """A piece of text in place of another."""

    file: str  # below wsd/
    old: str  # stands in the file once
    new: str


@dataclass(frozen=True)
class Bug:
    """A bug."""

    name: str  # what is wrong, in a sentence
    shown_by: str  # what must happen in a world, and what somebody must look at, for it to be seen
    changes: tuple[Change, ...]
    worlds: str = ""  # which ones it needs, of `WORLDS`


def _bug(name: str, shown_by: str, *changes: Change, worlds: str = "") -> Bug:
    return Bug(name, shown_by, changes, worlds)


BUGS = (
    # The link.
    _bug(
        "The bound of a wait is a power of two, which overflows at the 1,024th failure in a row.",
        "Redis, a Sentinel or a cluster is away for half an hour",
        Change("backoff.py", "self._bound = self._first  # of the next wait", "self._failures = 0"),
        Change(
            "backoff.py",
            "        bound = self._bound\n        self._bound = min(bound * 2, self._most)\n",
            "        bound = min(self._first * 2.0**self._failures, self._most)\n        self._failures += 1\n",
        ),
        Change(
            "backoff.py",
            'first one."""\n        self._bound = self._first',
            'first one."""\n        self._failures = 0',
        ),
        worlds="long",
    ),
    _bug(
        "A Sentinel that refuses the connection ends the task that follows it, and with it the worker.",
        "a Sentinel is killed",
        Change(
            "redis/sentinel.py",
            "await self._follow(sentinel, waits)\n            except (OSError, LinkError) as exc:",
            "await self._follow(sentinel, waits)\n            except LinkError as exc:",
        ),
        worlds="sentinel",
    ),
    _bug(
        "The link stays at the former master when the Sentinels name another.",
        "a failover while the old master is cut off from the Sentinels, but not from wsd; the loss must be announced"
        " soon after the failover, and not when all is mended",
        Change("redis/sentinel.py", '        self._relocate(f"{reason} {address}")\n', ""),
        worlds="sentinel",
    ),
    _bug(
        "One message since the last probe excuses a probe for ever, so a link that delivers no more is not found out.",
        "Redis forgets the subscriptions of a connection without a word, and answers as before",
        Change(
            "redis/probe.py",
            "            self._sent_at, self.delivering = now, False\n",
            "            self._sent_at = now\n",
        ),
    ),
    _bug(
        "Whatever the heartbeat is, a server that is silent has a minute before the link is taken for dead.",
        "the host of Redis vanishes without a word, and its port is another's then; the loss must be announced in time",
        Change(
            "redis/vitals.py",
            "        self._heartbeat = heartbeat\n",
            "        self._heartbeat = max(heartbeat, 60.0)\n",
        ),
    ),
    _bug(
        "After a standstill of its own event loop, a link judges Redis by what it has not read yet.",
        "a worker is frozen for some heartbeats; no link may end, and no gap come, because of that",
        Change("redis/link.py", "if now - due > self._period / 2:", "if now - due > 1000 * self._period:"),
    ),
    _bug(
        "/readyz looks at the channels alone: while nobody listens, it says ready although the link is down.",
        "Redis is away while no client has a topic, and somebody asks /readyz",
        Change(
            "status.py",
            "        if not self._source.up:\n            return self._source.problem\n",
            "",
        ),
        Change(
            "redis/link.py",
            "return self.up and not self._channels.gaps and not self._channels.astray",
            "return not self._channels.gaps and not self._channels.astray",
        ),
    ),
    # Channels.
    _bug(
        "A gap that was not announced yet is forgotten when the link is lost again.",
        "the link is lost twice, the second time before the channels are confirmed",
        Change(
            "redis/channels.py",
            "        self.gapped.update(dict.fromkeys(lost))\n",
            "        self.gapped = dict.fromkeys(lost)\n",
        ),
    ),
    _bug(
        "A subscription that Redis takes away comes back without a gap.",
        "a slot moves to another node, and messages are published meanwhile",
        Change(
            "redis/channels.py",
            "            self.gapped[channel] = None\n            self._metrics.gaps += 1\n        self._events",
            "            self._metrics.gaps += 1\n        self._events",
        ),
        worlds="cluster",
    ),
    _bug(
        "A channel whose slot has moved is confirmed by its new node without a gap.",
        "the topology is learned before the old node takes the subscription away; messages are published meanwhile",
        Change(
            "redis/channels.py",
            "missed = subscribed or channel in self.gapped",
            "missed = channel in self.gapped",
        ),
        worlds="cluster",
    ),
    _bug(
        "A channel is confirmed by the node that it has left, with the answer to an older SUBSCRIBE.",
        "a node stands still while SSUBSCRIBE is on its way and its slots go to another; clients come to new topics",
        Change(
            "redis/channels.py",
            "            if channel in self._wanted:\n                self._confirm(channel)\n            else:",
            "            if channel in self._wanted or channel in self.released:\n"
            "                self._confirm(channel)\n"
            "            else:",
        ),
        worlds="cluster",
    ),
    _bug(
        "A channel that lingered counts as subscribed on the next connection, too.",
        "the link is lost while a channel lingers, and somebody comes back to it; that nothing comes must be"
        " seen sooner than by the audit",
        Change(
            "redis/channels.py",
            "(self._refused, self._astray, self._resumed, self._states, self._idle, self.released):",
            "(self._refused, self._astray, self._resumed, self._idle, self.released):",
        ),
    ),
    _bug(
        "A channel whose UNSUBSCRIBE is unanswered is confirmed at once to somebody who comes back.",
        "Redis stands still, or the way to it is slow, when a client comes back after five seconds",
        Change(
            "redis/channels.py",
            "        if self._is_subscribed(channel):\n            self._resumed[channel] = None",
            "        if self._states.get(channel) not in (None, _State.SUBSCRIBING):\n"
            "            self._resumed[channel] = None",
        ),
        Change(
            "redis/channels.py",
            "            if channel in self._wanted and self._is_subscribed(channel):\n                self._confirm",
            "            if channel in self._wanted:\n                self._confirm",
        ),
    ),
    _bug(
        "A channel that is confirmed when everybody has left it lingers for ever.",
        "a client leaves before Redis has answered; Redis must hold no channel that nobody wants in the end",
        Change(
            "redis/channels.py",
            "            else:\n                self._idle[channel] = now + LINGER\n        elif asked:",
            "        elif asked:",
        ),
    ),
    _bug(
        "The end of the linger unsubscribes a channel to which somebody has come back.",
        "the last client of a topic leaves, one comes within five seconds, and messages follow each other closely",
        Change(
            "redis/channels.py",
            "        self._idle.pop(channel, None)\n        self.released.pop(channel, None)\n        if missed:",
            "        self.released.pop(channel, None)\n        if missed:",
        ),
        Change(
            "redis/channels.py",
            "            del self._idle[channel]\n            self._changed[channel] = None\n",
            "            del self._idle[channel]\n            self._states.set(channel, _State.UNSUBSCRIBING)\n"
            "            self._commands.append(Command(self._dialect.unsubscribe, (channel,)))\n",
        ),
    ),
    _bug(
        "A channel that Redis has refused is never tried again.",
        "a permission is taken away while somebody listens, and given back",
        Change(
            "redis/channels.py",
            "        while self._refused and (channel := next(iter(self._refused)))"
            " and self._refused[channel] <= now:\n"
            ""
            "            del self._refused[channel]\n            self.gapped[channel] = None\n"
            "            self._changed[channel] = None\n",
            "",
        ),
    ),
    _bug(
        "The connections over which a cluster is asked for its topology stay open.",
        "a cluster; in the end no server of Redis may have more connections than there are links to it",
        Change(
            "redis/topology.py",
            '        finally:\n            wire.fail("not needed any more")\n        return _parse',
            "        finally:\n            pass\n        return _parse",
        ),
        worlds="cluster",
    ),
    _bug(
        "The link to a node that has no channels any more stays open, and another is opened later.",
        "topics of a node come and go; in the end a worker may have one connection to a server, and no more",
        Change(
            "redis/cluster.py",
            "                self._tasks.pop(place).cancel()\n",
            "                self._tasks.pop(place)\n",
        ),
        worlds="cluster",
    ),
    _bug(
        "/readyz says ready before the channels are subscribed again.",
        "the link comes back, and Redis is slow to confirm; somebody asks /readyz meanwhile",
        Change(
            "redis/link.py",
            "return self.up and not self._channels.gaps and not self._channels.astray",
            "return self.up",
        ),
    ),
    _bug(
        "A link that doubts the topology waits for the next look on the timer.",
        "a failover of a cluster; all must be healed some seconds after the cluster is, and not half a minute",
        Change(
            "redis/cluster.py",
            "        self._doubters[place] = None\n        self._doubted.set()\n",
            "        self._doubters[place] = None\n",
        ),
        worlds="cluster",
    ),
    # Delivery.
    _bug(
        "A gap is announced in the next turn of the loop, and so after a message that came with the confirmation.",
        "the link comes back while messages follow each other closely",
        Change(
            "delivery/fanout.py",
            "        if gap:\n            self.announce_gap(channel)\n",
            "        if gap:\n            self._call_soon(lambda: self.announce_gap(channel))\n",
        ),
    ),
    _bug(
        "A gap is announced to those, too, who came while the link was down and have missed nothing.",
        "a client subscribes while the link is down; a gap must have a cause in its own time",
        Change(
            "delivery/fanout.py",
            "self.deliver(topic, text_frame(gap(topic.name)), Told(topic))",
            "self.deliver(topic, text_frame(gap(topic.name)))",
        ),
    ),
    _bug(
        "Messages of one turn come topic after topic, and not in the order in which they were published.",
        "messages of several topics come at once; the order must be looked at across topics",
        Change(
            "delivery/message.py",
            "sorted(chain.from_iterable(sources), key=_PLACE)",
            "list(chain.from_iterable(sources))",
        ),
    ),
    _bug(
        "A topic is left before what a pass in progress owes has been written, so it comes after the reply.",
        "a pass is so long that it is interrupted, and a client unsubscribes meanwhile",
        Change(
            "clients/connection.py", "                    shared.fanout.settle(self)\n", "                    pass\n"
        ),
    ),
    _bug(
        "A source that was held, because the fan-out was full, is never let go.",
        "more is published at once than the log takes (MAX_WAITING)",
        Change(
            "delivery/fanout.py",
            "        if self._holding and self._waiting <= MAX_WAITING:  # else the pass after it makes room\n"
            "            self._hold_source(False)\n",
            "",
        ),
    ),
    _bug(
        "A link heeds that the fan-out is full only if many messages have come at once.",
        "large messages that are published faster than clients can be written to; the log must be looked at",
        Change(
            "redis/wire.py",
            "        if full and not self._transport.is_closing():\n            self._pause()\n"
            "        elif not full and self.behind:\n",
            "        if not full and self.behind:\n",
        ),
        Change(
            "redis/wire.py",
            "            if not self._held:  # else what comes next, however little it is, waits, too\n"
            "                self._resume()\n",
            "            self._resume()\n",
        ),
    ),
    _bug(
        "When one of two listeners leaves a topic, the other gets nothing more.",
        "two clients subscribe to a topic, and one leaves",
        Change("delivery/topics.py", "if not topic.wanted:", "if len(topic.listeners()) <= 1:"),
    ),
    # Clients.
    _bug(
        "A pong overtakes the reply to a subscription that waits.",
        "a client sends the request `ping` behind a `subscribe` that Redis has yet to confirm",
        Change(
            "clients/session.py",
            "return self._reply(messages.PONG, request_id, now)",
            "return self._effects.append(Reply(messages.with_id(messages.PONG, request_id)))",
        ),
    ),
    _bug(
        "An error overtakes the reply to a subscription that waits.",
        "a client sends a request that is refused behind a `subscribe` that Redis has yet to confirm",
        Change(
            "clients/session.py",
            "self._queue_or_send(Reply(messages.with_id(messages.error(code, message), request_id), code, message), "
            "now)",
            "self._effects.append(Reply(messages.with_id(messages.error(code, message), request_id), code, message))",
        ),
    ),
    _bug(
        "A subscription that is confirmed is answered before an earlier one that waits.",
        "a client subscribes to two topics at once, and somebody listens to the second already",
        Change(
            "clients/replies.py",
            "        while self and self[0].reply is not UNKNOWN:\n            held = self.popleft()\n",
            "        for held in [each for each in self if each.reply is not UNKNOWN]:\n"
            "            self.remove(held)\n",
        ),
    ),
    _bug(
        "A topic is delivered as soon as Redis has confirmed it, though its reply waits behind another.",
        "a client subscribes to topics on two nodes, and the node of the first is slow",
        Change(
            "clients/session.py",
            "            self._topics[topic] = _Topic.CONFIRMED\n            self._settle(topic)\n",
            "            self._topics[topic] = _Topic.CONFIRMED\n            self._effects.append(Listen(topic))\n"
            "            self._settle(topic)\n",
        ),
    ),
    _bug(
        "An unsubscribe leaves the reply to a subscription that waits unanswered.",
        "a client unsubscribes from a topic that Redis has yet to confirm",
        Change(
            "clients/session.py",
            "            self._settle(topic)\n            self._drop(topic)\n        self._reply(messages.UNSUBSCRIBED",
            "            self._drop(topic)\n        self._reply(messages.UNSUBSCRIBED",
        ),
    ),
    _bug(
        "A refused token takes away what the one before had granted.",
        "a client with a good token authorizes again with a bad one, and goes on",
        Change(
            "clients/session.py",
            "        self._bad_tokens += 1\n",
            "        self._bad_tokens += 1\n        self._grant = self._authenticator.initial\n",
        ),
    ),
    _bug(
        "A token expires by the monotonic clock, as it was when the token came.",
        "the clock on the wall is set while a client is connected; 4003 must come when the token's time has",
        Change(
            "clients/session.py",
            "            seconds = self._grant.expires_at - self._wall()\n            self._expires = now + seconds\n",
            "            seconds = self._expires - now\n",
        ),
    ),
    _bug(
        "A client keeps the topics that its new token does not permit.",
        "a client authorizes again with a token that permits less",
        Change(
            "clients/session.py",
            "            if topic in self._topics:  # the reply before it may have closed the session\n",
            "            if topic in self._topics and self._topics[topic] is not _Topic.LISTENING:\n",
        ),
    ),
    _bug(
        "A client that has not authorized gets the whole time anew when it moves.",
        "clients that do not authorize, and reloads; 4001 must come when auth_timeout is over",
        Change(
            "clients/session.py",
            "            session._expires = now + record.seconds_to_authorize\n",
            "            session._expires = now + limits.auth_timeout\n",
        ),
        worlds="reloads",
    ),
    _bug(
        "A connection that ends while it is not read from is looked at each second for ever.",
        "a client that is above its rate, or sends more than 4 KiB at a time, goes; no timer may stay in the end",
        Change(
            "clients/connection.py",
            "            self._reading = True\n            self.transport.resume_reading()\n",
            "            self._reading = True\n            self.transport.resume_reading()\n        else:\n"
            "            self._timer = self.loop.call_later(1.0, self._read_on)\n",
        ),
    ),
    _bug(
        "What was handed to the socket still counts as waiting, so a client that reads is closed for being slow.",
        "a client that reads lags several times; 4008 may come only to one that did not read",
        Change("clients/writer.py", "        self._held -= size\n", ""),
    ),
    _bug(
        "The age of a backlog counts from its last message, so a client that does not read is never closed for it.",
        "a client stops reading for long, and little is published; somebody must look who is still connected",
        Change(
            "clients/writer.py",
            "        self._backlog.append((self._sweep.time(), data))\n        self._held += len(data)\n"
            "        self._check_bytes(len(data))",
            "        self._backlog.append((self._sweep.time(), data))\n        self._portion_due = self._sweep.time()\n"
            "        self._held += len(data)\n        self._check_bytes(len(data))",
        ),
    ),
    _bug(
        "Each ping puts off the pong that is waited for, so a dead client is never found out.",
        "a client's way is cut for good, and pings come more often than they time out",
        Change(
            "clients/connection.py",
            "            if not waits_for_pong:\n                self._pong_due = now",
            "            if self.protocol.state is OPEN:\n                self._pong_due = now",
        ),
    ),
    _bug(
        "A connection that has gone is visited by the sweep for ever.",
        "clients leave; in the end a worker may have no more deadlines than connections",
        Change(
            "clients/connection.py",
            "        self._leave()\n        self._shared.sweep.remove(self)\n",
            "        self._leave()\n",
        ),
    ),
    _bug(
        "A client whose connection breaks stays on its topics.",
        "clients vanish; in the end wsd must have no listener without a client, and Redis no channel that nobody wants",
        Change(
            "clients/connection.py",
            "        self._leave()\n        self._shared.sweep.remove(self)\n        self._shared.door.left(self)",
            "        self._shared.sweep.remove(self)\n        self._shared.door.left(self)",
        ),
    ),
    _bug(
        "A worker that drains sends nobody away unless another has taken its place.",
        "a worker, or the service, is told to stop",
        Change(
            "clients/gateway.py",
            "                    self._metrics.moves[Move.SENT_AWAY] += 1\n                connection.close_with(",
            "                    self._metrics.moves[Move.SENT_AWAY] += 1\n                    connection.close_with(",
        ),
    ),
    # The hand-over.
    _bug(
        "The giver cuts before its fan-out has written what came before the mark.",
        "a reload while messages follow each other closely",
        Change(
            "handover/giver.py",
            "            self._fanout.barrier(partial(self._cut, cohort, channel))\n",
            "            self._cut(cohort, channel)\n",
        ),
        worlds="reloads",
    ),
    _bug(
        "The taker keeps what its fan-out had from before the mark, so it comes twice.",
        "a reload while messages follow each other closely, and others listen at the new worker",
        Change("handover/taker.py", "            standin.forget()\n", "            pass\n"),
        worlds="reloads",
    ),
    _bug(
        "The taker passes no fence, so what the giver has delivered comes again.",
        "a reload whose cut is unknown, while Redis is slow",
        Change("handover/taker.py", "            await pass_fences(self._topics, self._source, rest)\n", ""),
        worlds="reloads",
    ),
    _bug(
        "Nobody is told of a gap when the cut is unknown and Redis delivers the topic.",
        "a reload while a mark does not come back",
        Change(
            "handover/taker.py",
            "            if topic not in retold or topic in waiting:\n",
            "            if topic in waiting:\n",
        ),
        worlds="reloads",
    ),
    _bug(
        "What the giver had missed and not announced is not announced by the taker either.",
        "a reload while the giver's link comes back, and the taker's is up",
        Change(
            "handover/taker.py",
            "        for topic in missed & cohort.heard:\n            self._note_gap(cohort, topic, AWAY)\n"
            "            self._tell_of_gap(topic, cohort.of(topic))\n",
            "",
        ),
        worlds="audits",
    ),
    _bug(
        "A gap notice that is not written yet misses the one who takes a listener's place.",
        "a reload cuts in the moment in which the link comes back",
        Change(
            "delivery/topics.py",
            "        for listeners in (self._listeners, *self.noticed):\n",
            "        for listeners in (self._listeners,):\n",
        ),
        worlds="crowds",
    ),
    _bug(
        "A gap of a cut waits for a confirmation, though messages from before it are with the fan-out.",
        "the taker's link is lost while its fan-out is busy; the gap must come before the messages",
        Change(
            "handover/taker.py",
            "            if topic not in retold or topic in waiting:\n",
            "            if topic not in retold:\n",
        ),
        worlds="slow crowds",
    ),
    _bug(
        "Topics whose cut is unknown are cut later than the others of their link, and are ahead of them.",
        "a reload while some topics are subscribed again; the order must be looked at across topics",
        Change(
            "handover/giver.py",
            "cohort.streams[channel] | cohort.rest)",
            "cohort.streams[channel])",
        ),
        worlds="audits",
    ),
    _bug(
        "What was too much for a stand-in is lost, and the client stays.",
        "more than max_backlog is published while a connection moves",
        Change(
            "handover/taker.py",
            "        if any(standin.overrun for standin in standins.values()):\n"
            "            connection.close_with(Close.SLOW_CONSUMER, TOO_SLOW)\n",
            "",
        ),
        worlds="reloads",
    ),
    _bug(
        "Any answer to a mark will do, also when the two workers are at different servers.",
        "a reload while one of two links is at another node of a cluster with classic Pub/Sub",
        Change("handover/taker.py", "            if count != BOTH:\n", "            if not isinstance(count, int):\n"),
        worlds="reloads",
    ),
    _bug(
        "What the stand-ins have kept is lost when the connection arrives.",
        "a reload while messages follow each other closely",
        Change(
            "handover/taker.py",
            "connection.arrive(frame for standin in standins.values() for frame in standin.frames)",
            "connection.arrive()",
        ),
        worlds="reloads",
    ),
    _bug(
        "What a stand-in has kept is lost when the connection stays.",
        "the taker dies between the cut and the arrival",
        Change(
            "handover/giver.py",
            "            for frames in standin.frames:\n                connection.write(frames)\n",
            "",
        ),
        worlds="reloads",
    ),
    _bug(
        "Connections that were on their way when the taker died are left on nobody.",
        "the taker dies after the cut",
        Change(
            "handover/giver.py",
            "            for member in list(cohort.members.values()):\n"
            "                self._take_back(cohort, member)\n"
            "        self._cohorts.clear()",
            "        self._cohorts.clear()",
        ),
        worlds="reloads",
    ),
    _bug(
        "The beginning of a frame that has not come whole is lost on the way.",
        "a reload while a client has sent the first half of a request",
        Change("clients/moving.py", "unread=sansio.unread(self.protocol),", 'unread=b"",'),
        worlds="reloads",
    ),
    _bug(
        "A connection that moves is still read from.",
        "a reload while a client sends requests",
        Change(
            "clients/moving.py",
            "        self._on_end = on_end\n        self._pause_reading()\n",
            "        self._on_end = on_end\n",
        ),
        worlds="reloads",
    ),
    _bug(
        "A client that is read from again after a pause is read from while it moves.",
        "a reload while a client is above its rate, or sends more than 4 KiB at a time",
        Change(
            "clients/moving.py",
            "        if self._timer is not None:\n            self._timer.cancel()\n            self._timer = None\n"
            "        self._carry_out(self.session.suspend())",
            "        self._carry_out(self.session.suspend())",
        ),
        worlds="reloads",
    ),
    _bug(
        "Each connection that moves leaves a descriptor open where it was.",
        "clients move between workers that stay; then each socket must have one descriptor",
        Change(
            "handover/giver.py",
            "self._pipe.send(message, [descriptor], gives=True)",
            "self._pipe.send(message, [descriptor])",
        ),
        worlds="reloads",
    ),
    _bug(
        "The marks of a hand-over stay subscribed.",
        "a reload; Redis must hold no channel in the end that nobody wants",
        Change(
            "handover/marks.py",
            "        for mark in self._marks.values():\n            self._topics.remove(mark)\n",
            "",
        ),
        worlds="reloads",
    ),
    # The supervisor.
    _bug(
        "A worker that stands still, and can't tell its stacks, is not put down.",
        "a worker is stopped, and not only busy",
        Change(
            "supervisor/autopsy.py",
            "    child.kill(signal.SIGKILL)\n",
            "    if stacks:\n        child.kill(signal.SIGKILL)\n",
        ),
    ),
    _bug(
        "/readyz goes on with the last report of a worker that stands still.",
        "a worker is frozen for more than half of worker_timeout, and somebody asks /readyz",
        Change(
            "admin/service.py",
            "    if worker.silence > standing.worker_timeout / 2:\n"
            '        return f"it has not been heard of for {worker.silence:.1f} s"\n',
            "",
        ),
    ),
    _bug(
        "A new worker that has died as soon as it was ready gets the place.",
        "the supervisor stands still while a new worker gets ready and dies",
        Change(
            "supervisor/reloading.py",
            "        if child.status is not None:\n",
            "        if child.stage is Stage.LEAVING:\n",
        ),
        worlds="reloads",
    ),
    _bug(
        "If the old worker and the new one die during a reload, the place stays empty.",
        "both workers of a place die before the new one is ready",
        Change(
            "supervisor/reloading.py",
            "            if seat.child is None:  # the old one has ended meanwhile\n                team.fill(seat)\n",
            "",
        ),
        worlds="reloads",
    ),
    _bug(
        "If the taker dies, those that are left are closed, and not handed to the next worker.",
        "the new worker dies while clients move to it; nobody else's death excuses a close",
        Change(
            "supervisor/reloading.py",
            "            if not attempt.left or not await self._has_died(taker):\n                break\n",
            "            break\n",
        ),
        worlds="reloads",
    ),
    _bug(
        "Clients are moved to even out the load while a reload moves them, too.",
        "a reload while one worker has nine clients more than another",
        Change(
            "supervisor/balance.py",
            "            async with self._moving:\n                outcome = await self._look()\n",
            "            outcome = await self._look()\n",
        ),
        worlds="reloads",
    ),
    _bug(
        "A place whose worker is about to be started gets a second one after a reload.",
        "a worker dies twice in a row, and a reload begins before another is started",
        Change(
            "supervisor/reloading.py",
            "        self._replaced += 1\n        seat.expect_nobody()\n",
            "        self._replaced += 1\n",
        ),
        worlds="reloads",
    ),
)
"""The bugs, in the order of the way from Redis to the client, the hand-over and the supervisor last."""

CONTROL = _bug(
    "Nothing is wrong, but other things happen by chance.",
    "nothing: what a world says all the same is wrong with the world, and no bug counts as found",
    Change(
        "backoff.py",
        "    return random.uniform(most / 2, most)",
        "    random.random()\n    return random.uniform(most / 2, most)",
    ),
)
"""A bug changes also what happens by chance in a world, and so might show what is wrong without it."""


# Planting.


@contextmanager
def plant(bug: Bug | None) -> Iterator[Path]:
    """Make a folder in which wsd has a bug, and in which worlds can be played.

    Args:
        bug: the bug; None for wsd as it is.

    Raises:
        AssertionError: if a piece of text doesn't stand in its file once.
    """
    with tempfile.TemporaryDirectory(prefix="planted-") as name:
        folder = Path(name)
        shutil.copytree(ROOT / "wsd", folder / "wsd", ignore=shutil.ignore_patterns("__pycache__"))
        for other in ("tests", "bench"):
            (folder / other).symlink_to(ROOT / other)
        for file, old, new in bug.changes if bug is not None else ():
            path = folder / "wsd" / file
            text = path.read_text()
            assert text.count(old) == 1, f"{file} has {text.count(old)} times {old!r}"
            path.write_text(text.replace(old, new))
        yield folder


# Playing. The child imports wsd once, and plays each world in a process of its own.


class Played(NamedTuple):
    """What came of a world."""

    problems: Sequence[str]
    virtual: float  # seconds
    cpu: float  # seconds


Play = Callable[[int], Played]
"""Plays the world of a seed."""


@contextmanager
def play_with(folder: Path) -> Iterator[Play]:
    """Play worlds with the wsd of a folder.

    Args:
        folder: of :func:`plant`.
    """
    command = [sys.executable, "-m", "tests.simulation.bugs", "--child"]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    lock = threading.Lock()
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        orders, answers = cast(IO[str], child.stdin), cast(IO[str], child.stdout)

        def play(seed: int) -> Played:
            with lock:
                orders.write(f"{seed}\n")
                orders.flush()
                line = answers.readline()
            assert line, "the process that plays worlds has ended"
            return Played(**json.loads(line))

        try:
            yield play
        finally:
            orders.close()


def _child() -> None:
    """Play the worlds whose seeds come on standard input; write what came of each as a line of JSON."""
    from tests.simulation import runner  # which must come before wsd
    from wsd import __file__ as found

    expected = Path.cwd() / "wsd"
    assert Path(found).parent == expected, f"this would play with {found}, and not with {expected}"
    from tests.simulation import world  # noqa: F401 - once, before the forks

    for line in sys.stdin:
        outcome, seconds = runner.Fork(int(line), None, timeline=False).result()
        _say(json.dumps({"problems": outcome.problems, "virtual": outcome.virtual, "cpu": seconds}))


# Searching.


@dataclass
class Finding:
    """What came of the search for a bug."""

    bug: Bug
    seed: int | None = None  # of the world that has shown it; None: none has
    worlds: int = 0  # that were played, that one included
    virtual: float = 0.0  # seconds in all of them
    cpu: float = 0.0  # the same of the machine
    problem: str = ""  # the first that was wrong in that world
    skipped: int = 0  # worlds in which something is wrong without the bug, too

    def __str__(self) -> str:
        found = "not found" if self.seed is None else f"seed {self.seed}"
        said = f"{found} after {self.worlds} worlds, {self.virtual:,.0f} s of virtual time, {self.cpu:.1f} s of CPU"
        if self.skipped:
            said += f" ({self.skipped} worlds are wrong without it)"
        return f"{said}: {self.bug.name}\n    {self.problem or self.bug.shown_by}"


def search(bug: Bug, play: Play, unchanged: Play, seconds: float, seeds: Iterable[int]) -> Finding:
    """Play worlds that are well without a bug until one has something wrong.

    Args:
        bug: the bug.
        play: plays a world with it.
        unchanged: plays a world without it.
        seconds: of CPU, after which it is not found.
        seeds: of the worlds.
    """
    finding = Finding(bug)
    for seed in seeds:
        if finding.cpu >= seconds:
            break
        played = play(seed)
        finding.worlds += 1
        finding.virtual += played.virtual
        finding.cpu += played.cpu
        if not played.problems:
            continue
        if unchanged(seed).problems:
            finding.skipped += 1
            continue
        finding.seed, finding.problem = seed, played.problems[0]
        break
    return finding


def _is_busy_with(faults: set[str], swarm: Swarm) -> bool:
    """Whether little else happens in a world than these faults, again and again, while messages come."""
    is_busy = swarm.fault_period < 1 and swarm.message_period < 1 and not swarm.is_long
    return is_busy and faults <= swarm.faults and len(swarm.faults) <= 5


WORLDS: dict[str, Callable[[Swarm], bool]] = {
    "": lambda swarm: not swarm.is_long,
    "long": lambda swarm: swarm.is_long,
    "cluster": lambda swarm: not swarm.is_long and swarm.kind == "cluster",
    "sentinel": lambda swarm: not swarm.is_long and swarm.kind == "sentinel",
    "reloads": lambda swarm: not swarm.is_long and "wsd_is_reloaded" in swarm.faults,
    "crowds": lambda swarm: swarm.tight and swarm.clients >= 12 and "wsd_is_reloaded" in swarm.faults,
    "slow crowds": lambda swarm: (
        swarm.tight
        and swarm.turn >= 0.001
        and swarm.clients >= 12
        and not swarm.faults.isdisjoint({"redis_is_killed", "links_are_reset"})
        and _is_busy_with({"wsd_is_reloaded"}, swarm)
    ),
    "audits": lambda swarm: (
        # Of several servers nobody knows what gets lost.
        swarm.kind == "single"
        and swarm.keen
        and swarm.latency > 0.01
        and swarm.cohort is not None
        and _is_busy_with({"wsd_is_reloaded", "subscriptions_die"}, swarm)
    ),
}
"""Worlds in which a bug is looked for: those that have what it is about."""


def seeds(worlds: str) -> Iterator[int]:
    """The seeds of some worlds, of `WORLDS`, from 1 on."""
    from tests.simulation.faults import KINDS  # these import wsd, which the child may not yet
    from tests.simulation.swarm import Swarm
    from tests.simulation.world import STEPS

    fits = WORLDS[worlds]
    return (seed for seed in count(1) if fits(Swarm.drawn(Random(f"{seed} swarm"), KINDS, STEPS)))


def table(findings: Sequence[Finding]) -> str:
    """The table of the README, in Markdown."""
    lines = [
        "| planted bug | found by seed | worlds | virtual time | CPU | what the world said first |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for each in findings:
        seed = "not found" if each.seed is None else str(each.seed)
        said = _cell(each.problem) if each.problem else f"needs: {each.bug.shown_by}"
        lines.append(
            f"| {each.bug.name} | {seed} | {each.worlds} | {_time(each.virtual)} | {each.cpu:.0f} s | {said} |"
        )
    return "".join(f"{line}\n" for line in lines)


def _cell(text: str, most: int = 120) -> str:
    """A text in one cell of a table: the last of several lines, because a traceback says there what it is about."""
    line = text.strip().splitlines()[-1].replace("|", r"\|")
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Search for the bugs; return 1 if one of them is not found, or something is wrong without any."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.bugs", description="Plants bugs, and looks for them."
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="bugs whose names have all these words")
    parser.add_argument("--minutes", type=float, default=10, help="of CPU for each bug (default: 10)")
    parser.add_argument("--jobs", type=int, default=1, help="bugs at the same time (default: 1)")
    parser.add_argument("--table", action="store_true", help="print the table of the README in the end")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        _child()
        return 0
    chosen = [bug for bug in (CONTROL, *BUGS) if all(word.lower() in bug.name.lower() for word in args.only)]
    findings: dict[str, Finding] = {}
    with ExitStack() as stack:
        unchanged = stack.enter_context(play_with(stack.enter_context(plant(None))))
        known: dict[int, Played] = {}

        def play_unchanged(seed: int) -> Played:
            if seed not in known:
                known[seed] = unchanged(seed)
            return known[seed]

        def look_for(bug: Bug) -> Finding:
            with plant(bug) as folder, play_with(folder) as play:
                return search(bug, play, play_unchanged, args.minutes * 60, seeds(bug.worlds))

        pool = stack.enter_context(ThreadPoolExecutor(args.jobs))
        for done in as_completed([pool.submit(look_for, bug) for bug in chosen]):
            finding = findings[done.result().bug.name] = done.result()
            _say(str(finding))
    control = findings.get(CONTROL.name)
    ordered = [findings[bug.name] for bug in chosen if bug is not CONTROL]
    if args.table:
        _say(table(ordered))
    missed = sum(each.seed is None for each in ordered)
    _say(f"{len(ordered) - missed} of {len(ordered)} bugs were found")
    if control is not None and control.seed is not None:
        _say("Something is wrong without any bug, so this says nothing.")
        return 1
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
