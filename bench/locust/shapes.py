"""Load shapes: how many users there are at which time.

All read Locust's own options: users, spawn rate, run time. ``--wsd-shape`` chooses one, on the command line or in the
form of Locust's page.
"""

# Locust is typed, but not all of it.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

from locust import LoadTestShape

__all__ = ["SHAPES", "Shape", "Steps", "Storm"]


class Shape(LoadTestShape):
    """The base of all."""

    abstract = True
    use_common_options = True  # Locust's form shows users, spawn rate and run time
    anew = False  # whether connections are made anew while messages are published, so that sequences begin anew
    storm: Callable[[], None] = staticmethod(lambda: None)  # makes all connections anew; set before the first tick

    def tick(self) -> tuple[int, float] | None:
        """Locust asks once a second: return users, and users to start or stop per second; None ends the run."""
        options = self._options()
        if options.run_time and self.get_run_time() > options.run_time:
            return None
        users = self.users()
        return None if users is None else (users, options.spawn_rate or options.num_users or 1)

    def users(self) -> int | None:
        """Return how many users there should be now; None ends the run."""
        return int(self._options().num_users or 1)

    def _options(self) -> Any:
        assert self.runner is not None
        return self.runner.environment.parsed_options


class Steps(Shape):
    """More and more users, up to all. Each step takes long enough to read its numbers."""

    def users(self) -> int | None:
        """See :meth:`Shape.users`."""
        options = self._options()
        step = int(self.get_run_time() / options.wsd_step_seconds) + 1
        if step > options.wsd_steps:
            return None
        return ceil(int(options.num_users or 1) * step / int(options.wsd_steps))


class Storm(Shape):
    """All users stay, and again and again all their connections are reset and made anew at once."""

    anew = True

    def __init__(self) -> None:
        super().__init__()
        self._storms = 0  # so far

    def reset_time(self) -> None:
        """The run begins anew."""
        super().reset_time()
        self._storms = 0

    def users(self) -> int | None:
        """See :meth:`Shape.users`."""
        due = int(self.get_run_time() / self._options().wsd_storm_seconds)
        if due > self._storms:
            self._storms = due
            self.storm()
        return super().users()


SHAPES: dict[str, type[Shape]] = {"steps": Steps, "storm": Storm}
"""By the name in ``--wsd-shape``."""
