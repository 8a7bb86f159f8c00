"""wsd: a WebSocket fan-out daemon for Redis Pub/Sub."""

__version__ = "0.1.0"
