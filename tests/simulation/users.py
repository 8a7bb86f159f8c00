"""Who may log in at the model of Redis, and what he may do then.

https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tests.simulation.resp import Error, text_of

__all__ = ["User"]


class User:
    """A user.

    Args:
        name: his name.
    """

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.enabled = False
        self.passwords: dict[bytes, None] = {}
        self.needs_password = True
        self.channels: list[bytes] = []  # patterns
        self._permitted = False  # whether commands without a rule of their own are permitted
        self._commands: dict[str, bool] = {}  # rules, by name; of a container for all that it contains

    @classmethod
    def default(cls) -> User:
        """The one as whom clients are logged in that don't log in: he may do everything."""
        user = cls(b"default")
        for rule in (b"on", b"nopass", b"allchannels", b"+@all"):
            user.apply(rule)
        return user

    def accepts(self, password: bytes) -> bool:
        """Whether one can log in with a password."""
        return self.enabled and (not self.needs_password or password in self.passwords)

    def may_say(self, name: str) -> bool:
        """Whether he may say a command."""
        permitted = self._commands.get(name, self._commands.get(name.partition("|")[0]))
        return self._permitted if permitted is None else permitted

    def may_use(self, channel: bytes) -> bool:
        """Whether he may use a channel."""
        return any(_matches(pattern, channel) for pattern in self.channels)

    def apply(self, rule: bytes) -> None:
        """Apply a rule of ACL SETUSER. Those about keys change nothing: wsd uses none.

        Raises:
            Error: if it is no rule, or one that the model lacks.
        """
        word, rest = rule.lower(), rule[1:]
        match word:
            case b"on" | b"off":
                self.enabled = word == b"on"
            case b"nopass":
                self.needs_password = False
                self.passwords.clear()
            case b"resetpass":
                self.needs_password = True
                self.passwords.clear()
            case b"allchannels":
                self.channels = [b"*"]
            case b"resetchannels":
                self.channels = []
            case b"+@all" | b"allcommands" | b"-@all" | b"nocommands":
                self._permitted = word in (b"+@all", b"allcommands")
                self._commands.clear()
            case b"allkeys":
                pass
            case _ if word[:1] == b">":
                self.needs_password = True
                self.passwords[rest] = None
            case _ if word[:1] == b"&":
                self.channels.append(rest)
            case _ if word[:1] in (b"+", b"-") and rest[:1] != b"@":
                self._commands[rest.upper().decode()] = word[:1] == b"+"
            case _ if word[:1] != b"~":
                raise Error(f"ERR Error in ACL SETUSER modifier '{text_of(rule)}': Syntax error")


def _matches(pattern: bytes, channel: bytes) -> bool:
    """Whether a channel matches a pattern. Of Redis's patterns only ``*`` and ``?`` are known here."""
    regex = b"".join({b"*": b".*", b"?": b"."}.get(letter) or re.escape(letter) for letter in _letters(pattern))
    return re.fullmatch(regex, channel, re.DOTALL) is not None


def _letters(text: bytes) -> Iterable[bytes]:
    return (text[index : index + 1] for index in range(len(text)))
