"""Shares: which connections are due the same of a pass.

The topics of a pass are walked over their listeners (topics x listeners, never messages x listeners), which tells for
each connection which of them it is due.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from itertools import islice

from wsd.delivery.message import Audience, Run
from wsd.delivery.topics import Listener

__all__ = ["Share", "only", "sort"]

SORT_STEP = 2048
"""Listeners that are sorted between two looks, 0.2 ms."""

Share = tuple[list[Listener], list[list[Run]]]
"""Connections that are due the same of a pass, and what: the runs of each audience that they belong to."""


def sort(runs: list[Run], shares: deque[Share], count: Callable[[Audience, int], None]) -> Iterator[None]:
    """Find out what a pass owes to whom, in steps of at most 0.2 ms.

    Args:
        runs: the pass.
        shares: gets what is found.
        count: called with each audience and the number of messages that its listeners get in all.
    """
    sources: dict[Audience, list[Run]] = {}  # the runs of each audience
    for run in runs:
        same = sources.get(run.audience)
        if same is None:
            sources[run.audience] = [run]
        else:
            same.append(run)
        if run.place % SORT_STEP == SORT_STEP - 1:
            yield
    if len(sources) == 1:
        connections = list(runs[0].audience.listeners())
        count(runs[0].audience, sum(len(run.frames) for run in runs) * len(connections))
        shares.append((connections, [runs]))
        return
    wanted: defaultdict[Listener, list[int]] = defaultdict(list)  # where what each connection is due begins
    begun: dict[int, list[Run]] = {}  # the runs of an audience, by the place of the first
    since = 0  # connections since the last look at the clock
    for audience, same in sources.items():
        listeners = audience.listeners()
        frames = len(same[0].frames) if len(same) == 1 else sum(len(run.frames) for run in same)
        count(audience, frames * len(listeners))
        place = same[0].place
        begun[place] = same
        since += len(listeners)
        if since < SORT_STEP:
            for each in listeners:
                wanted[each].append(place)
            continue
        since = 0
        remaining = iter(list(listeners))
        for _ in range(0, len(listeners), SORT_STEP):
            for each in islice(remaining, SORT_STEP):
                wanted[each].append(place)
            yield
    found: dict[int | tuple[int, ...], list[Listener]] = {}  # those that are due the same
    for each, due in wanted.items():
        key = due[0] if len(due) == 1 else tuple(due)
        if (alike := found.get(key)) is not None:
            alike.append(each)
        else:
            found[key] = alike = [each]
            shares.append((alike, [begun[due[0]]] if len(due) == 1 else [begun[place] for place in due]))
        since += 1
        if since >= SORT_STEP:
            since = 0
            yield


def only(sources: list[list[Run]]) -> bytes | None:
    """The frame of a share, if there is but one."""
    runs = sources[0]
    if len(sources) == len(runs) == len(runs[0].frames) == 1:
        return runs[0].frames[0]
    return None
