"""Addresses of servers, from URLs as users write them."""

from __future__ import annotations

from wsd.config.redis_url import parse_deployment
from wsd.deployment import Address, Standalone

__all__ = ["parse_address"]


def parse_address(url: str) -> Address:
    """Take the URL of one server apart."""
    deployment = parse_deployment(url)
    assert isinstance(deployment, Standalone), "the URL of one server"
    return deployment.server
