"""The generators: what they send, how they count, and how they are driven."""
