"""Tests of the key: which keys fit which algorithms, how it is read, and that no part of it is printed."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from wsd.auth.jwt import JWTAuthenticator
from wsd.config.jwt_key import ALGORITHMS, read_key
from wsd.errors import SettingsError

SECRET = "correct-horse-battery-staple-0123456789"


def public_pem(key: Any) -> str:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


def public_der(key: Any) -> bytes:
    der: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der


def private_pem(key: Any) -> str:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem.decode()


P256 = ec.derive_private_key(2**200 + 1, ec.SECP256R1())  # always the same, because it names tests
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
        ("RS256", public_pem(RSA)[:200], "is damaged PEM text: the line `-----END …-----` is missing"),
        ("RS256", public_pem(RSA).replace("A", "!"), "is of another kind, or damaged"),
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


def in_file(content: bytes, algorithm: str, folder: Path) -> bytes | str:
    """What becomes of a file's content: the key, or the line that refuses it."""
    file = folder / "key"
    file.write_bytes(content)
    try:
        return read_key(None, file, [algorithm])
    except SettingsError as exc:
        (line,) = exc.mistakes
        return line.removeprefix("jwt_key_file: ")


TEXT = SECRET.encode()
BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("content", "becomes"),
    [
        (TEXT + b"\n\n\n", TEXT),
        (TEXT + b"\r\n\r\n", TEXT),
        (TEXT + b"\r", TEXT),
        ("pässwörd ".encode() * 4 + b"x\n", "pässwörd ".encode() * 4 + b"x"),
        (bytes(range(256)), bytes(range(256))),
        (bytes(range(128, 160)) + b"\n", bytes(range(128, 160)) + b"\n"),
        (b"\n" + bytes(range(200, 232)) + b"\r\n", b"\n" + bytes(range(200, 232)) + b"\r\n"),
        (BOM + bytes(range(32)), BOM + bytes(range(32))),
        (b"\xff\xfe" + bytes(range(128, 160)), b"\xff\xfe" + bytes(range(128, 160))),
        (BOM + TEXT, "begins with a byte order mark"),
        (BOM + TEXT + b"\r\n", "begins with a byte order mark"),
        (SECRET.encode("utf-16"), "is UTF-16 text"),
        ((SECRET + "\r\n").encode("utf-16"), "is UTF-16 text"),
        ((SECRET + "\n").encode("utf-16-le"), "is UTF-16 text"),
        (SECRET.encode("utf-16-be"), "is UTF-16 text"),
        (("\ufeff" + SECRET).encode("utf-16-be"), "is UTF-16 text"),
        (SECRET.encode("utf-32"), "is UTF-32 text"),
        (SECRET.encode("utf-32-be"), "is UTF-32 text"),
        (b" " + TEXT, "has white space around it"),
        (TEXT + b" \n", "has white space around it"),
        (TEXT + b"\t", "has white space around it"),
        (b"\n" + TEXT, "has white space around it"),
        (b"\r\n" + TEXT + b"\r\n", "has white space around it"),
        (TEXT + b"\n" + TEXT + b"\n", "has 2 lines"),
        (TEXT + b"\r\n\r\n" + TEXT, "has 3 lines"),
        (TEXT + b"\0", "is text with a character that can't be seen"),
        ((SECRET + "\u00a0").encode(), "is text with a character that can't be seen"),
        ((SECRET + "\u200b").encode(), "is text with a character that can't be seen"),
        ((SECRET + "é\n").encode("latin-1"), "is text with a character that can't be seen, or that is no UTF-8"),
        (b"", "is empty"),
        (b" \r\n\t\n", "is empty"),
        (b"\n" * 40, "is empty"),
        (public_der(RSA), "has another form"),
        (base64.b64encode(public_der(RSA)), "is a public key in base64"),
        (BOM + public_pem(P256).encode(), "is a public key"),
        (public_pem(P256).encode("utf-16"), "is UTF-16 text"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_how_the_world_writes_a_shared_secret(content: bytes, becomes: bytes | str, tmp_path: Path) -> None:
    found = in_file(content, "HS256", tmp_path)
    if isinstance(becomes, bytes):
        assert found == becomes
    else:
        assert isinstance(found, str)
        assert found.startswith(becomes)
        assert SECRET not in found


@pytest.mark.parametrize("last", [b"", b"\n", b"\r\n", b" ", b"\0"])
def test_a_random_binary_secret_keeps_every_byte(last: bytes, tmp_path: Path) -> None:
    for number in range(200):
        secret = hashlib.sha256(b"%d" % number).digest() + last
        assert in_file(secret, "HS256", tmp_path) == secret


PEM = public_pem(P256).strip().encode()
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    "content",
    [
        BOM + PEM,
        PEM + b"\n\n",
        b"# the issuer's key\n\n" + PEM + b"\nthe end\n",
        PEM.replace(b"\n", b"\r\n"),
        PEM.replace(b"\n", b"\r"),
        PEM.replace(b"\n", b"\\n"),
        PEM.replace(b"\n", b"\\r\\n"),
        PEM.replace(b"\n", b" "),
        b'"' + PEM + b'"',
        b"\n".join(b"  " + line for line in PEM.splitlines()),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_what_stands_around_a_public_key_does_not_matter(content: bytes, tmp_path: Path) -> None:
    key = in_file(content, "ES256", tmp_path)
    assert isinstance(key, bytes)
    token = jwt.encode({"exp": 2_000_000_000}, P256, algorithm="ES256")
    JWTAuthenticator(key, ["ES256"]).verify(token)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (PEM + b"\n" + public_pem(RSA).encode(), "holds 2 PEM blocks"),
        (PEM + b"\n" + PEM, "holds 2 PEM blocks"),
        ((PEM + b"\n") * 5, "holds 5 PEM blocks"),
        (PEM + b"\n" + private_pem(P256).encode(), "is a private key"),
        (CERTIFICATE + PEM, "is a certificate"),
        (CERTIFICATE * 2, "is a certificate"),
        (PEM.replace(b"PUBLIC KEY", b"CERTIFICATE REQUEST"), "is PEM text of something else"),
        (PEM.replace(b"PUBLIC KEY", b"PGP PUBLIC KEY BLOCK"), "is PEM text of something else"),
        (PEM.decode().encode("utf-16"), "is UTF-16 text"),
        (PEM[:-10], "is damaged PEM text"),
        (public_der(P256), "is DER: "),
        (base64.b64encode(public_der(RSA)), "is base64 without the lines"),
        (base64.b64encode(public_der(P256)), "is base64 without the lines"),
        (b'{"kty":"EC"}', "is a JWK"),
        (b'\n{"keys":[{"kty":"EC"}]}', "is a JWK"),
        (b"ssh-rsa AAAA", "is an SSH key"),
        (b"ecdsa-sha2-nistp256 AAAA", "is an SSH key"),
        (b" \n", "is empty"),
        (TEXT, "is no PEM text, so it may be a shared secret"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_public_key_that_can_not_be_used(content: bytes, problem: str, tmp_path: Path) -> None:
    line = in_file(content, "ES256", tmp_path)
    assert isinstance(line, str)
    assert line.startswith(problem)
    assert line.isprintable()


@given(
    st.lists(
        st.binary() | st.sampled_from([PEM, CERTIFICATE, BOM, b"-----BEGIN ", b"-----END", b"{", b"MI", b"\x30\x82"]),
        max_size=4,
    ).map(b"".join),
    st.sampled_from(sorted(ALGORITHMS)),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_file_holds_it_is_a_key_or_a_line(tmp_path: Path, content: bytes, algorithm: str) -> None:
    found = in_file(content, algorithm, tmp_path)
    if isinstance(found, str):
        assert found.isprintable()
        assert len(found) < 250
    else:
        JWTAuthenticator(found, [algorithm])


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
    long, pipe = tmp_path / "long", tmp_path / "pipe"
    long.write_bytes(b"x" * 65_537)
    assert refused(file=long) == f"jwt_key_file: '{long}' is no key: it is longer than 65536 bytes"
    os.mkfifo(pipe)
    for file in (pipe, Path("/dev/zero")):
        assert refused(file=file) == (
            f"jwt_key_file: '{file}' is no regular file, and the key is read from it more than once"
        )


@pytest.mark.parametrize("key", [SECRET, SECRET + "\n", public_pem(P256), "x" * 5000, "a\0b", "\ud800"])
def test_a_key_in_place_of_a_path_is_not_repeated(key: str) -> None:
    assert refused(file=Path(key)) == "jwt_key_file: looks like a key; allowed: the path of a file that holds it"
