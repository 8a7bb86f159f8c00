"""From an accepted socket to a session, and back."""
