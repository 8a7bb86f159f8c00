"""Tests of the Redis URL: what it is taken for, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsd.config.redis_url import FORMS, parse_deployment
from wsd.deployment import Address, Cluster, Sentinel, Standalone, addresses


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://localhost", Address("localhost")),
        ("redis://localhost/", Address("localhost")),
        ("REDIS://localhost", Address("localhost")),
        ("redis://127.0.0.1:6380/15", Address("127.0.0.1", 6380)),
        ("redis://[::1]:6379/0", Address("::1")),
        ("redis://user:p%40ss@redis:6379/0", Address("redis", username="user", password="p@ss")),
        ("redis://:p%2Fss@redis", Address("redis", password="p/ss")),
        ("redis://redis?db=3&username=u&password=p", Address("redis", username="u", password="p")),
        ("redis://user@redis", Address("redis", username="user")),
        ("redis://user:@redis", Address("redis", username="user")),
        ("redis://:@redis", Address("redis")),
        ("redis://redis?username=u", Address("redis", username="u")),
        ("redis://redis?password=%2525", Address("redis", password="%25")),
        ("redis://:%ff%00p@redis", Address("redis", password="\udcff\x00p")),
        ("redis://redis?password=%FE", Address("redis", password="\udcfe")),
        ("redis://redis_1.my-net.:7", Address("redis_1.my-net.", 7)),
        ("redis://[fe80::1%25eth0]", Address("fe80::1%eth0")),
        ("redis://b%C3%BCcher.example", Address("b\u00fccher.example")),
        (f"redis://{'a' * 63}.b", Address(f"{'a' * 63}.b")),
        ("unix:///run/redis/redis.sock", Address(path="/run/redis/redis.sock")),
        ("unix://:pw@/run/redis/redis.sock?db=2", Address(path="/run/redis/redis.sock", password="pw")),
    ],
)
def test_urls(url: str, address: Address) -> None:
    assert parse_deployment(url) == Standalone(address)


ONE, TWO = Address("10.0.0.1", 26379), Address("10.0.0.2", 26380)


@pytest.mark.parametrize(
    ("url", "deployment"),
    [
        ("redis+sentinel://10.0.0.1/mymaster", Sentinel((ONE,), "mymaster", Address())),
        ("REDIS+Sentinel://10.0.0.1,10.0.0.2:26380/My-m_1.x/3", Sentinel((ONE, TWO), "My-m_1.x", Address())),
        ("redis+sentinel://10.0.0.1,10.0.0.1:26379/m", Sentinel((ONE,), "m", Address())),
        (
            "redis+sentinel://u:p%2C%40@10.0.0.1,[::1]:1/m?sentinel_username=s&sentinel_password=t%26",
            Sentinel(
                (
                    Address("10.0.0.1", 26379, username="s", password="t&"),
                    Address("::1", 1, username="s", password="t&"),
                ),
                "m",
                Address(username="u", password="p,@"),
            ),
        ),
        (
            "redis+sentinel://:p,w@10.0.0.1/m",
            Sentinel((ONE,), "m", Address(password="p,w")),
        ),
        ("redis+cluster://h", Cluster((Address("h"),))),
        ("redis+cluster://h:7000/", Cluster((Address("h", 7000),))),
        (
            "redis+cluster://:pw@h,[fe80::1]:7000/0",
            Cluster((Address("h", password="pw"), Address("fe80::1", 7000, password="pw"))),
        ),
    ],
)
def test_urls_of_several_servers(url: str, deployment: Sentinel | Cluster) -> None:
    assert parse_deployment(url) == deployment


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("redis://h", ()),
        ("redis://:@h", ()),
        ("redis://user@h", ("AUTH", b"user", b"")),
        ("redis://user:@h", ("AUTH", b"user", b"")),
        ("redis://h?username=user", ("AUTH", b"user", b"")),
        ("redis://:pw@h", ("AUTH", b"default", b"pw")),
        ("redis://u%C3%A9:%ff%fe@h", ("AUTH", "u\u00e9".encode(), b"\xff\xfe")),
        ("unix://user@/run/redis.sock", ("AUTH", b"user", b"")),
        ("redis+cluster://user@h1,h2", ("AUTH", b"user", b"")),
    ],
)
def test_the_login_is_what_the_url_says(url: str, login: tuple[object, ...]) -> None:
    assert {server.login for server in addresses(parse_deployment(url))} == {login}


def test_sentinels_have_a_login_of_their_own() -> None:
    for query, expected in (
        ("", ()),
        ("?sentinel_username=s", ("AUTH", b"s", b"")),
        ("?sentinel_password=%ff", ("AUTH", b"default", b"\xff")),
    ):
        *sentinels, master = addresses(parse_deployment(f"redis+sentinel://user@h1,h2/m{query}"))
        assert {sentinel.login for sentinel in sentinels} == {expected}
        assert master.login == ("AUTH", b"user", b"")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", FORMS),
        ("redis", FORMS),
        ("http://h", FORMS),
        ("redis:/h", FORMS),
        ("localhost", "a scheme before it, as in redis://localhost"),
        ("localhost:6379", "a scheme before it, as in redis://localhost:6379"),
        ("10.0.0.1", "a scheme before it, as in redis://10.0.0.1"),
        ("redis-1.example:6379/0", "a scheme before it, as in redis://redis-1.example:6379/0"),
        ("hunter2", FORMS),
        ("u:hunter2@h:6379", FORMS),
        ("redis://", "a host"),
        ("redis://:pw@", "a host"),
        ("redis:///0", "a host"),
        ("redis://h:0", "a port from 1 to 65535"),
        ("redis://h:65536", "a port from 1 to 65535"),
        ("redis://h:x", "a port from 1 to 65535"),
        ("redis://:hunter/2@h", "a port from 1 to 65535"),
        ("redis://::1", "brackets around an IPv6 address, as in redis://[::1]:6379"),
        ("redis://fe80::1:6379/0", "brackets around an IPv6 address"),
        ("redis://:pw@2001:db8::1", "brackets around an IPv6 address"),
        ("redis+cluster://h,::1", "brackets around an IPv6 address"),
        ("redis+sentinel://::1,h/m", "brackets around an IPv6 address"),
        ("redis://redis..svc", "an IP address, or a name"),
        ("redis://.redis", "an IP address, or a name"),
        ("redis://redis..", "an IP address, or a name"),
        (f"redis://{'a' * 64}.example", "an IP address, or a name"),
        (f"redis://{'a.' * 130}a", "an IP address, or a name"),
        (f"redis://{'a' * 100_000}", "an IP address, or a name"),
        (f"redis://{'%C3%BC' * 60}", "an IP address, or a name"),  # 63 and more letters as DNS writes it
        ("redis://re%20dis", "an IP address, or a name"),
        ("redis://re%00dis", "an IP address, or a name"),
        ("redis://%ff", "an IP address, or a name"),
        ("redis://?", "a host"),
        ("redis+sentinel://h1,h2..x/m", "an IP address, or a name"),
        ("redis+cluster://h1,*", "an IP address, or a name"),
        ("redis://[fe80::1%25]", "an IPv6 address"),
        ("redis://h?password=a+b", "a + after ? written as %2B"),
        ("redis://h?password=hunter2&password=b", "password= once"),
        ("redis://u:hunter2@h?password=hunter2", "user and password either before the @"),
        ("redis://u@h?password=hunter2", "user and password either before the @"),
        ("rediss://h?ssl_cert_reqs=required&ssl_cert_reqs=none", "ssl_cert_reqs= once"),
        ("rediss://h?ssl_cert_reqs=none&ssl_check_hostname=true", "ssl_check_hostname=true only with"),
        ("rediss+cluster://h?ssl_check_hostname=true&ssl_cert_reqs=none", "ssl_check_hostname=true only with"),
        ("rediss://h?ssl_cert_reqs=none&ssl_ca_certs=/ca.pem", "ssl_ca_certs= only with"),
        ("rediss://h?ssl_keyfile=/key.pem", "ssl_keyfile= only beside ssl_certfile="),
        ("rediss+sentinel://h/m?ssl_keyfile=/key.pem", "ssl_keyfile= only beside ssl_certfile="),
        ("rediss://h?ssl_password=hunter2", "ssl_password= only beside ssl_certfile="),
        (f"unix:///{'a' * 107}", "the path of a socket in at most 107 bytes"),
        ("unix:///run/%00.sock", "the path of a socket in at most"),
        ("unix:///run/%ff.sock", "the path of a socket in at most"),
        ("redis://[::1", "a port from 1 to 65535"),
        ("redis://h/x", "nothing or the number of a database"),
        ("redis://h/1/2", "nothing or the number of a database"),
        ("redis://h?db=x", "after db= only what matches [0-9]+"),
        ("redis://h?database=1", "only these after ?: db, password, username"),
        ("redis://h?ssl_ca_certs=x", "only these after ?"),
        ("rediss://h?ssl_cert_reqs=never", "after ssl_cert_reqs= only"),
        ("redis://:hunter#2@h", "a URL without #"),
        ("redis://:hunter 2@h", "a URL without white space"),
        ("redis://h\n", "a URL without white space"),
        ("unix://", "the path of a socket"),
        ("unix:///", "the path of a socket"),
        ("unix://run/redis.sock", "the path of a socket after three slashes"),
        ("unix:/run/redis.sock", FORMS),
        ("unix://:hunter℀2@/run/redis.sock", "a port from 1 to 65535"),  # urlsplit's own text would repeat it
        ("redis://h1,h2", "one host; a list of them is for redis+sentinel"),
        ("sentinel://h/m", FORMS),
        ("redis+sentinels://h/m", FORMS),
        ("redis+://h/m", FORMS),
        ("unix+cluster://h", FORMS),
        ("redis+sentinel:///m", "a host after // and after each comma, as in redis+sentinel://10.0.0.1:26379,"),
        ("redis+sentinel://h,/m", "a host after // and after each comma"),
        ("redis+sentinel://h1,,h2/m", "a host after // and after each comma"),
        ("redis+sentinel://,h/m", "a host after // and after each comma"),
        ("redis+sentinel://u:hunter2@,h/m", "a host after // and after each comma"),
        ("redis+sentinel://h1,:1/m", "a host after // and after each comma"),
        ("redis+sentinel://h:0/m", "a port from 1 to 65535"),
        ("redis+sentinel://h1:1,h2:65536/m", "a port from 1 to 65535"),
        ("redis+sentinel://h1,h2:x/m", "a port from 1 to 65535"),
        ("redis+sentinel://:hunter/2@h/m", "a port from 1 to 65535"),
        ("redis+sentinel://[::1,h/m", "a port from 1 to 65535"),
        ("redis+sentinel://u:hunter2@h1,u:hunter2@h2/m", "one USER:PASSWORD@ before the first host"),
        ("redis+sentinel://:hun@ter2@h/m", "one USER:PASSWORD@ before the first host, for all of them, and @"),
        ("redis+sentinel://h", "the name of the master"),
        ("redis+sentinel://h/", "the name of the master"),
        ("redis+sentinel://h//0", "the name of the master"),
        ("redis+sentinel://h/my%20master", "the name of the master"),
        ("redis+sentinel://h/m:1", "the name of the master"),
        ("redis+sentinel://h/m,h2", "the name of the master"),
        ("redis+sentinel://h/m/x", "the name of the master"),
        ("redis+sentinel://h/m/0/0", "the name of the master"),
        ("redis+sentinel://h/m?db=1", "only these after ?: password, sentinel_password, sentinel_username, username"),
        ("redis+sentinel://h/m?sentinel_password=", "after sentinel_password= only"),
        ("redis+sentinel://h/m?ssl_cert_reqs=none", "only these after ?"),
        ("redis+sentinel://h/m#hunter2", "a URL without #"),
        ("redis+cluster://", "a host after // and after each comma, as in redis+cluster://10.0.0.1:7000,"),
        ("redis+cluster://h:1,", "a host after // and after each comma"),
        ("redis+cluster://h:7000:7001", "a port from 1 to 65535"),
        ("redis+cluster://h/1", "nothing or /0"),
        ("redis+cluster://h/mymaster", "nothing or /0"),
        ("redis+cluster://h?sentinel_password=hunter2", "only these after ?: password, username"),
        ("rediss+cluster://h?db=1", "only these after ?: password, ssl_ca_certs"),
    ],
)
def test_urls_that_are_refused(url: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - what it says is the next line's
        parse_deployment(url)
    assert str(caught.value).startswith(reason)
    assert "hunter" not in str(caught.value)


SCHEMES = ["redis", "rediss", "unix", "redis+sentinel", "rediss+cluster"]


@given(st.sampled_from(SCHEMES), st.text(st.sampled_from("ah1,:@/?[]%&=.-_0\u2100"), max_size=16))
def test_whatever_it_is_it_is_taken_or_refused(scheme: str, rest: str) -> None:
    url = f"{scheme}://{rest}"
    try:
        deployment = parse_deployment(url)
    except ValueError:
        return
    for server in addresses(deployment)[:1]:
        assert server.path or (server.host and 1 <= server.port <= 65535)


# TLS. What is done with files: tests/unit/test_tls.py; what servers make of it: tests/whole/redis/test_tls.py.


@pytest.mark.parametrize("url", ["rediss+sentinel://h1,h2/m", "rediss+cluster://h1,h2"])
def test_tls_to_every_server(url: str) -> None:
    url += "?ssl_cert_reqs=none&ssl_check_hostname=false"
    (tls,) = {server.tls for server in addresses(parse_deployment(url))}
    assert tls is not None
    assert tls.options == {"ssl_cert_reqs": "none", "ssl_check_hostname": "false"}
    plain = url.replace("rediss", "redis").split("?")[0]
    assert {server.tls for server in addresses(parse_deployment(plain))} == {None}


def test_files_are_not_looked_at() -> None:
    assert addresses(parse_deployment("rediss://h?ssl_ca_certs=/nowhere/ca.pem"))[0].tls is not None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:hunter2@h/0", "redis://h:6379"),
        ("rediss://[::1]:1?password=hunter2", "rediss://[::1]:1"),
        ("unix://:hunter2@/run/redis.sock?db=1", "unix:///run/redis.sock"),
    ],
)
def test_what_is_shown_of_an_address(url: str, shown: str) -> None:
    deployment = parse_deployment(url)
    assert isinstance(deployment, Standalone)
    assert str(deployment) == str(deployment.server) == shown
    assert "hunter2" not in repr(deployment)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "rediss+sentinel://u:hunter2@10.0.0.1,[::1]:2/mymaster?sentinel_password=hunter2",
            "the master mymaster of Sentinel at 10.0.0.1:26379, [::1]:2",
        ),
        ("redis+cluster://u:hunter2@10.0.0.1:7000,10.0.0.2:7001", "the cluster at 10.0.0.1:7000, 10.0.0.2:7001"),
    ],
)
def test_what_is_shown_of_a_deployment(url: str, shown: str) -> None:
    deployment = parse_deployment(url)
    assert str(deployment) == shown
    assert "hunter2" not in repr(deployment)
