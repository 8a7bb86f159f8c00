"""``wsd worker``: a worker of ``wsd serve``, which nobody types. It reads the settings if the supervisor says so."""

from __future__ import annotations

from argparse import Namespace
from importlib import import_module

from wsd.cli.settings import settings
from wsd.worker.supervised import run as run_supervised

__all__ = ["run"]


def run(descriptor: int, args: Namespace) -> int:
    """Do what the supervisor says, until it says that this is the end.

    Args:
        descriptor: of the pipe to the supervisor.
        args: those of ``wsd serve``.

    Raises:
        SettingsError: if the settings can't be used, at the first start of the service.
        StartupError: if it can't start on this machine.
    """
    run_supervised(descriptor, lambda: settings(args), _state)
    return 0


def _state() -> int:
    # The whole of it, so that a supervisor that could not even be imported is found out before it is needed.
    version: int = import_module("wsd.supervisor.main").STATE_VERSION
    return version
