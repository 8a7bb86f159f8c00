"""The tests, in lanes.

============  ==========================================================================
``unit``      no process, no socket: the rooms of ``wsd/`` one by one, in the same folders
``whole``     real parts: sockets, redis-server, ``wsd`` in processes of its own, browsers
``faults``    Redis breaks in every way that we know
``bench``     the measurements
``house``     the project about itself: its layers, its package, its papers
``lib``       what tests are made with; holds no tests
============  ==========================================================================
"""

from pathlib import Path

ROOT = Path(__file__).parent.parent
"""The checkout."""
