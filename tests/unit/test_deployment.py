"""Where Redis is: the values."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsd.deployment import Address, Cluster, Deployment, Sentinel, Standalone, addresses, check_host, is_sharded, named
from wsd.tls import TLS

HERE, THERE = Address("10.0.0.1"), Address("::1", 7000)


@given(st.one_of(st.text(max_size=300), st.text(st.sampled_from("a1-_.:%[]\u00fc\u3002\ud800"), max_size=70)))
@example("redis..svc")
@example("\u3002a")  # a dot to the codec
@example("a" * 64)
@example("fe80::1%\x00")
def test_no_host_that_is_accepted_is_refused_by_the_resolver_s_codec(host: str) -> None:
    try:
        check_host(host)
    except ValueError:
        return
    assert "\x00" not in host
    if ":" not in host:
        host.encode("idna")


def test_the_same_login_at_another_place() -> None:
    address = Address("h", username="u", password="p", tls=TLS({}))
    there = address.at("elsewhere", 7)
    assert (there.host, there.port) == ("elsewhere", 7)
    assert there.at("h", 6379) == address
    assert there.tls is address.tls, "all that a URL names share what is read"
    assert Address(path="/run/redis.sock").at("h", 6379) == Address("h")


def test_which_pubsub() -> None:
    standalone, cluster = Standalone(HERE), Cluster((HERE, THERE))
    assert [is_sharded(standalone, kind) for kind in ("auto", "classic", "sharded")] == [False, False, True]
    assert [is_sharded(cluster, kind) for kind in ("auto", "classic", "sharded")] == [True, False, True]


@pytest.mark.parametrize(
    "deployment", [Standalone(HERE), Sentinel((HERE, THERE), "m", Address(password="pw")), Cluster((HERE, THERE))]
)
def test_a_name_for_our_connections_goes_to_every_server(deployment: Deployment) -> None:
    other = named(deployment, "wsd:here")
    assert {server.client_name for server in addresses(other)} == {"wsd:here"}
    assert named(other, "wsd") == deployment
    assert str(other) == str(deployment)
