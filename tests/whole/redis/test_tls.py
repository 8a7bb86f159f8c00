"""TLS to real servers. Which files are used, and when they are read again: tests/unit/test_tls.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.processes import free_port
from tests.lib.certificates import certificate
from tests.lib.links import linked
from tests.lib.servers import RedisServer
from tests.lib.waiting import eventually


@pytest.fixture
def tls_redis(make_redis: Callable[..., RedisServer], tmp_path: Path) -> tuple[RedisServer, int]:
    """A Redis with a certificate for 127.0.0.1 in the folder, and its port for TLS."""
    cert, key = certificate(tmp_path)
    port = free_port()
    options = ["--tls-port", str(port), "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert]
    try:
        return make_redis(*options), port
    except AssertionError:
        pytest.skip("this redis-server is built without TLS")


async def test_the_certificate_is_checked(tls_redis: tuple[RedisServer, int], tmp_path: Path) -> None:
    server, port = tls_redis
    server("CONFIG", "SET", "tls-auth-clients", "no")
    trusted = f"ssl_ca_certs={tmp_path}/cert.pem"
    for url in (f"rediss://127.0.0.1:{port}", f"rediss://127.0.0.1:{port}?ssl_cert_reqs=optional"):
        async with linked(url, wait=False) as (link, _):
            await eventually(lambda: "certificate verify failed" in link.problem)
    # The certificate is that of 127.0.0.1, by that name.
    for more in ("", "&ssl_cert_reqs=optional", "&ssl_cert_reqs=optional&ssl_check_hostname=true"):
        async with linked(f"rediss://127.1:{port}?{trusted}{more}", wait=False) as (link, _):
            await eventually(lambda: "Hostname mismatch" in link.problem)
    for url in (
        f"rediss://127.0.0.1:{port}?{trusted}",
        f"rediss://127.0.0.1:{port}?{trusted}&ssl_cert_reqs=optional",
        f"rediss://127.1:{port}?{trusted}&ssl_check_hostname=false",
        f"rediss://127.1:{port}?{trusted}&ssl_cert_reqs=optional&ssl_check_hostname=false",
        f"rediss://127.1:{port}?ssl_cert_reqs=none",
    ):
        async with linked(url) as (link, recorder):
            link.subscribe(b"tls")
            await recorder.until("confirmed", b"tls")


async def test_a_renewed_certificate_is_used_when_the_link_is_made_again(
    tls_redis: tuple[RedisServer, int], tmp_path: Path
) -> None:
    server, port = tls_redis
    files = f"ssl_ca_certs={tmp_path}/cert.pem&ssl_certfile={tmp_path}/cert.pem&ssl_keyfile={tmp_path}/key.pem"
    async with linked(f"rediss://127.0.0.1:{port}?{files}") as (link, recorder):
        link.subscribe(b"c")
        await recorder.until("confirmed", b"c")
        server.stop()
        certificate(tmp_path)  # signed by nobody but itself: whoever knows only the old one trusts it not
        server.start()
        await recorder.until("gap", b"c")
        # A file that is broken keeps nobody out.
        (tmp_path / "key.pem").write_text("half")
        server("CLIENT", "KILL", "TYPE", "pubsub")
        await eventually(lambda: recorder.count("gap") == 2)
