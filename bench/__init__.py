"""The suite that measures wsd: see README.md in this folder, and ``python -m bench --help``.

==============  ==========================================================================================
``wire``        bytes: the payload with its sequence number and time, client frames, tokens
``histogram``   latencies in fixed buckets, which add up over processes and machines
``scan``        counts messages in what a socket brought, at millions a second; checks sequences on samples
``dialects``    how a client of each server comes to be subscribed
``shard``       the generator: thousands of sockets in one process, driven over its standard input
``publisher``   the other generator: an open loop that publishes at a fixed rate
``control``     drives the two, as child processes
``machine``     what the system says about processes and about itself
``servers``     starts what is measured, and what it is measured against
``scenarios``   what is measured: the rows of the goals table, and the grid
``run``         measures a scenario on a server
``goals``       holds the results to the goals
``plots``       SVG
``sizing``      from a result to the cores and the memory of a fleet
``report``      one HTML page of a result; ``compare`` sets two side by side
``locust``      the same generator behind Locust's front
==============  ==========================================================================================
"""
