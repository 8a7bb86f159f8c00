"""The steps of a hand-over, at each of which a process may die. Tests stop processes there."""

from __future__ import annotations

from enum import Enum

__all__ = ["Step", "reached"]


class Step(Enum):
    """A step, in the order of the conversation; who reaches it stands first."""

    GIVER_BEGINS = "giver: before it says hello"
    TAKER_GREETED = "taker: before it answers hello"
    GIVER_PREPARES = "giver: the cohort is not read from any more"
    TAKER_PREPARES = "taker: before it subscribes to the cohort's topics"
    TAKER_PREPARED = "taker: topics and marks are confirmed"
    TAKER_MARKS = "taker: before it publishes the marks"
    GIVER_MARKED = "giver: a mark has come, the cut is not made yet"
    GIVER_CUT = "giver: stand-ins listen in the place of the cohort"
    TAKER_CUT = "taker: stand-ins listen for the cohort"
    GIVER_SENDS = "giver: before the first connection is sent"
    GIVER_SENT = "giver: a connection is sent, and nobody has said that it has come"
    TAKER_HAS = "taker: a connection has come, and nobody has been told"
    TAKER_ARRIVES = "taker: before a connection that has come is served"
    GIVER_LETS_GO = "giver: a connection has come, and is still open here"
    TAKER_DONE = "taker: the cohort is served, and nobody has been told"
    GIVER_DONE = "giver: the cohort is served"


def reached(step: Step) -> None:
    """Do nothing. A test that stops a process at a step replaces this function."""
