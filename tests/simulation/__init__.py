"""wsd in a world of its own: the real code, on a clock that jumps, in a network and with a Redis that are models.

Everything that happens by chance comes from one seed, so that a run can be repeated exactly.
"""
