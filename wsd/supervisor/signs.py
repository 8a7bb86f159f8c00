"""Signs of life: what systemd is told while the service serves, reloads or drains."""

from __future__ import annotations

import asyncio

from wsd import systemd
from wsd.supervisor.team import Team

__all__ = ["Signs"]

MORE_TIME = 15.0
"""Seconds that systemd is asked for while a drain or a reload goes on."""

EXTEND_EVERY = 5.0
"""Seconds between two such requests, and between two lines of status."""


class Signs:
    """Tells systemd of the service. What happens once, as READY, is told where it happens.

    Args:
        team: the workers.
    """

    def __init__(self, team: Team) -> None:
        self._team = team
        self._rate = 0.0  # deliveries a second, lately

    async def extend_timeout(self) -> None:
        """Ask systemd for more time, again and again."""
        while True:
            systemd.extend_timeout(MORE_TIME)
            await asyncio.sleep(EXTEND_EVERY)

    async def watchdog(self) -> None:
        """Tell systemd that the service lives, as long as every worker's event loop turns."""
        while True:
            interval = systemd.watchdog_interval()
            if interval is not None and self._team.lives():
                systemd.watchdog()
            await asyncio.sleep(interval or EXTEND_EVERY)

    async def tell_status(self) -> None:
        """Tell systemd how the service stands, again and again."""
        before = self._deliveries()
        while True:
            await asyncio.sleep(EXTEND_EVERY)
            now = self._deliveries()
            self._rate, before = max(now - before, 0) / EXTEND_EVERY, now
            systemd.status(self.status())

    def _deliveries(self) -> int:
        """How many messages were handed to connections, by all workers that there ever were."""
        reports = [child.report.metrics for child in self._team.children if child.report is not None]
        return sum(int(metrics.get("deliveries") or 0) for metrics in (*reports, self._team.retired.metrics))

    def status(self) -> str:
        """What ``systemctl status`` shows."""
        team = self._team
        workers = [seat.child for seat in team.seats if seat.child is not None]
        clients = sum(child.clients for child in workers)
        problems = {child.report.unready for child in workers if child.report is not None} - {""}
        counted = "1 worker" if len(team.seats) == 1 else f"{len(team.seats)} workers"
        said = [f"{counted}, {clients} clients, {self._rate:.0f} deliveries/s"]
        said += sorted(problems) or ["Redis is connected"]
        if team.trouble:
            said.append(team.trouble)
        return "; ".join(said)
