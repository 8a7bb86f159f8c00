"""Micro-benchmarks: what one step costs, without Redis, without clients, and with its reference beside it.

``python -m bench.micro`` runs them all, with pyperf; README.md of the folder above says how to read the table.

=============  ================================================================================
``work``       what can be timed, and what it is set beside
``fakes``      listeners, transports and a loop's queue that do next to nothing
``parts``      the daemon's real parts, put together around the fakes
``ingest``     bytes of Redis to the fan-out
``encode``     a payload to its frame
``passes``     the fan-out over fake connections: the cost in Python alone
``sockets``    the fan-out over TCP connections: the cost with its system calls
``requests``   a client's request to the replies
``handshakes`` an opening handshake to the greeting; a whole session
``suite``      all of them, in order
``measure``    one round of measurements, by pyperf
``table``      the results as text
=============  ================================================================================
"""
