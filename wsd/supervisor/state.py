"""What a supervisor leaves to the one that comes in its place when it executes itself.

execve(2) keeps the process: its number, its children, and the descriptors that are passed on, whose numbers stand in
the state. Messages that workers have sent wait in their sockets meanwhile. The state is a JSON object in memory
(memfd_create(2)), because it holds the settings with their secrets; the number of its descriptor is in a variable of
the environment, which the new program removes at once.

The form of the state has a version. A candidate worker of the new code says which one it understands before anything
is replaced. If that is another one, the supervisor goes on with the old code, until the service is started again.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterable
from typing import Any

from wsd import logs
from wsd.report import Report, Retired
from wsd.supervisor.child import Child, Stage
from wsd.supervisor.chosen import Chosen
from wsd.supervisor.launch import VARIABLE, Launched
from wsd.supervisor.listening import Listening
from wsd.supervisor.team import Seat, Team

__all__ = ["HELD_BACK", "VERSION", "execute", "load", "restore"]

VERSION = 1

HELD_BACK = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCHLD,
)
"""Signals that wait until the new program has handlers for them. A mask and what is pending survive execve(2)."""


def execute(team: Team) -> None:
    """Execute this program anew, with its workers and sockets. Returns only by an exception.

    Every message to a worker must have been sent, and the signals HELD_BACK be blocked.

    Args:
        team: the workers.

    Raises:
        OSError: if the interpreter can't be executed. Then everything is as it was.
    """
    team.metrics.log_lines_lost = team.lost_lines + logs.lost()
    kept = [*_descriptors(team)]
    memory = os.memfd_create("state")
    try:
        with open(memory, "w", closefd=False) as file:
            json.dump(_dump(team), file)
        for descriptor in (*kept, memory):
            os.set_inheritable(descriptor, True)
        os.execve(*team.launcher.itself({VARIABLE: str(memory)}))
    finally:
        os.close(memory)
        for descriptor in kept:
            os.set_inheritable(descriptor, False)


def load(descriptor: int) -> dict[str, Any]:
    """Read the state that the supervisor before has left."""
    with open(descriptor) as file:
        file.seek(0)
        state: dict[str, Any] = json.load(file)
    return state


def restore(state: dict[str, Any], team: Team) -> None:
    """Put the team together again.

    Args:
        state: what :func:`load` has returned.
        team: an empty one.
    """
    os.set_inheritable(state["count"], False)
    team.metrics.add(state["metrics"])
    team.lost_lines = team.metrics.log_lines_lost
    team.retired = Retired.load(state["retired"])
    team.trouble = state["trouble"]
    team.chosen = Chosen.load(state["chosen"])
    listening = state["listening"]
    team.listening = Listening(
        _sockets(listening["admin"]), [_sockets(each) for each in listening["sets"]], shared=listening["shared"]
    )
    team.seats = [Seat(number) for number in range(state["seats"])]
    for each in state["children"]:
        child = team.adopt(Launched(each["pid"], _socket(each["pipe"])))
        child.number, child.place, child.stage = each["number"], each["place"], Stage(each["stage"])
        child.version, child.ready_at = each["version"], each["ready_at"]
        child.report = None if each["report"] is None else Report.load(each["report"])
        if each["stacks"] is not None:
            os.set_inheritable(each["stacks"][1], False)
            child.kept_stacks = each["stacks"][0], each["stacks"][1]
        if each["seated"]:
            team.seats[child.number].child = child
    team.complete.set()


def _dump(team: Team) -> dict[str, Any]:
    assert team.chosen is not None and team.listening is not None
    seated = {seat.child for seat in team.seats}
    return {
        "version": VERSION,
        "count": team.count,
        "chosen": team.chosen.dump(),
        "listening": {
            "admin": _numbers(team.listening.admin),
            "sets": [_numbers(each) for each in team.listening.sets],
            "shared": team.listening.shared,
        },
        "seats": len(team.seats),
        "trouble": team.trouble,
        "children": [_dump_child(child, seated=child in seated) for child in team.children],
        "metrics": team.metrics.dump(),
        "retired": team.retired.dump(),
    }


def _dump_child(child: Child, *, seated: bool) -> dict[str, Any]:
    return {
        "pid": child.pid,
        "pipe": child.descriptor,
        "number": child.number,
        "place": child.place,
        "stage": int(child.stage),
        "seated": seated,
        "version": child.version,
        "ready_at": child.ready_at,  # the clock goes on
        "stacks": child.kept_stacks,
        "report": None if child.report is None else child.report.dump(),
    }


def _descriptors(team: Team) -> Iterable[int]:
    assert team.listening is not None
    yield team.count
    for sock in (*team.listening.admin, *(sock for each in team.listening.sets for sock in each)):
        yield sock.fileno()
    for child in team.children:
        yield child.descriptor
        if child.kept_stacks is not None:
            yield child.kept_stacks[1]


def _numbers(sockets: Iterable[socket.socket]) -> list[int]:
    return [sock.fileno() for sock in sockets]


def _sockets(descriptors: Iterable[int]) -> list[socket.socket]:
    return [_socket(descriptor) for descriptor in descriptors]


def _socket(descriptor: int) -> socket.socket:
    os.set_inheritable(descriptor, False)
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    return sock
