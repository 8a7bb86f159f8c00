"""A Redis on another host: in a network namespace of its own, to which the way can be lost without a word."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

import pytest

from tests.lib.servers import RedisServer

__all__ = ["RedisAfar", "needs_namespaces"]


class RedisAfar(RedisServer):
    """A redis-server on another host. Only root may make one."""

    def __init__(self) -> None:
        # 198.18.0.0/15 is for tests of networks (RFC 2544). Each process has four addresses of it.
        block, place = os.getpid() // 64 % 256, os.getpid() % 64 * 4
        self.here, self.host = (f"198.18.{block}.{place + last}" for last in (1, 2))
        self._name = f"wsd-{os.getpid()}"
        _ip("netns", "add", self._name)
        try:
            _ip("link", "add", self._name, "type", "veth", "peer", "name", "wsd", "netns", self._name)
            _ip("addr", "add", f"{self.here}/30", "dev", self._name)
            _ip("link", "set", self._name, "up")
            self._ip_there("addr", "add", f"{self.host}/30", "dev", "wsd")
            self._ip_there("link", "set", "wsd", "up")
            super().__init__()
        except BaseException:
            self._forget()
            raise

    def command(self) -> list[str]:
        """The command line."""
        return ["ip", "netns", "exec", self._name, *super().command(), "--protected-mode", "no"]

    def lose_the_way(self) -> None:
        """Let nothing come back from it any more, acknowledgements included."""
        self._ip_there("route", "add", "blackhole", f"{self.here}/32")

    def remove(self) -> None:
        """End it, and remove its files and its host."""
        super().remove()
        self._forget()

    def _ip_there(self, *words: str) -> None:
        _ip("-n", self._name, *words)

    def _forget(self) -> None:
        _ip("netns", "del", self._name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@cache
def _can_make_namespaces() -> bool:
    name = f"wsd-{os.getpid()}-try"
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode != 0:
        return False
    _ip("netns", "del", name)
    return True


needs_namespaces = pytest.mark.skipif(not _can_make_namespaces(), reason="only root can make network namespaces")
