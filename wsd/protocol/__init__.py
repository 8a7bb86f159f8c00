"""The words and bytes of the client protocol, without state."""
