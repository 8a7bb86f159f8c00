"""TLS to Redis: which files are used, when they are read again, and what real servers make of it."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.lib.servers import RedisServer, eventually, free_port, serving
from tests.whole.redis.test_link import certificate, linked
from wsd.config import Settings
from wsd.redis.address import parse_address
from wsd.tls import TLS, check_options


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with certificate and key as every kind of mistake leaves them."""
    certificate(tmp_path)
    cert, key = (tmp_path / "cert.pem").read_bytes(), (tmp_path / "key.pem").read_bytes()
    (tmp_path / "both.pem").write_bytes(cert + key)
    (tmp_path / "rubbish.pem").write_text("no certificate")
    (tmp_path / "empty.pem").touch()
    private = serialization.load_pem_private_key(key, None)
    for name, encryption in (
        ("encrypted.pem", serialization.BestAvailableEncryption(b"hunter2")),
        ("binary.pem", serialization.BestAvailableEncryption(b"\xff")),
    ):
        (tmp_path / name).write_bytes(
            private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        )
    (tmp_path / "other.pem").write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return tmp_path


def query(folder: Path, **options: str) -> str:
    """Options of a URL; of a file, its name in the folder."""
    files = {name: f"{folder}/{value}" for name, value in options.items() if name.endswith(("certs", "file"))}
    return "&".join(f"{name}={value}" for name, value in (options | files).items())


@pytest.mark.parametrize(
    "options",
    [
        {"ssl_ca_certs": "cert.pem"},
        {"ssl_certfile": "both.pem"},
        {"ssl_certfile": "cert.pem", "ssl_keyfile": "key.pem"},
        {"ssl_certfile": "cert.pem", "ssl_keyfile": "both.pem", "ssl_ca_certs": "both.pem"},
        {"ssl_certfile": "cert.pem", "ssl_keyfile": "encrypted.pem", "ssl_password": "hunter2"},
        {"ssl_certfile": "cert.pem", "ssl_keyfile": "binary.pem", "ssl_password": "%ff"},
    ],
)
def test_files_that_can_be_used(folder: Path, options: dict[str, str]) -> None:
    assert parse_address(f"rediss://h?{query(folder, **options)}").tls is not None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ssl_ca_certs": "none.pem"}, "ssl_ca_certs: can't read '{}/none.pem': No such file"),
        ({"ssl_ca_certs": ""}, "ssl_ca_certs: can't read '{}/': Is a directory"),
        ({"ssl_ca_certs": "rubbish.pem"}, "ssl_ca_certs: '{}/rubbish.pem' holds no certificates in PEM"),
        ({"ssl_ca_certs": "empty.pem"}, "ssl_ca_certs: '{}/empty.pem' holds no certificates in PEM"),
        ({"ssl_ca_certs": "key.pem"}, "ssl_ca_certs: '{}/key.pem' holds no certificates in PEM"),
        ({"ssl_ca_certs": "%00"}, "ssl_ca_certs: can't read '{}/\\x00': that is no path"),
        ({"ssl_certfile": "none.pem"}, "ssl_certfile: can't read '{}/none.pem': No such file"),
        ({"ssl_certfile": "cert.pem"}, "ssl_certfile: '{}/cert.pem' holds no private key in PEM"),
        ({"ssl_certfile": "rubbish.pem"}, "ssl_certfile: '{}/rubbish.pem' holds no certificate in PEM"),
        ({"ssl_certfile": "cert.pem", "ssl_keyfile": "none.pem"}, "ssl_keyfile: can't read '{}/none.pem': No such"),
        ({"ssl_certfile": "cert.pem", "ssl_keyfile": "cert.pem"}, "ssl_keyfile: '{}/cert.pem' holds no private key"),
        ({"ssl_certfile": "key.pem", "ssl_keyfile": "key.pem"}, "ssl_certfile: '{}/key.pem' holds no certificate"),
        (
            {"ssl_certfile": "cert.pem", "ssl_keyfile": "other.pem"},
            "ssl_keyfile: the key in '{}/other.pem' is not that of the first certificate in '{}/cert.pem'",
        ),
        (
            {"ssl_certfile": "cert.pem", "ssl_keyfile": "encrypted.pem"},
            "ssl_keyfile: the key in '{}/encrypted.pem' is encrypted, and ssl_password is missing",
        ),
        (
            {"ssl_certfile": "cert.pem", "ssl_keyfile": "encrypted.pem", "ssl_password": "hunter3"},
            "ssl_keyfile: the key in '{}/encrypted.pem' is encrypted, and ssl_password does not open it",
        ),
        (
            {"ssl_certfile": "cert.pem", "ssl_keyfile": "encrypted.pem", "ssl_password": "hunter2" * 1000},
            "ssl_keyfile: the key in '{}/encrypted.pem' is encrypted, and ssl_password does not open it",
        ),
    ],
)
def test_what_is_wrong_with_which_file_is_said(folder: Path, options: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - what it says is the next line's
        parse_address(f"rediss://:hunter2@h?{query(folder, **options)}")
    assert str(caught.value).startswith(words.replace("{}", str(folder)))
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"ssl_keyfile": "x"},
        {"ssl_password": "x"},
        {"ssl_cert_reqs": "none", "ssl_check_hostname": "true"},
        {"ssl_cert_reqs": "none", "ssl_ca_certs": "x"},
    ],
)
def test_options_that_would_be_ignored_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r" only (beside|with) "):
        check_options(options)


# Files that change.


def test_files_are_read_again_when_they_have_changed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cert, key = folder / "cert.pem", folder / "key.pem"
    tls = TLS({"ssl_ca_certs": str(cert), "ssl_certfile": str(cert), "ssl_keyfile": str(key)})
    first = tls.renewed()
    assert tls.renewed() is first
    os.utime(cert, ns=(1, 1))
    second = tls.renewed()
    assert second is not first
    assert caplog.text.count("read the files for TLS to Redis again") == 1

    # As Kubernetes does it: another folder behind the same link.
    link = folder / "link"
    link.symlink_to(folder)
    tls = TLS({"ssl_ca_certs": str(link / "cert.pem")})
    other = folder / "other"
    other.mkdir()
    certificate(other)
    (folder / "next").symlink_to(other)
    (folder / "next").rename(link)
    before = tls.context
    assert tls.renewed() is not before


def test_files_that_are_broken_leave_those_that_were_read(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    cert, key = folder / "cert.pem", folder / "key.pem"
    tls = TLS({"ssl_certfile": str(cert), "ssl_keyfile": str(key)})
    first = tls.renewed()
    old_key = key.read_bytes()
    key.unlink()
    for _ in range(3):
        assert tls.renewed() is first
    assert caplog.text.count("the old ones stay in use: ssl_keyfile: can't read") == 1, "it is said once"
    key.write_bytes((folder / "other.pem").read_bytes())  # half of a new pair
    assert tls.renewed() is first
    assert "is not that of the first certificate" in caplog.text
    key.write_bytes(old_key)
    assert tls.renewed() is not first


# Real servers.


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


async def test_a_reload_reads_renewed_files_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    certificate(tmp_path)
    url = f"rediss+cluster://127.0.0.1:{free_port()},127.0.0.1:{free_port()}?ssl_ca_certs={tmp_path}/cert.pem"
    async with serving(url, wait=False) as worker:
        caplog.clear()
        os.utime(tmp_path / "cert.pem", ns=(1, 1))
        worker.reload(lambda: Settings.model_validate({"auth": "none", "redis_url": url}))
    assert caplog.text.count("read the files for TLS to Redis again") == 1


async def test_sentinels_and_nodes_use_renewed_files_too(tmp_path: Path) -> None:
    """All that the URL names share what is read."""
    certificate(tmp_path)
    address = parse_address(f"rediss://h?ssl_ca_certs={tmp_path}/cert.pem")
    assert address.tls is not None
    assert address.at("elsewhere", 1).tls is address.tls
    assert isinstance(address.tls.renewed(), ssl.SSLContext)
