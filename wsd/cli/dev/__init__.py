"""``wsd dev``."""
