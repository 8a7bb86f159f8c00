"""One measurement: a load on a server, and what the machine says meanwhile."""
