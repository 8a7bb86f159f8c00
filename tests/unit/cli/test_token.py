"""``wsd token``. The real program, and a daemon that takes its token: tests/whole/cli/test_commands.py."""

from __future__ import annotations

from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.lib.here import Here
from tests.lib.programs import SECRET


def test_token_for_every_hmac_algorithm_and_by_default_for_an_hour(tmp_path: Path, here: Here) -> None:
    key_file = tmp_path / "key"
    key_file.write_bytes(b"k" * 64)
    for algorithm in ("HS256", "HS384", "HS512"):
        done = here("token", "--jwt-key-file", str(key_file), "--jwt-algorithms", algorithm)
        claims = jwt.decode(done.out.strip(), b"k" * 64, algorithms=[algorithm])
        assert set(claims) == {"iat", "exp"}
        assert claims["exp"] - claims["iat"] == 3600


def test_token_with_a_private_key(tmp_path: Path, here: Here) -> None:
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    public, private, encrypted = tmp_path / "public.pem", tmp_path / "private.pem", tmp_path / "encrypted.pem"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    encrypted.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))
    done = here("token", "--jwt-algorithms", "RS256,ES256", "--private-key-file", str(private))
    assert done.status == 0, done.err
    jwt.decode(done.out.strip(), public.read_bytes(), algorithms=["ES256"])

    flags = ("token", "--jwt-algorithms", "ES256", "--jwt-key-file", str(public))
    assert here(*flags, "--private-key-file", str(private)).status == 0
    (line,) = here.refused(1, *flags)
    assert "--private-key-file" in line
    for file, words in ((public, "no PEM private key"), (encrypted, "encrypted"), (tmp_path / "none", "can't read")):
        (line,) = here.refused(1, *flags, "--private-key-file", str(file))
        assert words in line
    (line,) = here.refused(1, "token", "--private-key-file", str(private))
    assert "HS256" in line
    both = tmp_path / "both"
    both.write_bytes(private.read_bytes() * 2)
    (line,) = here.refused(1, *flags, "--private-key-file", str(both))
    assert "holds 2 private keys" in line
    private.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (line,) = here.refused(1, *flags, "--private-key-file", str(private))
    assert "would refuse the token" in line


def test_token_is_refused_where_it_would_be_useless(here: Here) -> None:
    (line,) = here.refused(1, "token", WSD_AUTH="none")
    assert "auth is none" in line
    (line,) = here.refused(2, "token")
    assert line.startswith("jwt_key: not given")
    (line,) = here.refused(2, "token", "--topics", "chat,a b", WSD_JWT_KEY=SECRET)
    assert "'a b'" in line
    (line,) = here.refused(1, "token", WSD_JWT_KEY=SECRET, WSD_REQUIRE_TOPICS_CLAIM="true")
    assert "topics" in line and SECRET not in line
