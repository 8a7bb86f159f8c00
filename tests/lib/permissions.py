"""What systemd/README.md tells to permit to wsd's user of Redis."""

from __future__ import annotations

__all__ = ["ACL", "CLUSTER_ACL", "SENTINEL_ACL"]

ACL = ("+@connection", "+@pubsub")
"""Everywhere."""

CLUSTER_ACL = ("+cluster|slots", "+cluster|info", "+cluster|nodes")
"""In addition, to a user of a Cluster."""

SENTINEL_ACL = ("+sentinel|get-master-addr-by-name",)
"""In addition, to a user of Sentinels."""
