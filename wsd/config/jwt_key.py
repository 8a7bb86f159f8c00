"""The key that tokens are verified with: which algorithms there are, and whether a key is one for them.

A key that doesn't fit is found at the start, not by the first token, and no line about it holds a part of it.

**A shared secret (HS*)** is a file's bytes:

- Printable text is one line, and used as the bytes that it is: hex and base64 are not decoded, because most issuers
  don't. Line ends behind the text are dropped, however many, because no one types those into a secret. What an editor
  or a shell may have added, and what may also be meant, is refused: white space around the text, more lines, a byte
  order mark, UTF-16 (PowerShell's ``>``), a character that can't be seen.
- Anything else is binary (``openssl rand 32``), and keeps every byte, a line feed at its end too.

**A public key** is the one PEM block in the text. What stands around it has no meaning (RFC 7468, section 2): a byte
order mark, comments, white space. Line ends may be CRLF, or ``\\n`` in two characters, which is what becomes of them in
many an environment file. Several blocks are refused, because only one could be used.
"""

from __future__ import annotations

import base64
import re
import stat
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

# A PEM text (RFC 7468), with whatever label.
PEM_BLOCK = re.compile(rb"-----BEGIN ([^-\r\n]{1,64})-----.*?-----END \1-----", re.DOTALL)

PUBLIC_KEY_LABELS = (b"PUBLIC KEY", b"RSA PUBLIC KEY")

HOW_TO_MAKE_A_KEY = (
    "make one with `openssl rand -hex 32 > key` and give `--jwt-key-file key`"
    " (for development: `wsd dev`, or `--auth none`)"
)


class _Misfit(Exception):
    """What is wrong with a key."""


def read_key(secret: SecretStr | None, file: Path | None, algorithms: Iterable[str]) -> bytes:
    """Return the key from where it is, once it is sure that every algorithm can verify with it.

    Args:
        secret: the setting ``jwt_key``.
        file: the setting ``jwt_key_file``, read at each call.
        algorithms: names of `ALGORITHMS`, HS* not together with others.

    Returns:
        The secret's bytes, or the PEM text of a public key.

    Raises:
        SettingsError: the key can't be used, with one line that says why.
    """
    if secret is not None and file is not None:
        raise _error("jwt_key", "given together with jwt_key_file; allowed: one of the two")
    if file is not None:
        setting, content = "jwt_key_file", _read_file(file)
    elif secret is not None:
        setting, content = "jwt_key", secret.get_secret_value().encode(errors="surrogateescape")
    else:
        raise _error("jwt_key", f"not given, and auth=jwt needs one: {HOW_TO_MAKE_A_KEY}")
    for algorithm in algorithms:
        try:
            key = _shared_secret(content) if algorithm.startswith("HS") else _public_key(content)
            _check_fit(key, algorithm)
        except _Misfit as exc:
            raise _error(setting, f"{exc}; allowed for {algorithm}: {ALGORITHMS[algorithm]}") from None
    return key


def _read_file(path: Path) -> bytes:
    shown = repr(str(path)[:MAX_PATH_SHOWN])
    try:
        if not (stat.S_ISREG(mode := path.stat().st_mode) or stat.S_ISDIR(mode)):
            # `<(command)` makes a pipe. Read again it is empty, and to open it may wait for ever.
            raise _error("jwt_key_file", f"{shown} is no regular file, and the key is read from it more than once")
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


def _shared_secret(content: bytes) -> bytes:
    """Take a secret out of what was given."""
    _refuse_foreign(content)
    if b"-----BEGIN " in content:
        raise _Misfit("is a public key, which is no secret")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = ""
    if text.startswith("\ufeff") and _is_text(text[1:]):
        raise _Misfit(
            "begins with a byte order mark, as editors on Windows write it: save the file as UTF-8 without one"
        )
    if not _is_text(text):
        _refuse_nearly_text(content)
        return content
    text = text.rstrip("\r\n")
    if text != text.strip():
        raise _Misfit("has white space around it, which issuers may or may not sign with: take it away")
    if (lines := len(text.splitlines())) > 1:
        raise _Misfit(f"has {lines} lines, and a secret is one: `openssl rand -hex 64` makes a long one")
    _refuse_encoded_public_key(text)
    return text.encode()


def _public_key(content: bytes) -> bytes:
    """Take the one PEM block out of what was given."""
    _refuse_foreign(content)
    blocks = list(PEM_BLOCK.finditer(content))
    if not blocks:
        damaged = "is damaged PEM text: the line `-----END …-----` is missing"
        raise _Misfit(damaged if b"-----BEGIN " in content else f"is {_form(content)}")
    if len(blocks) > 1:
        raise _Misfit(f"holds {len(blocks)} PEM blocks, of which one alone can be used: take the others away")
    if blocks[0][1] not in PUBLIC_KEY_LABELS:
        raise _Misfit("is PEM text of something else than a public key (its first line says of what)")
    # Base64 has no backslash, so these can only be line ends.
    return blocks[0][0].replace(rb"\r", b"").replace(rb"\n", b"\n")


def _refuse_foreign(content: bytes) -> None:
    """Refuse what is no key for wsd, whatever the algorithm."""
    if not content.strip():
        raise _Misfit("is empty")
    if encoding := _wide_encoding(content):
        raise _Misfit(f"is {encoding} text, as PowerShell's `>` writes it: save the file as ASCII or UTF-8")
    if b"PRIVATE KEY-----" in content:
        raise _Misfit(
            "is a private key, which has no place here: `openssl pkey -in FILE -pubout` prints the public one"
        )
    if b"CERTIFICATE-----" in content:
        raise _Misfit("is a certificate: `openssl x509 -in FILE -noout -pubkey` prints its public key")


def _is_text(text: str) -> bool:
    return text != "" and all(character.isprintable() or character in "\t\r\n" for character in text)


def _wide_encoding(content: bytes) -> str:
    """Name the encoding of ASCII text whose characters take two or four bytes; "" if it isn't that."""
    for encoding in ("UTF-32-LE", "UTF-32-BE", "UTF-16-LE", "UTF-16-BE"):
        try:
            text = content.decode(encoding).removeprefix("\ufeff")
        except UnicodeDecodeError:
            continue
        if text.isascii() and _is_text(text):
            return encoding[:6]
    return ""


def _refuse_nearly_text(content: bytes) -> None:
    """Refuse text with a slip in it: a NUL, a blank that can't be seen, a letter in another encoding than UTF-8.

    Of 32 random bytes 12 are printable ASCII; that 28 are happens once in 10**10 keys.
    """
    if sum(0x20 <= byte < 0x7F for byte in content) >= len(content) * 7 / 8:
        raise _Misfit("is text with a character that can't be seen, or that is no UTF-8: take it away")


def _refuse_encoded_public_key(text: str) -> None:
    """Refuse a public key in base64 (as Keycloak shows it): anyone may have it, so it is no secret."""
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(base64.b64decode(text, validate=True))
    except jwt.InvalidKeyError:
        raise _Misfit("is a public key in base64, which is no secret") from None
    except ValueError:
        pass


def _form(content: bytes) -> str:
    """Say what a key that is no PEM text may be."""
    text = content.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"{"):
        return "a JWK (JSON), which wsd doesn't read: write the key as PEM text"
    if text.startswith((b"ssh-", b"ecdsa-")):
        return "an SSH key: `ssh-keygen -e -m PKCS8 -f FILE` prints it as PEM text"
    # DER begins with a SEQUENCE, 0x30, which base64 begins with an M.
    if re.fullmatch(rb"M[A-Za-z0-9+/\s]{50,}=*\s*", text):
        return "base64 without the lines `-----BEGIN PUBLIC KEY-----` and `-----END PUBLIC KEY-----` around it"
    if text.startswith(b"\x30"):
        return "DER: `openssl pkey -pubin -inform DER -in FILE` prints it as PEM text"
    return "no PEM text, so it may be a shared secret"


def _check_fit(key: bytes, algorithm: str) -> None:
    shared = algorithm.startswith("HS")
    verifier = jwt.get_algorithm_by_name(algorithm)
    try:
        # The library that verifies the tokens has the last word, so that no token is the first to find out.
        too_short = verifier.check_key_length(verifier.prepare_key(key))
    except (jwt.InvalidKeyError, UnsupportedAlgorithm, ValueError, TypeError):
        problem = (
            "has another form (JWK, DER, SSH), which no issuer signs with"
            if shared
            else "is of another kind, or damaged"
        )
        raise _Misfit(problem) from None
    if too_short:
        raise _Misfit(f"is {len(key)} bytes long" if shared else "is too short")


def _error(setting: str, problem: str) -> SettingsError:
    return SettingsError([f"{setting}: {problem}"])
