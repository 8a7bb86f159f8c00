"""What the supervisor needs of the admin port is little: a process that only serves the pages doesn't make them."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import asyncio, json, sys, h11
import wsd.admin.server, wsd.admin.service, wsd.admin.standing, wsd.logs, wsd.metrics, wsd.pipe, wsd.process, wsd.report
print(*sys.modules)
print(wsd.process.figures()["resident_memory_bytes"])
"""

HEAVY = {"prometheus_client", "websockets", "uvloop", "pydantic", "orjson", "redis", "hiredis", "jwt"}
"""Packages that a worker needs, and the supervisor does without."""

MOST = 25 * 2**20
"""Bytes in memory, the bound of the whole supervisor. CPython 3.11 takes 22 MiB for this, 3.12 and 3.13 take 24."""


def test_the_pages_are_served_with_little() -> None:
    ran = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    modules, size = ran.stdout.splitlines()
    assert not {name.partition(".")[0] for name in modules.split()} & HEAVY
    assert float(size) < MOST
