"""What ``--help`` says of the program and of each command, beside the flags."""

from __future__ import annotations

from wsd.cli.settings import TOKEN_VARIABLE

__all__ = [
    "CHECK",
    "CHECK_EXAMPLES",
    "DEV",
    "DEV_EXAMPLES",
    "PRECEDENCE",
    "PROGRAM",
    "PUBLISH",
    "PUBLISH_EXAMPLES",
    "SERVE",
    "TAIL",
    "TAIL_EXAMPLES",
    "TOKEN",
    "TOKEN_EXAMPLES",
]

PRECEDENCE = """\
A setting is taken from the first of these that has it: the flag, WSD_NAME in
the environment (WSD_PORT=3000), NAME in the TOML file (port = 3000), a file
NAME in $CREDENTIALS_DIRECTORY, the default. The key itself (jwt_key) and a
password in redis_url can't be flags. `wsd check` shows what is in force.
"""

PROGRAM = """\
WebSocket clients subscribe to topics; what is published on the Redis channel
of a topic reaches them. `wsd help COMMAND` says more, with examples.

exit status:
  0  done; for serve and dev: stopped by a signal, and drained
  1  the machine, Redis or the server says no
  2  wrong settings or arguments; each mistake is one line
"""

SERVE = """\
examples:
  openssl rand -hex 32 > key
  wsd serve --jwt-key-file key
  wsd serve --config wsd.toml --log-format json
  WSD_REDIS_URL=redis://:PASSWORD@redis.example wsd serve --jwt-key-file key

SIGTERM and SIGINT (Ctrl-C) drain: clients are sent away over drain_seconds; a
second signal stops at once. SIGHUP reads all settings anew, and starts new
processes with them, and with the code that is installed then; connections go
over to these and stay open. Flags and the environment can't change by that, so
settings that shall change belong into the TOML file.
"""

DEV = """\
The daemon on 127.0.0.1 without authentication, with text logs and without a
drain, and a Redis-compatible server of its own on port 6379 or, where that is
taken, a free one; then `wsd publish` needs the --redis-url that it prints.
Prints what to type next. Not for production.

With a redis_url given (WSD_REDIS_URL, --redis-url, the TOML file) it uses that
Redis. Of host, auth and log_format only the flags count here.
"""

DEV_EXAMPLES = """\
examples:
  wsd dev
  wsd dev --port 8080
  WSD_REDIS_URL=redis://127.0.0.1:6379 wsd dev
"""

CHECK = """\
Validates the settings and prints them, secrets masked, each with the place
that it comes from. With --connect it also connects to Redis as the daemon
would, subscribes a private channel, publishes on it, and says what it found;
the exit status is 1 if the daemon could not serve so. It reads nothing else.
"""

CHECK_EXAMPLES = """\
examples:
  wsd check
  wsd check --connect
  wsd check --config /etc/wsd/wsd.toml
"""

TOKEN = """\
Signs a JSON Web Token that a daemon with these settings accepts, and prints it:
with the shared secret of the settings, or with a private key where tokens are
verified with a public one (RS*, PS*, ES*, EdDSA). For tests; in production the
service that knows your users signs.
"""

TOKEN_EXAMPLES = """\
examples:
  wsd token --jwt-key-file key --subject alice --expires 1h
  wsd token --jwt-key-file key --topics 'chat,news.*'
  WSD_TOKEN=$(wsd token --jwt-key-file key) wsd tail chat
  wsd token --jwt-algorithms ES256 --private-key-file private.pem
"""

PUBLISH = """\
Publishes a payload, any bytes, on a topic's Redis channel, and prints how many
subscribers of the channel got it: each replica that has listeners is one. With
Sentinel it publishes at the master, on a Cluster at the node that has the
channel's slot. With classic channels a Cluster's node counts only its own
subscribers, although all nodes' get the payload.

Without PAYLOAD the payloads are read from standard input, one a line; an empty
line is an empty payload.
"""

PUBLISH_EXAMPLES = """\
examples:
  wsd publish chat '{"hello":"world"}'
  wsd publish chat -- '-starts with a dash'
  tail -F access.log | wsd publish access
  WSD_REDIS_URL=redis://:PASSWORD@redis.example wsd publish chat hello
"""

TAIL = """\
Connects to wsd as a client, subscribes, and prints each snapshot as a line on
standard output; with several topics TOPIC<TAB>SNAPSHOT. A snapshot that was
published as JSON is printed byte for byte, except that line ends in it become
spaces. Other text arrives as a JSON string, binary payloads as base64 in one.

What else happens goes to standard error. Ctrl-C ends it.

It connects again, after a growing, random wait, when a connection is lost or
refused, a host name isn't known, or the server is full or restarts (429, 5xx,
1012); what is published meanwhile is not delivered. It ends with status 1 when
that would be in vain: the token or a topic is refused, the certificate can't
be trusted, or what answers speaks no TLS, no HTTP or no WebSocket (other 4xx).
"""

TAIL_EXAMPLES = f"""\
the token comes from the first of these that is given:
  --token-file FILE, which is read again for each connection
  {TOKEN_VARIABLE} in the environment
  the shared secret in the settings, for a server on this machine: tail signs
  a token for itself

examples:
  wsd tail chat
  wsd tail chat news --url wss://ws.example.org --token-file token
  WSD_TOKEN=$(wsd token) wsd tail chat --count 1 --timeout 10
"""
