"""Conversations with Redis, as text, and what came of them.

A line ``anna@B> SUBSCRIBE news`` lets anna, who connects to server B if she is not connected, send a command. In it
``{id:B}`` stands for the id of a node. A line with ``!`` is something else::

    ! until A MASTER ok     wait until what server A answers to a command has some words; see `QUESTIONS`
    ! freeze B              (thaw, kill, settle: see the stages) do something to a server

What a line causes has come when the server has answered. Where that takes longer, it says what is to come: with
``=> anna 2, bert 1`` the line ends when anna has received two replies or pushes, and bert one.

What a server chooses by itself, and may choose differently each time, is replaced: see `_Names`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import hiredis

from tests.simulation.stages import Line, Stage

__all__ = ["Transcript", "play"]

Transcript: TypeAlias = list[tuple[str, dict[str, list[str]]]]
"""Of each line of a conversation what each connection received by then, and that it was closed."""

QUESTIONS: dict[str, Sequence[str]] = {
    "CLUSTER": ("CLUSTER", "INFO"),
    "NODES": ("CLUSTER", "NODES"),
    "ROLE": ("ROLE",),
    "INFO": ("INFO",),
    "PING": ("PING",),
    "MASTER": ("SENTINEL", "MASTER", "mymaster"),
    "ADDRESS": ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"),
}
"""What ``! until`` asks."""

INFO_FIELDS = (
    "redis_mode",
    "loading",
    "pubsub_channels",
    "pubsubshard_channels",
    "role",
    "connected_slaves",
    "master_host",
    "master_port",
    "master_link_status",
    "cluster_enabled",
    "sentinel_masters",
)
"""The fields of INFO that are compared. It has some two hundred, of which wsd reads two, and people read a few more."""

CLIENT_FIELDS = ("name", "flags", "sub", "psub", "ssub", "user", "resp")
"""The fields of CLIENT INFO that are compared."""

MASTER_FIELDS = (b"name", b"ip", b"port", b"flags", b"num-slaves", b"num-other-sentinels", b"quorum")
"""The fields of SENTINEL MASTER that are compared."""

CLUSTER_FIELDS = re.compile(r"cluster_(state|slots_\w+|known_nodes|size):\w+")
"""The lines of CLUSTER INFO that are compared: all but epochs and statistics."""


class _Names:
    """Replaces what differs from server to server by what it stands for: places, ids, versions, times, epochs.

    Args:
        stage: whose servers have names.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def fill(self, text: str) -> str:
        """Put the ids of nodes where a command names them."""
        for name, id in self._stage.ids.items():
            text = text.replace(f"{{id:{name}}}", id)
        return text

    def show(self, reply: Any) -> str:
        """A reply or a push as text."""
        match reply:
            case hiredis.PushNotification():
                return "push " + self._show_all(reply)
            case hiredis.ReplyError():
                return "error " + self._shorten(str(reply))
            case dict() if b"modules" in reply:
                return self.show([*(reply | {b"version": b"...", b"id": 0}).items()])
            case dict() if b"num-slaves" in reply:
                return self.show([(name, reply[name]) for name in MASTER_FIELDS])
            case [b"server", *_]:
                return self.show(dict(zip(reply[::2], reply[1::2], strict=True)))
            case [b"master", *_]:
                places = [(host, port) for host, port, _ in reply[2]]
                return "master followed by " + self._show_all(sorted(places, key=self.show))
            case [b"slave", *_]:
                return "follower " + self._show_all(reply[:4])
            case list() | tuple():
                return self._show_all(reply)
            case bytes():
                return self._show_text(reply.decode("utf-8", "backslashreplace"))
            case _:
                return repr(reply)

    def _show_all(self, replies: Sequence[Any]) -> str:
        return "[" + self._shorten(" ".join(self.show(reply) for reply in replies)) + "]"

    def _show_text(self, text: str) -> str:
        if text.startswith("# "):
            fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
            return "info " + self._shorten(" ".join(f"{name} {fields.get(name)}" for name in INFO_FIELDS))
        if text.startswith("id="):
            fields = dict(word.split("=", 1) for word in text.split())
            return "client " + str({name: fields[name] for name in CLIENT_FIELDS})
        if text.startswith("cluster_"):
            return "cluster " + ", ".join(match[0] for match in CLUSTER_FIELDS.finditer(text))
        if re.match(r"[0-9a-f]{40} \S+:\d+@\d+", text):
            return "nodes " + "; ".join(sorted(map(self._show_node, text.splitlines())))
        return self._shorten(text)

    def _show_node(self, line: str) -> str:
        fields = line.split(" ")
        # Without the times of pings, the epoch, and whether there is a connection to a node that does nothing.
        link = "" if "fail" in fields[2] else fields[7]
        return self._shorten(" ".join([fields[0], fields[1].partition("@")[0], *fields[2:4], link, *fields[8:]]))

    def _shorten(self, text: str) -> str:
        for name, (host, port) in self._stage.places.items():
            text = re.sub(rf"{re.escape(host)}[ :]{port}\b", f"<{name}>", text)
            text = text.replace(f"master_host {host} master_port {port}", f"master <{name}>")
            text = text.replace(f"ip {host}] [port {port}", f"place <{name}>")
        for name, id in self._stage.ids.items():
            text = text.replace(id, f"<id of {name}>")
        return text


class _Speaker:
    """Someone who talks to a server."""

    def __init__(self, server: str, line: Line) -> None:
        self.server = server
        self.line = line
        self.heard: list[Any] = []  # since the last line of the conversation
        self.ended = False  # whether it was told that the server has closed the connection
        self._reader = hiredis.Reader()

    def listen(self) -> None:
        """Take what has arrived."""
        self._reader.feed(self.line.receive())
        while (reply := self._reader.gets()) is not False:
            self.heard.append(reply)

    def take(self, show: Callable[[Any], str]) -> list[str]:
        """What has arrived since the last line, as text."""
        self.listen()
        heard = [*map(show, self.heard)]
        self.heard.clear()
        if self.line.ended and not self.ended:
            self.ended = True
            heard.append("closed")
        return heard


def play(stage: Stage, script: str, like: Transcript | None = None) -> Transcript:
    """Play a conversation.

    Args:
        stage: where.
        script: its lines.
        like: what came of it elsewhere. After each line, as much is waited for: what a real server sends on several
            connections comes in any order on a busy machine, even behind the answer to what was sent later.
    """
    names = _Names(stage)
    speakers: dict[str, _Speaker] = {}
    transcript: Transcript = []
    try:
        for line in filter(None, map(str.strip, script.splitlines())):
            what, _, awaited = line.partition(" => ")
            if what.startswith("!"):
                _act(stage, names, shlex.split(what[1:]))
            else:
                _say(stage, speakers, names, what)
            for each in filter(None, awaited.split(", ")):
                name, count = each.split()
                _await(stage, name, speakers[name], int(count))
            for name, said in (like[len(transcript)][1] if like is not None else {}).items():
                _await(stage, name, speakers[name], len(said), closes=said[-1] == "closed")
            heard = {name: speaker.take(names.show) for name, speaker in speakers.items()}
            transcript.append((line, {name: said for name, said in heard.items() if said}))
    finally:
        for speaker in speakers.values():
            speaker.line.close()
    return transcript


def _say(stage: Stage, speakers: dict[str, _Speaker], names: _Names, line: str) -> None:
    who, _, command = line.partition("> ")
    name, _, server = who.partition("@")
    if name not in speakers or speakers[name].ended:
        if name in speakers:
            speakers[name].line.close()
        server = server or (speakers[name].server if name in speakers else next(iter(stage.places)))
        speakers[name] = _Speaker(server, stage.open(server))
    speaker = speakers[name]
    words = shlex.split(names.fill(command))
    speaker.line.send(hiredis.pack_command(tuple(words)))  # type: ignore[arg-type]  # its stub
    stage.wait(speaker.server)


def _await(stage: Stage, name: str, speaker: _Speaker, count: int, *, closes: bool = False) -> None:
    """Wait until somebody has heard so much, or the server has closed the connection; or only for that."""

    def come() -> bool:
        speaker.listen()
        return speaker.line.ended or (not closes and len(speaker.heard) >= count)

    stage.until(come, f"the end of {name}'s connection" if closes else f"{count} replies or pushes to {name}")


def _act(stage: Stage, names: _Names, words: Sequence[str]) -> None:
    match words:
        case ["until", server, question, *wanted]:
            text = names.fill(" ".join(wanted))
            stage.until(lambda: text in _plain(stage.ask(server, *QUESTIONS[question])), " ".join(words))
        case [action, *arguments]:
            getattr(stage, action)(*arguments)


def _plain(reply: Any) -> str:
    if isinstance(reply, dict):
        reply = [*reply.items()]
    return " ".join(map(_plain, reply)) if isinstance(reply, list | tuple) else str(reply)
