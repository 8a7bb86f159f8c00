"""``wsd serve``: the daemon."""

from __future__ import annotations

import logging
from argparse import Namespace

from wsd.cli.settings import settings
from wsd.config import warnings
from wsd.logs import setup
from wsd.worker import run as run_worker

__all__ = ["run"]

logger = logging.getLogger(__name__)


def run(args: Namespace) -> int:
    """Serve until a signal comes, then drain.

    Raises:
        SettingsError: if the settings can't be used.
        StartupError: if it can't start on this machine.
    """
    chosen = settings(args)
    setup(chosen.log_level, chosen.log_format)
    for line in warnings(chosen):
        logger.warning("%s", line)
    run_worker(chosen, lambda: settings(args))
    return 0
