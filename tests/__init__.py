"""The tests, in lanes.

============  =======================================================  ==================================
lane          what its tests need                                      run it alone
============  =======================================================  ==================================
``unit``      nothing: no process, no socket, no sleep. The rooms of   ``make test-unit``
              ``wsd/`` one by one, in the same folders
``whole``     real parts: sockets, redis-server, ``wsd`` in processes  ``make test ARGS=tests/whole``
              of its own, browsers
``faults``    Redis in every deployment, which breaks in every way     ``make test ARGS=tests/faults``
              that we know
``handover``  a crowd of clients of every kind, and a daemon that is   ``make test ARGS=tests/handover``
              reloaded, or killed at every step of a reload
``bench``     the measurements, played small                           ``make test ARGS=tests/bench``
``house``     the project itself: its layers, lanes, package, papers   ``make test ARGS=tests/house``
``lib``       holds no tests: what tests are made with
============  =======================================================  ==================================

``make test`` runs all of them, in three processes at the same time. ``make test JOBS=0 ARGS="--pdb -k WORDS"`` runs
some in one process, to look into. A file goes to a process whole, so its tests share servers and keep their order.
Each process has a Redis of its own. A port from ``bench.processes.free_port`` is nobody else's until the process ends.

A test waits for an event, or for a condition (``tests.lib.waiting``), and gives up after a minute. Where it must hold
wsd to a time, it allows what a busy machine adds (``BUSY``).

A few examples of each property are tried, always the same. To look for what nobody has found, let Hypothesis try
many: ``make test-unit ARGS=--hypothesis-profile=thorough``.
"""

from pathlib import Path

ROOT = Path(__file__).parent.parent
"""The checkout."""
