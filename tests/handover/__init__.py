"""Reloads under load, and what clients see of them: nothing. ``python -m tests.handover``."""
