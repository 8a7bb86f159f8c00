"""The life of wsd under a real systemd: start, changes, accidents, end. One host goes through it in this order."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest

from tests.lib.waiting import until
from tests.whole.systemd.conftest import Host, Report, commands
from tests.whole.systemd.crowd import LOST

WORKERS = 2

SLOW = 20
"""Messages a second, where clients must answer a close frame in time: on a busy machine the crowd has little to do."""


def noticed_nothing(told: Report) -> bool:
    """Whether every client has got every message once and in order, none was closed, and every newcomer got in."""
    return (told.wrong, told.closed, set(told.newcomers)) == ([], {}, {"in"})


@pytest.fixture(autouse=True)
def log_of_the_test(host: Host) -> Iterator[None]:
    """Lets pytest show what wsd has logged during a test that fails."""
    cursor = host.cursor()
    yield
    sys.stdout.write("\n".join(host.log(f"--after-cursor={cursor}")))


# The start


def test_the_settings_are_for_root_and_for_wsd_alone(host: Host) -> None:
    assert host("stat --format '%a %U %G' /etc/wsd /etc/wsd/jwt_key /etc/wsd/wsd.toml").splitlines() == [
        "2750 root wsd",
        "640 root wsd",
        "640 root wsd",
    ]
    assert host("ps", "-o", "user=", "-p", str(host.main)).strip() == "wsd"
    assert "Permission denied" in host("setpriv --reuid=nobody --clear-groups cat /etc/wsd/jwt_key", check=False)


def test_systemd_knows_when_it_is_ready(host: Host) -> None:
    host.configure(workers=WORKERS)
    host("systemctl", "restart", "wsd")
    # No waiting here: the command has come back, so all workers are there, and so is Redis.
    assert host.get("/readyz").startswith("ready\n")
    assert len(host.workers) == WORKERS
    until(lambda: host.show("StatusText").startswith(f"{WORKERS} workers"), "the status")
    assert set(host.show("TriggeredBy").split()) == {"wsd-admin.socket", "wsd.socket"}


def test_the_journal_knows_what_is_important(host: Host) -> None:
    host("curl --silent http://127.0.0.1:3000/")
    host.logged("refused a handshake", "--priority=warning")
    informed = [line for line in host.log() if line.startswith("INFO ")]
    assert any(" listens on " in line for line in informed)
    serious = host.log("--priority=warning")
    assert serious and not set(informed) & set(serious)
    assert not [line for line in host.log() if re.match(r"\d{4}-|<\d>", line)]


# Changes


def test_a_new_key_is_taken_over_and_nobody_notices(host: Host) -> None:
    with host.crowd() as crowd:
        before = host.token()
        host.type(*commands("A new key"))
        with host.crowd(members=1) as newcomer:  # with a token that the new key has signed
            assert noticed_nothing(newcomer.report())
        assert noticed_nothing(crowd.report())
        assert host.token() != before


def test_wrong_settings_change_nothing_and_systemd_says_so(host: Host) -> None:
    with host.crowd() as crowd:
        main, workers = host.main, host.workers
        host.configure(workers=WORKERS, ping_interval="often")
        assert "failed" in host("systemctl", "reload", "wsd", check=False)
        host.logged("ping_interval", "--priority=err")
        # Who sends the signal by hand is told by the log and by the status.
        host("kill", "-HUP", str(main))
        host.logged("reload failed", "--priority=err")
        until(lambda: "ping_interval" in host.show("StatusText"), "the status")
        until(lambda: host.workers == workers, "the end of the worker that has read the settings")
        assert (host.main, host.show("ActiveState")) == (main, "active")
        assert noticed_nothing(crowd.report())
        host.configure(workers=WORKERS)


def await_workers(host: Host, number: int) -> None:
    """Wait until there are so many workers."""
    until(lambda: len(host.workers) == number, f"{number} workers")


def test_another_number_of_workers(host: Host) -> None:
    with host.crowd() as crowd:
        for number in (3, WORKERS):
            host.configure(workers=number)
            host("systemctl", "reload", "wsd")
            await_workers(host, number)
        assert noticed_nothing(crowd.report())


def version(host: Host) -> str:
    """The version that runs, as /metrics has it."""
    (found,) = re.findall(r'^wsd_info{version="(.*?)".*} 1', host.get("/metrics"), re.MULTILINE)
    return str(found)


def await_version(host: Host, wanted: str) -> None:
    """Wait until this version runs."""
    until(lambda: version(host) == wanted, f"version {wanted}")


def test_an_upgrade_and_the_way_back(host: Host) -> None:
    old, main = version(host), host.main
    source = host.inside("/root/checkout/wsd/__init__.py")
    text = source.read_text()
    with host.crowd() as crowd:
        for new in ("99.1.0", old):
            source.write_text(text.replace(old, new))
            host.type(*(line for line in commands("Another version") if "pinned.txt" not in line))
            await_version(host, new)
            assert host.main == main
            assert noticed_nothing(crowd.report())


def test_a_restart_refuses_nobody(host: Host) -> None:
    with host.crowd(rate=SLOW) as crowd:
        main = host.main
        host.type(*commands("Restart"))
        assert host.main != main
        told = crowd.report()
        assert (told.wrong, set(told.closed), set(told.newcomers)) == ([], {"1012"}, {"in"})


# Accidents


def restarts(host: Host, reason: str) -> float:
    """How many workers were replaced for a reason."""
    found = re.findall(rf'^wsd_worker_restarts_total{{reason="{reason}"}} (\S+)$', host.get("/metrics"), re.MULTILINE)
    return float(found[0]) if found else 0.0


def test_a_worker_that_is_killed_is_replaced(host: Host) -> None:
    with host.crowd() as crowd:
        main, workers = host.main, host.workers
        host("kill", "-KILL", str(workers[0]))
        until(lambda: host.get("/readyz").startswith("ready\n") and workers[0] not in host.workers, "a replacement")
        assert (host.main, len(host.workers), host.show("NRestarts")) == (main, WORKERS, "0")
        told = crowd.report()
        # Only those who were connected to it have noticed.
        assert set(told.closed) <= {"None", "ConnectionResetError", "IncompleteReadError"} and not told.wrong


def test_a_worker_that_is_frozen_is_replaced(host: Host) -> None:
    host.configure(workers=WORKERS, worker_timeout=2)
    host("systemctl", "restart", "wsd")
    with host.crowd() as crowd:
        main, workers = host.main, host.workers
        host("kill", "-STOP", str(workers[0]))
        until(lambda: workers[0] not in host.workers and len(host.workers) == WORKERS, "a replacement")
        assert (host.main, host.show("NRestarts")) == (main, "0")
        assert not crowd.report().wrong


def test_a_main_process_that_is_killed_takes_its_workers_along_and_all_are_started_again(host: Host) -> None:
    with host.crowd() as crowd:
        main, workers = host.main, host.workers
        host("kill", "-KILL", str(main))
        until(lambda: host.main not in (0, main) and host.get("/readyz").startswith("ready\n"), "a restart")
        assert not set(host.workers) & set(workers)
        told = crowd.report()
        # With the socket units who comes meanwhile waits. Lost are only those whom a worker had just accepted.
        assert not told.wrong and set(told.newcomers) <= {"in", LOST}
        assert told.newcomers.get(LOST, 0) < told.newcomers["in"]
        assert set(told.closed) <= {"None", "1012", "ConnectionResetError", "IncompleteReadError"}
    names = host("ps", "-o", "comm=", "-p", ",".join(map(str, (host.main, *host.workers)))).splitlines()
    assert sorted(names) == ["wsd", *(f"wsd worker {number}" for number in range(WORKERS))]


def test_the_watchdog_starts_it_again_when_it_is_frozen(host: Host) -> None:
    host.drop_in("WatchdogSec=2")
    host("systemctl", "restart", "wsd")
    with host.crowd() as crowd:
        main = host.main
        host("kill", "-STOP", str(main))
        until(lambda: host.show("NRestarts") == "1" and host.show("ActiveState") == "active", "a restart")
        host.logged("Watchdog timeout")
        assert host.main != main
        told = crowd.report()
        assert not told.wrong and set(told.newcomers) >= {"in"}
    host.drop_in()
    host("systemctl", "restart", "wsd")


# The end


def test_the_end(host: Host) -> None:
    with host.crowd(members=20, rate=SLOW) as crowd:
        host.type(*commands("Stop"))
        assert (host.show("ActiveState"), host.show("Result")) == ("inactive", "success")
        assert crowd.report(complete=False).closed["1012"] == 20
