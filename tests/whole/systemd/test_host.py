"""The life of wsd under a real systemd: start, changes, accidents, end. One host goes through it in this order."""

from __future__ import annotations

import re

from tests.lib.waiting import until
from tests.whole.systemd.conftest import Host, commands


def test_systemd_knows_when_it_is_ready(host: Host) -> None:
    assert host.show("ActiveState") == "active"
    until(lambda: host.get("/readyz").startswith("ready\n"), "wsd")
    assert host("systemctl", "is-enabled", "wsd") == "enabled\n"
    assert host("systemctl", "restart", "wsd") == ""
    # No waiting here: the command has come back, so it is ready.
    assert host.get("/healthz") == "ok\n"


def test_the_settings_are_for_root_and_for_wsd_alone(host: Host) -> None:
    assert host("stat --format '%a %U %G' /etc/wsd /etc/wsd/jwt_key /etc/wsd/wsd.toml").splitlines() == [
        "2750 root wsd",
        "640 root wsd",
        "640 root wsd",
    ]
    assert host("ps", "-o", "user=", "-p", str(host.main)).strip() == "wsd"
    assert "Permission denied" in host("setpriv --reuid=nobody --clear-groups cat /etc/wsd/jwt_key", check=False)
    assert "jwt_key_file" in host(
        "setpriv --reuid=wsd --regid=wsd --clear-groups /opt/wsd/bin/wsd check --config /etc/wsd/wsd.toml"
    )


def test_the_journal_knows_what_is_important(host: Host) -> None:
    host("curl --silent http://127.0.0.1:3000/")
    host.logged("refused a handshake", "--priority=warning")
    informed = [line for line in host.log() if line.startswith("INFO ")]
    assert any(" listens on " in line for line in informed)
    serious = host.log("--priority=warning")
    assert serious and not set(informed) & set(serious)
    assert not [line for line in host.log() if re.match(r"\d{4}-|<\d>", line)]


def test_a_new_key_is_taken_over_and_nobody_notices(host: Host) -> None:
    host.configure()
    with host.crowd() as crowd:
        old = host.token()
        host.type(*commands("A new key"))
        assert host.show("ActiveState") == "active"
        with host.crowd(members=1) as newcomer:  # with a token that the new key has signed
            assert not newcomer.report().closed
        told = crowd.report()
        assert (told.wrong, told.closed, set(told.newcomers)) == ([], {}, {"in"})
    assert host.token() != old


def test_wrong_settings_change_nothing_and_systemd_says_so(host: Host) -> None:
    with host.crowd(members=5) as crowd:
        host.configure(ping_interval="often")
        assert "failed" in host("systemctl", "reload", "wsd", check=False)
        assert host.show("ActiveState") == "active"
        host.logged("ping_interval", "--priority=err")
        told = crowd.report()
        assert (told.wrong, told.closed) == ([], {})
    host.configure()


def test_the_end(host: Host) -> None:
    with host.crowd(members=20) as crowd:
        host.type(*commands("Stop"))
        assert (host.show("ActiveState"), host.show("Result")) == ("inactive", "success")
        closed = crowd.report(complete=False).closed
        assert closed["1012"] == 20
