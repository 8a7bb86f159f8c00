"""Where settings come from, and the line for each mistake in them."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource, TomlConfigSettingsSource

from wsd.config.kinds import nearest, quoted
from wsd.config.masking import has_password, mask_url
from wsd.config.settings import Settings, allowed, flag_fields
from wsd.errors import SettingsError

__all__ = ["load", "load_with_places", "log_format"]

# What Kubernetes puts into every container's environment for a Service called wsd or wsd-something: names of
# its own, and a URL where a port number is expected.
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
SERVICE_LINK_NAME = re.compile(r"WSD_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
SERVICE_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")


def load(
    flags: Mapping[str, object],
    *,
    environ: Mapping[str, str] = os.environ,
    config: Path | str | None = None,
) -> Settings:
    """Read the settings from all sources and validate them.

    A command that needs no key (``wsd publish``) says so with ``{"auth": "none"}`` among its flags.

    Args:
        flags: what the command line gave, by the setting's name; None stands for a flag that was not given.
        environ: where ``WSD_*`` and ``CREDENTIALS_DIRECTORY`` are looked up.
        config: path of the TOML file; without it ``WSD_CONFIG`` names one, if any.

    Raises:
        SettingsError: with a line for every mistake.
    """
    return load_with_places(flags, environ=environ, config=config)[0]


def load_with_places(
    flags: Mapping[str, object],
    *,
    environ: Mapping[str, str] = os.environ,
    config: Path | str | None = None,
) -> tuple[Settings, dict[str, str]]:
    """Do what `load` does; return also where each setting comes from, without those that have their default."""
    reading = _Reading()
    # Weakest first: a stronger source overwrites what it found.
    if (directory := environ.get("CREDENTIALS_DIRECTORY")) is not None:
        reading.credentials(directory)
    if (path := environ.get("WSD_CONFIG") if config is None else config) is not None:
        reading.file(path)
    reading.environ(environ)
    reading.flags(flags)
    return reading.settings(), reading.places()


def log_format(
    flags: Mapping[str, object], *, environ: Mapping[str, str] = os.environ, config: Path | str | None = None
) -> str:
    """Find the log_format for lines that say what is wrong with the settings. Mistakes are passed over here."""
    reading = _Reading()
    with suppress(SettingsError):
        if (path := environ.get("WSD_CONFIG") if config is None else config) is not None:
            reading.file(path)
    reading.environ(environ)
    reading.flags(flags)
    return "json" if str(reading.given("log_format")).lower() == "json" else "text"


class _Given(NamedTuple):
    """A value that a source has for a setting."""

    value: object
    place: str  # as a mistake names it


class _Reading:
    """Goes from source to source, noting what each has and the mistakes in it."""

    def __init__(self) -> None:
        self._given: dict[str, _Given] = {}  # by the setting's name
        self._mistakes: list[str] = []  # lines

    def credentials(self, directory: str) -> None:
        """Read a directory with a file for each setting (systemd.exec(5), or container secrets).

        Not with the library's own source: that one warns about a file it can't use and goes on without it.
        """
        try:
            # Kubernetes keeps the real files in a directory that starts with two dots.
            files = sorted(file for file in Path(directory).iterdir() if not file.name.startswith("."))
        except OSError as exc:
            self._mistakes.append(f"CREDENTIALS_DIRECTORY: can't read {quoted(directory)}: {_reason(exc)}")
            return
        for file in files:
            if file.name in Settings.model_fields:
                self._credential(file)
            else:
                hint = nearest(file.name, Settings.model_fields)
                self._mistakes.append(f"credential {_plain(file.name)}: no such setting{hint}")

    def _credential(self, file: Path) -> None:
        name = file.name
        try:
            # The key stays a file; settings() says why.
            value = file if name == "jwt_key" else file.read_text("utf-8").removesuffix("\n").removesuffix("\r")
            self._given[name] = _Given(value, f"credential {name}")
        except UnicodeDecodeError:
            self._mistakes.append(f"{name}: the credential is not UTF-8 text")
        except OSError as exc:
            self._mistakes.append(f"{name}: can't read the credential: {_reason(exc)}")

    def file(self, path: Path | str) -> None:
        """Read a TOML file.

        Raises:
            SettingsError: it can't be read. Raised before all other mistakes are known, because some of them would only
                say that a setting is missing which the file holds.
        """
        for name, value in _read_toml(path).items():
            if name in Settings.model_fields:
                self._given[name] = _Given(value, str(path))
            else:
                hint = nearest(name, Settings.model_fields)
                self._mistakes.append(f"{_plain(name)} in {quoted(str(path))}: no such setting{hint}")

    def environ(self, environ: Mapping[str, str]) -> None:
        """Take the variables that begin with ``WSD_``."""
        known = [_variable(name) for name in Settings.model_fields]
        links: list[str] = []
        source = EnvSettingsSource(Settings)
        source.env_vars = {}
        for variable, value in environ.items():
            if not variable.startswith("WSD_") or variable == "WSD_CONFIG":
                continue
            if _is_service_link(variable, value):
                links.append(variable)
            elif variable in known:
                source.env_vars[variable.lower()] = value
            else:
                self._mistakes.append(f"{variable}: no such setting{nearest(variable, [*known, 'WSD_CONFIG'])}")
        if links:
            self._mistakes.append(
                f"{', '.join(sorted(links))}: set by Kubernetes for a Service of that name, not by you;"
                " put `enableServiceLinks: false` into the pod's spec, or rename the Service"
            )
        self._given |= {name: _Given(value, _variable(name)) for name, value in source().items()}

    def flags(self, flags: Mapping[str, object]) -> None:
        """Take the flags of the command line."""
        known = flag_fields()
        for name, value in flags.items():
            if name not in known:
                self._mistakes.append(f"{_flag(name)}: no such flag{nearest(_flag(name), map(_flag, known))}")
            elif name == "redis_url" and isinstance(value, str) and has_password(value):
                self._mistakes.append(
                    f"redis_url: {quoted(mask_url(value))} in --redis-url, where every user of the machine can read"
                    " it; allowed: WSD_REDIS_URL, the TOML file, or a credential named redis_url"
                )
            elif value is not None:
                self._given[name] = _Given(value, _flag(name))

    def given(self, name: str) -> object:
        """What the strongest source has for a setting; None if none has."""
        return self._given[name].value if name in self._given else None

    def settings(self) -> Settings:
        """Validate what was found.

        Raises:
            SettingsError: with a line for every mistake, those of the sources first.
        """
        key = self._given.get("jwt_key")
        if key and isinstance(key.value, Path):
            # It is the credential's, and no stronger source has one. Taken as a file, it is read again by a reload.
            del self._given["jwt_key"]
            self._given.setdefault("jwt_key_file", key)
        try:
            settings = Settings.model_validate({name: given.value for name, given in self._given.items()})
        except ValidationError as exc:
            self._mistakes += map(self._line, exc.errors(include_url=False))
        if self._mistakes:
            raise SettingsError(self._mistakes)
        return settings

    def places(self) -> dict[str, str]:
        """Return where each setting that was given comes from, as a mistake names it."""
        return {name: given.place for name, given in self._given.items()}

    def _line(self, details: ErrorDetails) -> str:
        """Turn an error of pydantic into a line: the setting, what was given and where, and what is allowed."""
        if details["type"] == "key":
            return details["msg"]
        name = str(details["loc"][0])
        value, place = self._given.get(name) or _Given(Settings.model_fields[name].default, "the default")
        # An error of a validator of ours carries its own text, if it has more to say than the setting's.
        own = str(details["ctx"]["error"]) if details["type"] == "value_error" else ""
        return f"{name}: {_shown(name, value)} in {place}; allowed: {own or allowed(name)}"


def _read_toml(path: Path | str) -> Mapping[str, object]:
    shown = quoted(str(path))
    try:
        # The library passes over a file that is missing.
        if not Path(path).is_file():
            os.stat(path)
            raise OSError(None, "not a file")
        with Path(path).open("rb") as file:
            if file.read(3) == b"\xef\xbb\xbf":
                mark = "begins with a byte order mark, as editors on Windows write it: save it as UTF-8 without one"
                raise SettingsError([f"config: {shown} {mark}"])
        return TomlConfigSettingsSource(Settings, toml_file=Path(path)).toml_data
    except UnicodeDecodeError as exc:
        line = exc.object.count(b"\n", 0, exc.start) + 1
        column = exc.start - exc.object.rfind(b"\n", 0, exc.start)
        raise SettingsError([f"config: {shown} is not UTF-8 text (at line {line}, column {column})"]) from None
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError([f"config: {shown} is not TOML: {exc}"]) from None
    except (OSError, ValueError) as exc:
        raise SettingsError([f"config: can't read {shown}: {_reason(exc)}"]) from None


def _is_service_link(variable: str, value: str) -> bool:
    named = SERVICE_LINK_NAME.fullmatch(variable)
    return bool(named or (variable.endswith("_PORT") and SERVICE_LINK_VALUE.match(value)))


def _shown(name: str, value: object) -> str:
    if name == "redis_url":
        return quoted(mask_url(value)) if isinstance(value, str) else "***"
    return "***" if name == "jwt_key" else quoted(value)


def _plain(name: str) -> str:
    return name if re.fullmatch(r"[\w-]{1,80}", name) else quoted(name)


def _reason(error: Exception) -> str:
    # The text of the system, without the path, because the line names the path already.
    return (error.strerror if isinstance(error, OSError) else None) or "it is no path"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return f"WSD_{name.upper()}"
