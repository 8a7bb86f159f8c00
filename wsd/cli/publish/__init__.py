"""``wsd publish``."""
