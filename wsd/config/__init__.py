"""The settings: read once from five places, validated once, then frozen.

A setting is looked for in this order, and the first that has it wins:

1. flags of the command line (``--ping-interval 5``)
2. the environment (``WSD_PING_INTERVAL=5``)
3. a TOML file (``ping_interval = 5``), named by ``--config`` or ``WSD_CONFIG``
4. a file in ``$CREDENTIALS_DIRECTORY`` (systemd's ``LoadCredential=``) whose name is the setting's
5. the default

Three rules hold for all of them. A name that is no setting is a mistake: a misspelt limit must not leave the default in
force unseen. All mistakes are reported at once, one line each. No line holds a secret: neither the key nor the password
in ``redis_url``, and never the value of a name that isn't known.

`load` is the way in for the daemon; ``Settings(port=0, auth="none")`` reads nothing but its arguments.

What a value may be stands in `kinds`, which settings there are in `settings`, where they come from in `sources`, and
how they get to another process in `passing`.
"""

from wsd.config.kinds import RedisUrl
from wsd.config.passing import pack, unpack
from wsd.config.settings import Settings, allowed, describe, flag_fields, is_loopback, text, warnings
from wsd.config.sources import load, load_with_places, log_format

__all__ = [
    "RedisUrl",
    "Settings",
    "allowed",
    "describe",
    "flag_fields",
    "is_loopback",
    "load",
    "load_with_places",
    "log_format",
    "pack",
    "text",
    "unpack",
    "warnings",
]
