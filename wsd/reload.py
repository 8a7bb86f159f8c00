"""What a running daemon takes over from settings that are read anew: the key, and the log level."""

from __future__ import annotations

import logging
from collections.abc import Callable

from wsd import logs
from wsd.auth.grant import Authenticator
from wsd.auth.jwt import JWTAuthenticator
from wsd.config import Settings
from wsd.deployment import Deployment, addresses
from wsd.errors import SettingsError
from wsd.metrics import Metrics

__all__ = ["Reloader"]

RELOADED = frozenset({"jwt_key", "jwt_key_file", "log_level"})
"""Settings that SIGHUP takes over. The others need a restart."""

logger = logging.getLogger(__name__)


class Reloader:
    """Takes over settings.

    Args:
        settings: those that the daemon was started with.
        authenticator: gets the key.
        deployment: its certificates are read anew, too.
        metrics: counts.
    """

    def __init__(
        self, settings: Settings, authenticator: Authenticator, deployment: Deployment, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._authenticator = authenticator
        self._key = settings.key() if settings.auth == "jwt" else b""  # to see whether a reload brings another
        self._deployment = deployment
        self._metrics = metrics

    def reload(self, load: Callable[[], Settings]) -> None:
        """Take over what `load` reads; keep the old key and log level if the settings are wrong."""
        result = "failed"
        try:
            lines = self._take_over(load())
            result = "done"
        except SettingsError as exc:
            reason = "; ".join(exc.mistakes)
            logger.error(
                "reload failed, the old key and log level stay: %s",
                reason,
                extra=logs.fields(result=result, reason=reason),
            )
        else:
            logger.info("reloaded: %s", "; ".join(lines), extra=logs.fields(result=result))
        finally:
            self._metrics.reloads[result] += 1

    def _take_over(self, settings: Settings) -> list[str]:
        """Take over what a running daemon can; return what became of it, for the log."""
        restart = [
            name
            for name in Settings.model_fields
            if name not in RELOADED and getattr(settings, name) != getattr(self._settings, name)
        ]
        lines = [f"the log level is {settings.log_level}"]
        if isinstance(self._authenticator, JWTAuthenticator):
            # The new key may be one for the new way only.
            if held := [name for name in ("auth", "jwt_algorithms") if name in restart]:
                raise SettingsError([f"{', '.join(held)}: changed, which needs a restart"])
            key = settings.key()
            if key == self._key:
                lines.append("the key is the same")
            else:
                self._authenticator.use_key(key)
                lines.append(
                    "the key is a new one, and sessions that were authorized with the old key go on until the exp of"
                    " their token"
                )
            self._key = key
        logs.set_level(settings.log_level)
        if (tls := addresses(self._deployment)[0].tls) is not None:  # all have the same
            tls.renewed()  # the next connection would look too, but whoever sends SIGHUP wants to hear of it now
        changed = f"changed, which needs a restart: {', '.join(restart)}" if restart else "no other setting has changed"
        return [*lines, changed]
