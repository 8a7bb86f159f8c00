"""Logging: one line per event, as text or JSON.

Levels: DEBUG for the life of each client (connected, authorized, its topics, gone), INFO for what an operator expects
(start, ready, healed, reload, drain), WARNING for what somebody should look at (the link lost, clients refused, lines
lost), ERROR for bugs and a reload that failed, CRITICAL for a bug that ends the process. Nothing is logged per message.
The caller escapes (``%a``) what comes from clients, publishers or Redis; text lines escape once more what is not
printable. On systemd's journal a line has its priority in front and no time, see :mod:`wsd.logs.journal`.

No line waits for its reader, see :mod:`wsd.logs.outlet`. A line costs the loop 9 µs of CPU as text and 20 as JSON, and
the thread 2 more. When the loop itself wrote to a file, that was 11 and 15; on a full pipe it waited without an end.
"""

from wsd.logs.bounded import BoundedLogger, flush, tick
from wsd.logs.lines import fields, printable
from wsd.logs.process import active, catch_all, drain, lost, say, set_level, setup

__all__ = [
    "BoundedLogger",
    "active",
    "catch_all",
    "drain",
    "fields",
    "flush",
    "lost",
    "printable",
    "say",
    "set_level",
    "setup",
    "tick",
]
