"""The steps of a reload, at each of which a process may die. Tests stop the supervisor there."""

from __future__ import annotations

from enum import Enum

__all__ = ["Step", "reached"]


class Step(Enum):
    """A step, in the order in which a reload takes them; those of a worker come again for each."""

    BEGINS = "nothing has been done"
    CANDIDATE_LAUNCHED = "a process of the new code runs, and has not read the settings"
    SETTINGS_READ = "the settings are right, and nothing has changed"
    WORKER_STARTED = "a new worker was told to start"
    WORKER_READY = "the new worker accepts clients, and so does the old one"
    OLD_CLOSED = "the old worker was told to accept nobody any more"
    MOVING = "both were told to hand the clients over"
    MOVED = "the hand-over has ended"
    OLD_DRAINS = "the old worker was told to send away who is left, and to end"
    OLD_GONE = "all old workers have ended"
    EXECUTES = "the supervisor is about to execute itself"
    RESUMED = "the supervisor has executed itself, and has found its workers"


def reached(step: Step) -> None:
    """Do nothing. A test that stops the supervisor at a step replaces this function."""
