"""Replies of a Redis that the test plays."""

from __future__ import annotations

__all__ = ["bulk"]


def bulk(*words: str | bytes | int) -> bytes:
    """An array of strings."""
    texts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(texts) + b"".join(b"$%d\r\n%b\r\n" % (len(text), text) for text in texts)
