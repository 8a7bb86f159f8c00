"""``wsd tail``."""
