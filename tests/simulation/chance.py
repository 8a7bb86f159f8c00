"""Replaces what the standard library knows of the time and of chance by what a simulated world says, if there is one.

To be called before anything of wsd is imported: many of its modules import the functions by name.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import sys
import time
import uuid
from collections.abc import Callable
from random import Random
from typing import Any

__all__ = ["Clock", "gather", "install"]

EPOCH = 1_800_000_000.0
"""What time.time() says at the beginning."""


class Clock:
    """What clocks and dice say. As long as there is no :attr:`random`, they say what they always say."""

    def __init__(self) -> None:
        self.random: Random | None = None
        self.now: Callable[[], float] = lambda: 0.0  # seconds since the beginning
        self.step = 0.0  # seconds by which the clock on the wall has been set otherwise
        self.looks = 0  # at the clock that measures work


_clock = Clock()


def install() -> Clock:
    """Replace them; return what they say.

    Raises:
        AssertionError: if wsd was imported before.
    """
    assert not any(name.partition(".")[0] in ("wsd", "jwt", "websockets") for name in sys.modules), "too late"
    _replace(time, "monotonic", lambda: 1000.0 + _clock.now())
    _replace(time, "perf_counter", _perf_counter)
    _replace(time, "time", lambda: EPOCH + _clock.now() + _clock.step)
    _replace(secrets, "token_bytes", lambda count=32: _random().randbytes(count))
    _replace(secrets, "token_hex", lambda count=32: _random().randbytes(count).hex())
    _replace(secrets, "token_urlsafe", lambda count=32: _random().randbytes(count).hex())
    _replace(os, "urandom", lambda count: _random().randbytes(count))
    _replace(uuid, "uuid4", lambda: uuid.UUID(int=_random().getrandbits(128), version=4))
    if sys.version_info < (3, 12):
        _replace(asyncio, "gather", gather)
    for name in ("random", "uniform", "randrange", "sample", "choice", "shuffle", "getrandbits"):
        _replace(random, name, _chance(name))
    return _clock


def _random() -> Random:
    assert _clock.random is not None
    return _clock.random


def _replace(module: Any, name: str, simulated: Callable[..., Any]) -> None:
    real = getattr(module, name)

    def function(*args: Any, **options: Any) -> Any:
        return real(*args, **options) if _clock.random is None else simulated(*args, **options)

    setattr(module, name, function)


def _perf_counter() -> float:
    # Work takes time, but the same on every machine: each look at the clock is a microsecond later.
    _clock.looks += 1
    return _clock.now() + _clock.looks * 1e-6


_asyncio_gather = asyncio.gather


def gather(*awaited: Any, return_exceptions: bool = False) -> Any:
    """asyncio.gather as it is since Python 3.12: if all is done already, nobody waits for a turn of the loop."""
    if not awaited or not all(asyncio.isfuture(each) and each.done() for each in awaited):
        return _asyncio_gather(*awaited, return_exceptions=return_exceptions)
    gathered = awaited[0].get_loop().create_future()
    failures = [asyncio.CancelledError() if each.cancelled() else each.exception() for each in awaited]
    if any(failures) and not return_exceptions:
        gathered.set_exception(next(filter(None, failures)))
    else:
        pairs = zip(awaited, failures, strict=True)
        gathered.set_result([each.result() if failure is None else failure for each, failure in pairs])
    return gathered


def _chance(name: str) -> Callable[..., Any]:
    def function(*args: Any, **options: Any) -> Any:
        return getattr(_random(), name)(*args, **options)  # of the world that is active then

    return function
