"""The race between the addresses of one name ("happy eyeballs", RFC 8305).

A name may have several addresses, and one of them may be a black hole: nothing comes back from it, not even a refusal.
The usual black hole is an IPv6 address without a route. So the next address is tried a moment after the one before, or
when that one has failed, and the first address that lets us in wins.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from itertools import chain, zip_longest
from typing import Any, TypeVar

__all__ = ["AllFailed", "interleave", "race"]

T = TypeVar("T")


class AllFailed(Exception):
    """No attempt has succeeded.

    Args:
        reasons: the exception of each, in the order of the attempts.
    """

    def __init__(self, reasons: Sequence[Exception]) -> None:
        super().__init__(*reasons)
        self.reasons = reasons


async def race(
    attempts: Iterable[Callable[[], Coroutine[Any, Any, T]]], delay: float, discard: Callable[[T], object]
) -> T:
    """Return what the first attempt that succeeds returns. The others are cancelled.

    Args:
        attempts: each is begun when the one before has failed, or has taken too long.
        delay: seconds that are too long.
        discard: called with what another attempt returned that succeeded at the same time.

    Raises:
        AllFailed: if none succeeds.
    """
    waiting = deque(attempts)
    tasks: list[asyncio.Task[T]] = []
    running: set[asyncio.Task[T]] = set()
    winner: asyncio.Task[T] | None = None
    try:
        while winner is None and (waiting or running):
            if waiting:
                tasks.append(asyncio.create_task(waiting.popleft()()))
                running.add(tasks[-1])
            done, running = await asyncio.wait(
                running, timeout=delay if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            winner = next((task for task in tasks if task in done and task.exception() is None), None)
    finally:
        for task in tasks:
            task.cancel()  # those that are done don't mind
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for task, result in zip(tasks, results, strict=True):
            if task is not winner and not isinstance(result, BaseException):
                discard(result)
    if winner is None:
        raise AllFailed([result for result in results if isinstance(result, Exception)])
    return winner.result()


def interleave(addresses: Iterable[tuple[int, T]]) -> list[T]:
    """Order addresses so that both families come soon (RFC 8305, section 4): one of the first family, one of the other.

    Args:
        addresses: family and address, as the resolver prefers them.
    """
    families: dict[int, dict[T, None]] = {}
    for family, address in addresses:
        families.setdefault(family, {})[address] = None
    rows = zip_longest(*families.values(), fillvalue=None)
    return [address for address in chain.from_iterable(rows) if address is not None]
