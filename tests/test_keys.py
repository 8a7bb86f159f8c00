"""Tests of the key: which keys fit which algorithms, how it is read, and that no part of it is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pydantic import SecretStr

from wsd.errors import SettingsError
from wsd.keys import read_key

SECRET = "correct-horse-battery-staple-0123456789"


def public_pem(key: Any) -> str:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


def private_pem(key: Any) -> str:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem.decode()


P256 = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(65537, 2048)
SHORT_RSA = rsa.generate_private_key(65537, 1024)


def refused(key: str | None = None, file: Path | None = None, algorithms: str = "HS256") -> str:
    """Read a key that can't be used and return the line that says why."""
    with pytest.raises(SettingsError) as caught:
        read_key(None if key is None else SecretStr(key), file, algorithms.split(","))
    (line,) = caught.value.mistakes
    assert line.isprintable()
    return line


@pytest.mark.parametrize(
    ("algorithms", "key"),
    [
        ("HS256", "x" * 32),
        ("HS256,HS384,HS512", "x" * 64),
        ("RS256,PS512", public_pem(RSA)),
        ("ES256", public_pem(P256)),
        ("RS256", public_pem(RSA).replace("\n", "\r\n")),
        ("EdDSA", public_pem(ED25519)),
    ],
)
def test_keys_that_fit(algorithms: str, key: str) -> None:
    read = read_key(SecretStr(key), None, algorithms.split(","))
    assert read.decode() == key.removesuffix("\n").removesuffix("\r")


@pytest.mark.parametrize(
    ("algorithms", "key", "problem"),
    [
        ("HS256", "", "is empty"),
        ("RS256", "\n", "is empty"),
        ("HS256", "x" * 31, "is 31 bytes long; allowed for HS256: a shared secret of 32 bytes or more"),
        ("HS256,HS512", "x" * 32, "is 32 bytes long; allowed for HS512: a shared secret of 64 bytes or more"),
        ("HS256", public_pem(P256), "is a public key, which is no secret"),
        ("HS256", private_pem(P256), "is a private key"),
        ("HS256", '{"kty": "oct", "k": "' + "x" * 43 + '"}', "has another form"),
        ("HS256", "ssh-ed25519 " + "A" * 68, "has another form"),
        ("RS256", "x" * 64, "is no PEM text, so it may be a shared secret"),
        ("ES256", "x" * 64, "is no PEM text"),
        ("EdDSA", "x" * 64, "is no PEM text"),
        ("RS256", public_pem(P256), "is of another kind, or damaged; allowed for RS256: an RSA public key"),
        ("ES256", public_pem(RSA), "is of another kind"),
        ("ES256,ES384", public_pem(P256), "is of another kind, or damaged; allowed for ES384: an EC public key"),
        ("EdDSA", public_pem(P256), "is of another kind"),
        ("PS256", public_pem(ED25519), "is of another kind"),
        ("RS256", public_pem(SHORT_RSA), "is too short; allowed for RS256: an RSA public key of 2048 bits"),
        ("RS256", private_pem(RSA), "is a private key"),
        ("EdDSA", private_pem(ED25519), "is a private key"),
        ("RS256", public_pem(RSA)[:200], "is of another kind, or damaged"),
        ("RS256", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "is a certificate"),
    ],
)
def test_keys_that_do_not_fit(algorithms: str, key: str, problem: str) -> None:
    line = refused(key, algorithms=algorithms)
    assert line.startswith(f"jwt_key: {problem}")
    assert not key.strip() or key not in line


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_shared_secret_loses_its_line_end(tmp_path: Path, end: str) -> None:
    file = tmp_path / "key"
    file.write_bytes((SECRET + end).encode())
    assert read_key(None, file, ["HS256"]) == SECRET.encode()
    assert read_key(SecretStr(SECRET + end), None, ["HS256"]) == SECRET.encode()


def test_there_must_be_one_key() -> None:
    assert refused() == (
        "jwt_key: not given, and auth=jwt needs one: make one with `openssl rand -hex 32 > key` and give"
        " `--jwt-key-file key` (for development: `wsd dev`, or `--auth none`)"
    )
    assert refused(SECRET, Path("key")) == "jwt_key: given together with jwt_key_file; allowed: one of the two"


def test_a_file_is_read_at_each_call(tmp_path: Path) -> None:
    file = tmp_path / "key"
    for key in (SECRET, SECRET[::-1]):
        file.write_text(key)
        assert read_key(None, file, ["HS256"]) == key.encode()
    file.write_text("short")
    assert refused(file=file) == (
        "jwt_key_file: is 5 bytes long; allowed for HS256: a shared secret of 32 bytes or more"
    )


def test_files_that_are_refused(tmp_path: Path) -> None:
    none, braces = tmp_path / "none", tmp_path / "{none}"
    assert refused(file=none) == f"jwt_key_file: can't read '{none}': No such file or directory"
    assert refused(file=braces).endswith("{none}': No such file or directory")
    assert refused(file=tmp_path) == f"jwt_key_file: can't read '{tmp_path}': Is a directory"
    assert refused(file=Path("/dev/zero")) == "jwt_key_file: '/dev/zero' is no key: it is longer than 65536 bytes"


@pytest.mark.parametrize("key", [SECRET, SECRET + "\n", public_pem(P256), "x" * 5000, "a\0b", "\ud800"])
def test_a_key_in_place_of_a_path_is_not_repeated(key: str) -> None:
    assert refused(file=Path(key)) == "jwt_key_file: looks like a key; allowed: the path of a file that holds it"
