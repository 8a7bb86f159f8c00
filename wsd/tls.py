"""TLS to Redis: what a ``redis_url`` says about it, checked and made into contexts.

Certificates are renewed while the daemon runs, by cert-manager for example. So `TLS.renewed` looks at the files again
before each connection, and reads them if they have changed. Files that can't be used, for example because only half of
them have been written yet, leave what was read before.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Mapping

__all__ = ["OPTIONS", "TLS", "check_options"]

OPTIONS = {
    "ssl_ca_certs": ".+",
    "ssl_cert_reqs": "none|optional|required",
    "ssl_certfile": ".+",
    "ssl_check_hostname": "true|false",
    "ssl_keyfile": ".+",
    "ssl_password": ".+",
}
"""What may be said about TLS, by redis-py's names, and what each value must match."""

READ_MOST = 1_048_576  # bytes of a file that are looked at to say what is wrong with it

FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")

# Of each option that has no meaning without another: which one. It would be ignored, and whoever wrote it relies on it.
_NEEDED = {"ssl_keyfile": "ssl_certfile", "ssl_password": "ssl_certfile"}

logger = logging.getLogger(__name__)


class TLS:
    """How to speak TLS with the servers of one URL.

    Args:
        options: values by the names of `OPTIONS`, after `check_options`.
    """

    def __init__(self, options: Mapping[str, str]) -> None:
        self.options = options
        self._seen: list[object] = []  # how the files were when they were read last
        self._context: ssl.SSLContext | None = None  # None until they have been read

    def load(self) -> ssl.SSLContext:
        """Return the context; read the files if that has not been done yet.

        Raises:
            ValueError: if a file can't be used. The text names the file, and holds no password.
        """
        if self._context is None:
            # Looked at before they are read: what is written meanwhile differs again.
            self._seen = self._look()
            self._context = _load(self.options)
        return self._context

    def renewed(self) -> ssl.SSLContext:
        """Return the context, with the files as they are now. Call it in a thread, because it reads files.

        Raises:
            ValueError: if a file can't be used, and none has been read before.
        """
        context = self.load()
        seen = self._look()
        if seen == self._seen:
            return context
        self._seen = seen
        try:
            self._context = context = _load(self.options)
        except ValueError as exc:
            logger.warning("the files for TLS to Redis have changed, and the old ones stay in use: %s", exc)
        else:
            logger.info("read the files for TLS to Redis again, because they have changed")
        return context

    def _look(self) -> list[object]:
        return [_identify(self.options[name]) for name in FILES if name in self.options]


def _identify(path: str) -> object:
    """What differs between two states of a file. Kubernetes exchanges a link to a folder above it, hence the inode."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def check_options(options: Mapping[str, str]) -> None:
    """Refuse options that contradict each other, or of which one would be ignored.

    Raises:
        ValueError: the text says what is allowed, and holds no value.
    """
    for name, needed in _NEEDED.items():
        if name in options and needed not in options:
            raise ValueError(f"{name}= only beside {needed}=, the certificate that it belongs to")
    if options.get("ssl_cert_reqs") == "none":
        if options.get("ssl_check_hostname") == "true":
            raise ValueError(
                "ssl_check_hostname=true only with ssl_cert_reqs=required, because with none nobody checks"
            )
        if "ssl_ca_certs" in options:
            raise ValueError("ssl_ca_certs= only with ssl_cert_reqs=required, because with none nobody checks")


def _load(options: Mapping[str, str]) -> ssl.SSLContext:
    for name in FILES:
        if name in options:
            _check_readable(name, options[name])
    context = _load_authorities(options.get("ssl_ca_certs"))
    if "ssl_certfile" in options:
        _load_certificate(context, options)
    verify = options.get("ssl_cert_reqs", "required") != "none"
    # A client that knows "optional" does not exist: OpenSSL lets it mean "required", host name included.
    # https://docs.python.org/3/library/ssl.html#ssl.CERT_OPTIONAL
    context.check_hostname = verify and options.get("ssl_check_hostname") != "false"
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    return context


def _check_readable(name: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except (OSError, ValueError) as exc:  # ValueError: a zero byte in it
        reason = exc.strerror if isinstance(exc, OSError) else "that is no path"
        raise ValueError(f"{name}: can't read {path!a}: {reason}") from None


def _load_authorities(path: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as exc:  # ssl.SSLError is one
        raise ValueError(f"ssl_ca_certs: {path!a} holds no certificates in PEM ({_reason(exc)})") from None


def _load_certificate(context: ssl.SSLContext, options: Mapping[str, str]) -> None:
    # Without a password OpenSSL would ask for one at the terminal.
    password = options.get("ssl_password", "").encode("utf-8", "surrogateescape")
    try:
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"), password)
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError; ValueError: the password is too long
        raise ValueError(_why_unusable(options, _reason(exc))) from None


def _why_unusable(options: Mapping[str, str], reason: str) -> str:
    """Say what is wrong with certificate and key. OpenSSL says no more than "PEM lib" of nearly everything."""
    certificate = options["ssl_certfile"]
    name = "ssl_keyfile" if "ssl_keyfile" in options else "ssl_certfile"
    key = options[name]
    if b"CERTIFICATE-----" not in _read(certificate):
        return f"ssl_certfile: {certificate!a} holds no certificate in PEM ({reason})"
    if b"PRIVATE KEY-----" not in _read(key):
        hint = "" if name == "ssl_keyfile" else "; name its file in ssl_keyfile="
        return f"{name}: {key!a} holds no private key in PEM ({reason}){hint}"
    if "KEY_VALUES_MISMATCH" in reason:
        return f"{name}: the key in {key!a} is not that of the first certificate in {certificate!a} ({reason})"
    if b"ENCRYPTED" in _read(key):
        state = "does not open it" if "ssl_password" in options else "is missing"
        return f"{name}: the key in {key!a} is encrypted, and ssl_password {state} ({reason})"
    return f"ssl_certfile: {certificate!a} and the key in {key!a} can't be used ({reason})"


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(READ_MOST)
    except OSError:
        return b""


def _reason(exc: Exception) -> str:
    return (exc.reason if isinstance(exc, ssl.SSLError) else None) or str(exc)
