"""The suite's generator behind Locust's front: see README.md in the folder above.

==============  ==========================================================================================
``locustfile``  what ``locust -f`` reads: the classes of users, and where each event of Locust's goes
``options``     the options, and what they mean together
``shapes``      how many users there are at which time
``conductor``   what only the master has: the publisher, and the order of events
``node``        what each process with users has; the conductor's other end
``run``         what is known of one run, and what a reader must know before believing it
``replicas``    the wsd that a run measures: started for it if need be, and watched
``stats``       from what a shard counted to Locust's statistics, and to the charts
``tables``      Locust's tables with fractions of milliseconds, and without zeros for what was not timed
``page``        the page ``/wsd`` beside Locust's own
==============  ==========================================================================================

A package may not be named ``locust`` where it can hide Locust: nothing may put the folder ``bench`` itself on
``sys.path``.
"""
