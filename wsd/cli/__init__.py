"""The commands of ``wsd``: the only room that prints.

==============  =====================================================================
``arguments``   what can be typed: the parsers
``help``        what ``--help`` says
``settings``    the settings of a command: its flags, over the other places
``commands``    runs a command and turns exceptions into lines and exit statuses
``output``      how a command says something
``serve``       the daemon: its supervisor
``worker``      a worker of the daemon, which the supervisor starts
``dev``         the daemon with nothing around it: its Redis, and what to type next
``check``       prints the settings
``connecting``  its --connect: tries Redis
``token``       signs a token
``publish``     publishes
``tail``        a client: prints what is published
==============  =====================================================================

Exit statuses: 0 for success, 1 for what the machine or a server refused, 2 for wrong settings or arguments, 130 for
Ctrl-C where it is not the usual end.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from types import ModuleType

__all__ = ["import_quietly", "main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status.

    Args:
        argv: the arguments after the program's name; without it those of the process.
    """
    _open_standard_streams()
    command = sys.argv[1:2] if argv is None else []
    if command in (["serve"], ["worker"]):
        # They would end a daemon that has no handlers yet. It takes them later, with those that came until then.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2))
    status: int
    try:
        status = _serve(sys.argv[2:]) if command == ["serve"] else import_quietly("wsd.cli.commands").run(argv)
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as shells count
    return status


def _serve(arguments: list[str]) -> int:
    """Run the supervisor. Not by way of the commands, which bring the settings and with them 30 MiB."""
    supervisor = import_quietly("wsd.supervisor")
    import_quietly("wsd.process").set_name("wsd")
    try:
        status: int = supervisor.run(arguments)
    except import_quietly("wsd.errors").StartupError as exc:
        import_quietly("wsd.cli.output").say(str(exc))
        return 1
    return status


def _open_standard_streams() -> None:
    """Open /dev/null in the place of each standard stream that the parent closed (``<&-``, ``>&-``, ``2>&-``).

    Else the next file or socket that is opened takes the number: what is printed would go into it, and uvloop aborts
    the process when it closes a socket that is one of the three. Standard input is at its end, standard error goes
    nowhere. Standard output can't be written to, because a command must not succeed when its result is lost.
    """
    for descriptor, name, access in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            # open() takes the lowest number that is free, which is this one because those below it are open.
            os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            # Python has None in its place, with which a print() to standard error would go to standard output.
            stream = open(descriptor, access, errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def import_quietly(name: str) -> ModuleType:
    """Import a module of ours, and with it the libraries, which takes long enough for a Ctrl-C.

    It ends the process at once, without a traceback. A KeyboardInterrupt would not do: pydantic makes other exceptions
    of one that comes while it builds a class.
    """
    handler = signal.getsignal(signal.SIGINT)
    replaced = handler is signal.default_int_handler  # a shell's background job ignores it
    if replaced:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return import_module(name)
    finally:
        if replaced:
            signal.signal(signal.SIGINT, handler)
