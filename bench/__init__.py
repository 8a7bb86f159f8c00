"""The suite that measures wsd: see README.md in this folder, and ``python -m bench --help``.

::

    measuring    a suite: what is chosen, in which order, and what is left
    rows/        a file for each row: its loads, servers, goals, plots and words
    measure/     one load on one server: what is read of whom, and what a reader must know before believing it
    load/        the generators: shard (clients), publisher, stops; the bytes they send, and how they count
    servers/     what is measured, and what it is measured against
    report/      what becomes of results: the page, plots, tables, a comparison, the size of a fleet
    locust/      the same generators behind Locust's front
    micro/       what single steps cost, without Redis and without clients

``rows`` knows ``measure``, which knows ``load`` and ``servers``. Results are JSON.
"""
