"""Publishing: what redis-py is told. With a real Redis: tests/whole/cli."""

from __future__ import annotations

from wsd.cli.publish.publisher import tls_options
from wsd.tls import TLS


def test_what_a_url_says_about_tls_is_said_to_redis_py() -> None:
    options = {"ssl_ca_certs": "/ca.pem", "ssl_cert_reqs": "none", "ssl_check_hostname": "false"}
    assert tls_options(TLS(options)) == options | {"ssl_check_hostname": False}
    assert tls_options(TLS({"ssl_check_hostname": "true"})) == {"ssl_check_hostname": True}
