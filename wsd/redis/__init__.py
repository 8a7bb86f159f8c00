"""The side of Redis: whom to connect to, and the link."""
