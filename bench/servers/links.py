"""Subscribers of Redis that throw away what comes: what several workers are for Redis, without their work.

Each is a process with one connection, as a worker is, and is subscribed to all topics. A process that only waits in
recv(2) is asleep when Redis writes to it, as a worker is that is half full: so Redis pays for waking it up, too.

Usage: python -m bench.servers.links PORT REDIS_PORT LINKS TOPICS. It listens on PORT once all are subscribed.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

from bench.load.wire import topic_name

BATCH = 1000
"""Topics of one SUBSCRIBE."""

ENDINGS = {signal.SIGTERM, signal.SIGINT}
"""What ends it."""


def subscribe(redis_port: int, topics: int) -> socket.socket:
    """A connection that is subscribed to all topics."""
    link = socket.create_connection(("127.0.0.1", redis_port))
    for begin in range(0, topics, BATCH):
        names = [topic_name(number) for number in range(begin, min(begin + BATCH, topics))]
        link.sendall(" ".join(["SUBSCRIBE", *names]).encode() + b"\r\n")
    confirmed = b""
    # The last confirmation ends with the number of subscriptions. Nothing is published yet.
    while not confirmed.endswith(b":%d\r\n" % topics):
        confirmed = (confirmed + link.recv(65536))[-100:]
    return link


def serve(redis_port: int, topics: int, ready: int) -> None:
    """Be one of them, until Redis ends or somebody ends this process.

    Args:
        redis_port: of Redis.
        topics: how many.
        ready: the descriptor to say on that all are subscribed.
    """
    link = subscribe(redis_port, topics)
    os.write(ready, b"!")
    os.close(ready)
    buffer = bytearray(1 << 16)
    while link.recv_into(buffer):
        pass


def main(port: int, redis_port: int, links: int, topics: int) -> None:
    """Start them, and end them when told to end."""
    # Waited for below, and blocked from now on: one that came before would end this process and leave the others.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
    told, ready = os.pipe()
    children = []
    for _ in range(links):
        if not (child := os.fork()):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)
            serve(redis_port, topics, ready)
            os._exit(0)
        children.append(child)
    os.close(ready)
    said = b""
    while len(said) < links and (more := os.read(told, links)):
        said += more
    if len(said) == links:
        with socket.create_server(("127.0.0.1", port)):
            signal.sigwait(ENDINGS)
    for child in children:
        os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]))
