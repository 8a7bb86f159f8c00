"""TLS to Redis: which files are used, and when they are read again. What real servers make of it:
tests/whole/redis/test_tls.py."""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path
from unittest.mock import patch

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.lib.certificates import certificate
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


def within(folder: Path, options: dict[str, str]) -> dict[str, str]:
    """The same options, with files that are in the folder."""
    return {name: f"{folder}/{value}" if name.endswith(("certs", "file")) else value for name, value in options.items()}


@pytest.mark.parametrize(
    "options",
    [
        {"ssl_ca_certs": "cert.pem"},
        {"ssl_certfile": "both.pem"},
        {"ssl_certfile": "cert.pem", "ssl_keyfile": "key.pem"},
        {"ssl_certfile": "cert.pem", "ssl_keyfile": "both.pem", "ssl_ca_certs": "both.pem"},
        {"ssl_certfile": "cert.pem", "ssl_keyfile": "encrypted.pem", "ssl_password": "hunter2"},
        {"ssl_certfile": "cert.pem", "ssl_keyfile": "binary.pem", "ssl_password": "\udcff"},
    ],
)
def test_files_that_can_be_used(folder: Path, options: dict[str, str]) -> None:
    assert isinstance(TLS(within(folder, options)).load(), ssl.SSLContext)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ssl_ca_certs": "none.pem"}, "ssl_ca_certs: can't read '{}/none.pem': No such file"),
        ({"ssl_ca_certs": ""}, "ssl_ca_certs: can't read '{}/': Is a directory"),
        ({"ssl_ca_certs": "rubbish.pem"}, "ssl_ca_certs: '{}/rubbish.pem' holds no certificates in PEM"),
        ({"ssl_ca_certs": "empty.pem"}, "ssl_ca_certs: '{}/empty.pem' holds no certificates in PEM"),
        ({"ssl_ca_certs": "key.pem"}, "ssl_ca_certs: '{}/key.pem' holds no certificates in PEM"),
        ({"ssl_ca_certs": "\x00"}, "ssl_ca_certs: can't read '{}/\\x00': that is no path"),
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
        TLS(within(folder, options)).load()
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
    before = tls.load()
    other = folder / "other"
    other.mkdir()
    certificate(other)
    (folder / "next").symlink_to(other)
    (folder / "next").rename(link)
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


def test_files_are_read_when_they_are_needed_and_once(folder: Path) -> None:
    tls = TLS({"ssl_ca_certs": str(folder / "cert.pem")})
    with patch("wsd.tls.ssl.create_default_context", wraps=ssl.create_default_context) as read:
        assert not read.called
        assert tls.load() is tls.load() is tls.renewed()
        assert read.call_count == 1


@pytest.mark.parametrize(
    ("options", "mode", "check_hostname"),
    [
        ({}, ssl.CERT_REQUIRED, True),
        ({"ssl_check_hostname": "true"}, ssl.CERT_REQUIRED, True),
        ({"ssl_check_hostname": "false"}, ssl.CERT_REQUIRED, False),
        ({"ssl_cert_reqs": "required"}, ssl.CERT_REQUIRED, True),
        ({"ssl_cert_reqs": "optional"}, ssl.CERT_REQUIRED, True),
        ({"ssl_cert_reqs": "optional", "ssl_check_hostname": "true"}, ssl.CERT_REQUIRED, True),
        ({"ssl_cert_reqs": "optional", "ssl_check_hostname": "false"}, ssl.CERT_REQUIRED, False),
        ({"ssl_cert_reqs": "none"}, ssl.CERT_NONE, False),
        ({"ssl_cert_reqs": "none", "ssl_check_hostname": "false"}, ssl.CERT_NONE, False),
    ],
)
def test_what_is_checked_of_a_server(options: dict[str, str], mode: ssl.VerifyMode, check_hostname: bool) -> None:
    context = TLS(options).load()
    assert (context.verify_mode, context.check_hostname) == (mode, check_hostname)
