"""How far a client's connection is, in one table. `wsd.clients.connection` runs from the table.

What may be read and written, and for how long, depends on the phase::

    phase     | what is read                                      | what is written
    ----------+---------------------------------------------------+---------------------------------------------------
    HANDSHAKE | the head of the request                           | nothing before the response
    ARRIVING  | nothing; what was read already is kept            | nothing
    OPEN      | frames                                            | frames: at once, or to the backlog while lagging
    AWAY      | nothing                                           | nothing
    DOOMED    | as in CLOSING                                     | nothing more: too much waits
    CLOSING   | frames, for the client's close frame; bounded     | what waits, our close frame at its end
    ENDING    | bytes that are thrown away; bounded               | what the socket has been handed
    DEAF      | nothing: the client has sent its end, or too much | what the socket has been handed
    GONE      | nothing                                           | nothing

Why anything is read in ENDING: to close a socket with unread bytes resets the connection, and a reset makes the kernel
of the client throw away our last words.

Why DOOMED: a write finds out that too much waits, and its caller may be iterating over the listeners of a topic, or
over the effects of a session. So the write only notes it, and the connection is closed at the next turn of the loop.

Why ARRIVING and AWAY: a connection may move to another process of the host, with its record (`wsd.clients.record`). In
the old process it is AWAY from the moment when the record was taken until the other process has it, or hasn't: then it
is OPEN again. In the new process it is ARRIVING from the moment when there is a socket until messages reach it. Both
last as long as the other process takes, which whoever moves connections bounds (`wsd.clients.moving`).

What is asked elsewhere, because it is no phase:

- whether the socket is read from now: a client above its rate, or one that sends much, isn't for a while, in any phase;
  nor is one that is about to move;
- the library's own state, which is a slice ahead: the library has read a client's close frame when the requests before
  that frame are still to be answered;
- whether the transport is closing, which uvloop may find out by itself: a write failed, and ``connection_lost`` is to
  come.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["CLOSE_TIMEOUT", "HANDSHAKE_TIMEOUT", "Phase"]

HANDSHAKE_TIMEOUT = 10.0
"""Seconds from accepting a connection to its complete request."""

CLOSE_TIMEOUT = 2.0
"""Seconds for the client to answer a close frame, and to close; then the connection is aborted."""


class Phase(Enum):
    """How far a connection is; see the table above."""

    HANDSHAKE = "handshake"
    ARRIVING = "arriving"
    OPEN = "open"
    AWAY = "away"
    DOOMED = "doomed"
    CLOSING = "closing"
    ENDING = "ending"
    DEAF = "deaf"
    GONE = "gone"

    # The columns, set below. An attribute is read three times as fast as a dictionary by phase.
    early: bool  # whether what is read comes before the connection is open
    reads: bool  # whether the socket may be read from
    takes_frames: bool  # whether what is read is given to the library as frames
    seconds: float | None  # after which the connection is aborted; None if the phase has no such end
    leads_to: tuple[Phase, ...]  # the phases that may follow; a set would hash an enum in Python


def _row(phase: Phase, *leads_to: Phase, early: bool = False, reads: bool, frames: bool, seconds: float | None) -> None:
    phase.early = early
    phase.reads, phase.takes_frames, phase.seconds, phase.leads_to = reads, frames, seconds, leads_to


def _table() -> None:
    handshake, arriving, open_, away, doomed, closing, ending, deaf, gone = Phase
    # 101, any other answer, or none.
    _row(handshake, open_, ending, gone, early=True, reads=True, frames=False, seconds=HANDSHAKE_TIMEOUT)
    _row(arriving, open_, gone, early=True, reads=False, frames=False, seconds=None)
    # The record was taken, too much waits, our close frame, the client's or a breach, the socket is lost.
    _row(open_, away, doomed, closing, ending, gone, reads=True, frames=True, seconds=None)
    # The other process could not take it, or has it.
    _row(away, open_, gone, reads=False, frames=False, seconds=None)
    _row(doomed, closing, ending, gone, reads=True, frames=True, seconds=None)
    _row(closing, ending, deaf, gone, reads=True, frames=True, seconds=CLOSE_TIMEOUT)
    _row(ending, deaf, gone, reads=True, frames=False, seconds=CLOSE_TIMEOUT)
    _row(deaf, gone, reads=False, frames=False, seconds=CLOSE_TIMEOUT)
    _row(gone, gone, reads=False, frames=False, seconds=None)


_table()
