"""The units, under a systemd of their own."""
