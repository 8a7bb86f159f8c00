"""Which settings there are, what they mean together, and how they are told."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

from pydantic import ByteSize, Field, SecretStr, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from wsd.config import kinds
from wsd.config.jwt_key import read_key
from wsd.config.kinds import RedisUrl
from wsd.errors import SettingsError

__all__ = ["Settings", "allowed", "describe", "flag_fields", "is_loopback", "text", "warnings"]


class Settings(BaseSettings):
    """Every setting of wsd. A field's description is its line in ``--help`` and in the papers.

    Raises:
        pydantic.ValidationError: from the constructor; `wsd.config.load` turns it into a `SettingsError`.
    """

    model_config = SettingsConfigDict(
        env_prefix="WSD_",
        extra="forbid",
        frozen=True,
        # The text of pydantic's exception would repeat a refused key.
        hide_input_in_errors=True,
        # Without it the rule that auth=jwt needs a key would not see that there is none.
        validate_default=True,
    )

    host: kinds.Hosts = Field(
        default=("127.0.0.1",),
        description="addresses to listen on for clients; 0.0.0.0 is every IPv4 address, and :: every address of both"
        " families",
    )
    port: kinds.Port = Field(default=3000, description="port to listen on for clients")
    admin_host: kinds.Hosts = Field(
        default=("127.0.0.1",), description="addresses to listen on for health checks and metrics"
    )
    admin_port: kinds.Port = Field(default=3001, description="port to listen on for health checks and metrics")

    redis_url: kinds.Url = Field(
        default=RedisUrl("redis://127.0.0.1:6379/0"),
        description="the Redis to listen to: a server, Sentinels, or nodes of a Cluster; a URL with a password can't"
        " be a flag, because every user of the machine could read it",
    )
    pubsub: kinds.PubSub = Field(
        default="auto",
        description="kind of channels: classic (PUBLISH) or sharded (SPUBLISH, Redis 7); auto is sharded on a Cluster"
        " and classic elsewhere",
    )
    redis_heartbeat: kinds.Seconds = Field(
        default=5.0,
        description="seconds that Redis may be silent, or deliver nothing, before the link is made again; that is"
        " noticed after 1 to 1.5 times as long",
    )
    channel_prefix: kinds.Prefix = Field(
        default="", description="what stands before the topic in a Redis channel's name"
    )

    auth: kinds.Auth = Field(
        default="jwt",
        description="how clients prove who they are; none lets everyone in and is for development",
    )
    jwt_algorithms: kinds.Algorithms = Field(
        default=("HS256",), description="signature algorithms that a token may use"
    )
    jwt_key: kinds.Key = Field(
        default=None,
        description="shared secret or PEM public key that verifies tokens; jwt_key_file is the safer way",
    )
    jwt_key_file: kinds.KeyFile = Field(default=None, description="file that holds the key, in the place of jwt_key")
    jwt_audience: kinds.Text = Field(
        default=None,
        description="audience (aud) that a token must name; not set: a token that names an audience is refused",
    )
    jwt_issuer: kinds.Text = Field(default=None, description="issuer (iss) that a token must name; not set: any")
    # Clocks set by NTP agree within milliseconds, others within some seconds. 0 would refuse fresh tokens whose
    # nbf is the moment of issue. RFC 7519 (section 4.1.4) allows a few minutes, but a session outlives exp by as much.
    jwt_leeway: kinds.Leeway = Field(
        default=5.0,
        description="seconds that the clocks of issuer and daemon may differ, when `exp` and `nbf` are judged",
    )
    require_topics_claim: kinds.Switch = Field(
        default=False,
        description="refuse a token without the claim `topics`; otherwise such a token permits every topic",
    )
    allowed_origins: kinds.Origins = Field(
        default=(),
        description="origins of the pages that may connect; empty: all. Clients that send no origin, which are no"
        " browsers, may always connect",
    )

    subprotocols: kinds.Subprotocols = Field(
        default=(),
        description="WebSocket subprotocols; the first that a client offers too is selected, and a client that offers"
        " none of them is let in all the same",
    )

    auth_timeout: kinds.Seconds = Field(
        default=10.0, description="seconds that a client has to authorize; then the connection is closed with 4001"
    )
    ping_interval: kinds.Seconds = Field(default=20.0, description="seconds between WebSocket pings to a client")
    ping_timeout: kinds.Seconds = Field(default=20.0, description="seconds that a client may take to answer a ping")
    max_connections: kinds.CountOrNone = Field(
        default=0,
        description="connections at a time, of all workers together; 0 is as many as the limit of open files allows",
    )
    max_message_size: kinds.MessageSize = Field(
        default=ByteSize(65_536), description="size of the largest message that a client may send"
    )
    max_request_rate: kinds.Rate = Field(
        default=100.0,
        description="requests a second on a connection, of which 5 seconds' worth may come at once; 0 is no limit",
    )
    max_topics: kinds.Count = Field(default=128, description="topics that a session may subscribe to")
    max_violations: kinds.Count = Field(default=10, description="bad requests before a connection is closed with 1008")
    max_backlog: kinds.BacklogSize = Field(
        default=ByteSize(1_048_576),
        description="size of what may wait for a slow client before the connection is closed with 4008; several times"
        " the largest payload",
    )
    max_backlog_age: kinds.Seconds = Field(
        default=10.0,
        description="seconds that something may wait for a slow client before the connection is closed with 4008",
    )
    gap_notices: kinds.Switch = Field(default=True, description="tell clients when messages may have been missed")
    workers: kinds.Workers = Field(
        default=1, description="processes that serve clients, each on one core; 0 is one for each core that wsd may use"
    )
    worker_timeout: kinds.WorkerTimeout = Field(
        default=10.0, description="seconds that the event loop of a worker may stand still before it is replaced"
    )
    drain_seconds: kinds.SecondsOrNone = Field(
        default=10.0, description="seconds over which clients are sent away when the daemon stops"
    )

    log_level: kinds.LogLevel = Field(default="info", description="least important kind of event that is logged")
    log_format: kinds.LogFormat = Field(default="text", description="how a line of the log is written")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # `load` asks the sources itself, to know which one a mistake came from.
        return (init_settings,)

    @field_validator("*", mode="before")
    @classmethod
    def _check_switch(cls, value: object, info: ValidationInfo) -> object:
        # In TOML `port = true` is a slip; pydantic would take it for 1.
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError
        return value

    @field_validator("admin_port")
    @classmethod
    def _check_admin_port(cls, value: int, info: ValidationInfo) -> int:
        hosts, admin_hosts = set(info.data.get("host", ())), set(info.data.get("admin_host", ()))
        same_host = hosts & admin_hosts or (hosts | admin_hosts) & {"0.0.0.0", "::"}
        if value and same_host and value == info.data.get("port"):
            raise ValueError("a port other than that for clients")
        return value

    @field_validator("jwt_key_file")
    @classmethod
    def _check_key(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        """Check the key. Three settings say what it is; this one is validated last, so the other two are known."""
        if info.data.get("auth") == "jwt" and {"jwt_key", "jwt_algorithms"} <= info.data.keys():
            try:
                read_key(info.data["jwt_key"], value, info.data["jwt_algorithms"])
            except SettingsError as exc:
                # Raised as it is, it would hide the mistakes in other fields. The braces of a message template are
                # pydantic's; a file name may hold some.
                raise PydanticCustomError("key", "{line}", {"line": str(exc)}) from None
        return value

    def processes(self) -> int:
        """Return how many workers there shall be: `workers`, or one for each core that this process may use."""
        return self.workers or min(len(os.sched_getaffinity(0)), kinds.MAX_WORKERS)

    def key(self) -> bytes:
        """Return the bytes that tokens are verified with: an HMAC secret, or a public key's PEM text.

        The file is read at each call, so this is also what a reload calls.

        Raises:
            SettingsError: the key can't be used, with one line that says why.
        """
        return read_key(self.jwt_key, self.jwt_key_file, self.jwt_algorithms)


def flag_fields() -> dict[str, FieldInfo]:
    """Return the settings that may be flags. The key may not: every user can read a process's arguments."""
    return {name: field for name, field in Settings.model_fields.items() if name != "jwt_key"}


def allowed(name: str) -> str:
    """Return what the setting accepts, in words."""
    return next(item.text for item in Settings.model_fields[name].metadata if isinstance(item, kinds.Allowed))


def describe(settings: Settings) -> list[tuple[str, str]]:
    """Return every setting's name and value, secrets masked, in the order in which they are documented."""
    return [(name, text(getattr(settings, name))) for name in Settings.model_fields]


def text(value: object) -> str:
    """Write a setting's value the way it can be given, secrets masked; an absent one is an empty text."""
    match value:
        case None:
            return ""
        case SecretStr():
            return "***"
        case bool():
            return str(value).lower()
        case ByteSize():
            return _size_text(value)
        case float():
            return str(int(value)) if value.is_integer() else str(value)
        case tuple():
            return ",".join(value)
        case _:
            return str(value)


def _size_text(size: int) -> str:
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach `host`. A name that isn't localhost is not looked up."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower().rstrip(".") == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def warnings(settings: Settings) -> list[str]:
    """Return a line for everything that is allowed but dangerous; to be logged at every start."""
    lines = []
    reachable = [host for host in settings.host if not is_loopback(host)]
    if settings.auth == "none" and reachable:
        lines.append(
            f"auth=none on {', '.join(reachable)}: everyone who can reach this address can read every topic;"
            " set auth=jwt and a key, or listen on 127.0.0.1"
        )
    return lines
