"""The fault suite: a real daemon, a real Redis, and what can go wrong between them. ``python -m tests.faults``."""
