"""What systemd is told about the daemon's life."""

from __future__ import annotations

import os
import socket

__all__ = ["notify"]

# Seconds that systemd may be too busy to take a state. A READY that is lost costs the whole start, a loop
# that stands still costs all clients.
PATIENCE = 1.0


def notify(state: str) -> bool:
    """Send a state to systemd: ``READY=1``, ``STOPPING=1``, ``RELOADING=1``, ``STATUS=...``, one a line.

    The protocol is one datagram to the socket in ``$NOTIFY_SOCKET`` (sd_notify(3)). Nothing is raised, because no
    trouble with systemd may stop the daemon.

    Returns:
        Whether the datagram was handed over; False also where systemd did not start the process.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        # A socket in the abstract name space (unix(7)).
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(PATIENCE)
            # The kernel says that there is room again for a connected socket only.
            sender.connect(address)
            sender.sendall(state.encode())
    except (OSError, ValueError):
        return False
    return True
