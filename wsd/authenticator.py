"""The authenticator that the settings describe.

For the daemon, and for ``wsd token``, which must refuse what the daemon would. `wsd.auth` itself knows no settings.
"""

from __future__ import annotations

from wsd.auth.jwt import JWTAuthenticator
from wsd.config import Settings

__all__ = ["jwt_authenticator"]


def jwt_authenticator(settings: Settings) -> JWTAuthenticator:
    """Make what checks tokens as these settings want it, whatever ``auth`` says.

    Raises:
        SettingsError: if the key can't be used.
    """
    return JWTAuthenticator(
        settings.key(),
        settings.jwt_algorithms,
        audience=settings.jwt_audience,
        issuer=settings.jwt_issuer,
        leeway=settings.jwt_leeway,
        require_topics=settings.require_topics_claim,
    )
