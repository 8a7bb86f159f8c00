"""The key that tokens are verified with: which algorithms there are, and whether a key is one for them.

A key that doesn't fit is found at the start, not by the first token, and no line about it holds a part of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from pydantic import SecretStr

from wsd.errors import SettingsError

__all__ = ["ALGORITHMS", "read_key"]

# What each algorithm of RFC 7518 (section 3.1), RFC 8037 and RFC 8812 verifies with. `none` is left out on purpose.
ALGORITHMS = {
    "HS256": "a shared secret of 32 bytes or more",
    "HS384": "a shared secret of 48 bytes or more",
    "HS512": "a shared secret of 64 bytes or more",
    "RS256": "an RSA public key of 2048 bits or more",
    "RS384": "an RSA public key of 2048 bits or more",
    "RS512": "an RSA public key of 2048 bits or more",
    "PS256": "an RSA public key of 2048 bits or more",
    "PS384": "an RSA public key of 2048 bits or more",
    "PS512": "an RSA public key of 2048 bits or more",
    "ES256": "an EC public key on the curve P-256",
    "ES256K": "an EC public key on the curve secp256k1",
    "ES384": "an EC public key on the curve P-384",
    "ES512": "an EC public key on the curve P-521",
    "EdDSA": "an Ed25519 or Ed448 public key",
}

MAX_KEY_FILE = 65_536  # bytes; an RSA key of 16384 bits takes 3 KiB, and /dev/zero must not fill the memory

MAX_PATH_SHOWN = 80  # characters, as much as of any other value that a mistake repeats

# A path that can't be opened and is of this form may be a key in the wrong variable. It must not end up in the log.
LIKE_A_KEY = re.compile(r"[^./~\s][^.\s]{31,}")

HOW_TO_MAKE_A_KEY = (
    "make one with `openssl rand -hex 32 > key` and give `--jwt-key-file key`"
    " (for development: `wsd dev`, or `--auth none`)"
)


def read_key(secret: SecretStr | None, file: Path | None, algorithms: Iterable[str]) -> bytes:
    """Return the key from where it is, once it is sure that every algorithm can verify with it.

    Args:
        secret: the setting ``jwt_key``.
        file: the setting ``jwt_key_file``, read at each call.
        algorithms: names of `ALGORITHMS`.

    Raises:
        SettingsError: the key can't be used, with one line that says why.
    """
    if secret is not None and file is not None:
        raise _error("jwt_key", "given together with jwt_key_file; allowed: one of the two")
    if file is not None:
        setting, key = "jwt_key_file", _read_file(file)
    elif secret is not None:
        setting, key = "jwt_key", secret.get_secret_value().encode(errors="surrogateescape")
    else:
        raise _error("jwt_key", f"not given, and auth=jwt needs one: {HOW_TO_MAKE_A_KEY}")
    # The line end that `openssl rand -hex 32 > key` writes; issuers don't sign with it.
    key = key.removesuffix(b"\n").removesuffix(b"\r")
    for algorithm in algorithms:
        if problem := _misfit(key, algorithm):
            raise _error(setting, f"{problem}; allowed for {algorithm}: {ALGORITHMS[algorithm]}")
    return key


def _read_file(path: Path) -> bytes:
    shown = repr(str(path)[:MAX_PATH_SHOWN])
    try:
        with path.open("rb") as file:
            key = file.read(MAX_KEY_FILE + 1)
    except (OSError, ValueError) as exc:
        # A ValueError is about a character that no path holds.
        if isinstance(exc, ValueError) or LIKE_A_KEY.fullmatch(str(path)) or not str(path).isprintable():
            raise _error("jwt_key_file", "looks like a key; allowed: the path of a file that holds it") from None
        raise _error("jwt_key_file", f"can't read {shown}: {exc.strerror}") from None
    if len(key) > MAX_KEY_FILE:
        raise _error("jwt_key_file", f"{shown} is no key: it is longer than {MAX_KEY_FILE} bytes")
    return key


def _misfit(key: bytes, algorithm: str) -> str | None:
    """Say what is wrong with `key` for `algorithm`, or return None."""
    shared = algorithm.startswith("HS")
    if problem := _wrong_form(key, shared):
        return problem
    verifier = jwt.get_algorithm_by_name(algorithm)
    try:
        # The library that verifies the tokens has the last word, so that no token is the first to find out.
        too_short = verifier.check_key_length(verifier.prepare_key(key))
    except (jwt.InvalidKeyError, UnsupportedAlgorithm, ValueError, TypeError):
        return "has another form (JWK, DER, SSH)" if shared else "is of another kind, or damaged"
    if not too_short:
        return None
    return f"is {len(key)} bytes long" if shared else "is too short"


def _wrong_form(key: bytes, shared: bool) -> str | None:
    if b"PRIVATE KEY-----" in key:
        return "is a private key, which has no place here: `openssl pkey -in FILE -pubout` prints the public one"
    if b"-----BEGIN CERTIFICATE-----" in key:
        return "is a certificate: `openssl x509 -in FILE -noout -pubkey` prints its public key"
    if not key:
        return "is empty"
    pem = b"-----BEGIN " in key
    if shared and pem:
        return "is a public key, which is no secret"
    if not shared and not pem:
        return "is no PEM text, so it may be a shared secret"
    return None


def _error(setting: str, problem: str) -> SettingsError:
    return SettingsError([f"{setting}: {problem}"])
