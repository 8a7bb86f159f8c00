"""What tests do to a process of wsd from within.

Python imports a module of this name when it starts, if the folder is on PYTHONPATH. What is to be done stands in the
JSON file that HANDOVER_INJECTION names, and may change while processes run:

- ``values``: what constants are to be, as ``module:NAME``; for modules that are imported from then on.
- ``functions``: functions that tell that a step is reached, as ``module:name``; the step is their first argument.
- ``traps``: what is to happen at a step of such a function: ``stop``, ``hang``, ``raise``, ``exit``, or ``tell``, which
  is nothing. The first process that gets there claims the trap, by the file that ``told`` names, and writes its process
  id into it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

_FILE = os.environ.get("HANDOVER_INJECTION", "")


def _orders() -> dict[str, Any]:
    with suppress(OSError):
        orders: dict[str, Any] = json.loads(Path(_FILE).read_text())
        return orders
    return {}


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of wsd as Python does, and changes them when they have been executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != "wsd":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            _change_after(spec.loader)
        return spec


def _change_after(loader: Any) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        _change(module)

    loader.exec_module = exec_module


def _change(module: ModuleType) -> None:
    orders = _orders()
    for place, value in orders.get("values", {}).items():
        name, _, attribute = place.partition(":")
        if name == module.__name__:
            assert hasattr(module, attribute), f"there is no {place}"
            setattr(module, attribute, value)
    for place in orders.get("functions", ()):
        name, _, attribute = place.partition(":")
        if name == module.__name__:
            setattr(module, attribute, _trapped(place, getattr(module, attribute)))


def _trapped(place: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def reached(step: Any, *args: Any, **options: Any) -> Any:
        result = function(step, *args, **options)
        for trap in _orders().get("traps", ()):
            if trap["function"] == place and trap["step"] == getattr(step, "name", step) and _claim(trap["told"]):
                _spring(trap["act"])
        return result

    return reached


def _claim(told: str) -> bool:
    mine = f"{told}.{os.getpid()}"
    Path(mine).write_text(str(os.getpid()))
    try:
        os.link(mine, told)  # never seen half written, and by one process only
    except FileExistsError:
        return False
    finally:
        os.unlink(mine)
    return True


def _spring(act: str) -> None:
    if act == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif act == "hang":
        time.sleep(3600)
    elif act == "exit":
        os._exit(70)
    elif act == "raise":
        raise RuntimeError("injected")


if _FILE:
    sys.meta_path.insert(0, _Finder())
