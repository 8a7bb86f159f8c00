"""One worker: one process, one event loop. The only place where the parts meet.

==============  ==========================================================
``worker``      the parts, and how they are wired
``alone``       a worker that is the whole service, for ``wsd dev``
``supervised``  a worker of a service, which does what the supervisor says
==============  ==========================================================
"""

from wsd.worker.worker import RESERVED_DESCRIPTORS, Worker

__all__ = ["RESERVED_DESCRIPTORS", "Worker"]
