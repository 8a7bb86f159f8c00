"""Tests of what is shown of a Redis URL: no password, however it is written."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsd.config.masking import has_password, mask_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://user:hunter2@h:6379/0", "redis://***@h:6379/0"),
        ("redis://hunter2@h", "redis://***@h"),
        ("redis://[::1]:6379/0?db=1&password=hunter2", "redis://[::1]:6379/0?db=1&***"),
        ("rediss://h?ssl_ca_certs=/ca.pem&ssl_password=hunter2", "rediss://h?ssl_ca_certs=/ca.pem&***"),
        ("unix://:hunter2@/run/redis.sock?db=1", "unix://***@/run/redis.sock?db=1"),
        ("redis://:hunter/2?@h", "redis://***"),
        ("redis://:hunter2", "redis://***"),
        ("redis://h?hunter2", "redis://h?***"),
        ("redis://h?db=1#hunter2", "redis://h?***"),
        ("redis://h#hunter2", "redis://***"),
        (":hunter2@h", "***"),
        ("localhost:6379", "localhost:6379"),
        ("localhost", "localhost"),
        ("10.0.0.1:6379/3", "10.0.0.1:6379/3"),
        ("hunter2", "***"),
        ("hunter2/1", "***"),
        ("h:hunter2", "***"),
        ("u:hunter2@h:6379", "***"),
        ("u:hunter2@h://x", "***"),
        ("redis://h?password=a@hunter2", "redis://***"),
        ("redis+sentinel://h1:1,[::1]:2/my-master/0", "redis+sentinel://h1:1,[::1]:2/my-master/0"),
        ("redis+sentinel://u:hunter2@h1,h2/m", "redis+sentinel://***@h1,h2/m"),
        (
            "rediss+sentinel://h/m?sentinel_username=hunter2&ssl_cert_reqs=none",
            "rediss+sentinel://h/m?***&ssl_cert_reqs=none",
        ),
        ("redis+sentinel://h/m?sentinel_password=a@hunter2", "redis+sentinel://***"),
        ("redis+sentinel://u:a@h1,u:hunter2@h2/m", "redis+sentinel://***@h2/m"),
        ("redis+sentinel://:hunter2/m", "redis+sentinel://***"),
        ("redis+sentinel://h1,:hunter2/m", "redis+sentinel://***"),
        ("redis+sentinel://h/m/hunter2", "redis+sentinel://***"),
        ("redis+cluster://u:hunter2@h1:7000,h2:7001", "redis+cluster://***@h1:7000,h2:7001"),
        ("redis+cluster://h/hunter2", "redis+cluster://***"),
        ("redis+cluster://h1,h2:hunter2", "redis+cluster://***"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert mask_url(url) == shown


@given(
    st.text(),
    st.text(),
    st.sampled_from(["redis", "rediss", "unix", "http", "redis+sentinel", "rediss+sentinel", "redis+cluster"]),
)
@example("a/b", "", "redis")
@example("a#b", "", "unix")
@example("a@", "", "redis")
@example("?@", ",h/m", "redis+sentinel")
def test_no_password_is_shown_however_it_is_written(before: str, after: str, scheme: str) -> None:
    password = f"{before}hunter2{after}"
    for url in (
        f"{scheme}://u:{password}@h/0",
        f"{scheme}://u:{password}@h1:1,h2:2/m",
        f"{scheme}://h/0?password={password}",
        f"{scheme}://h1,h2/m?sentinel_password={password}",
    ):
        assert "hunter2" not in mask_url(url)
        assert has_password(url)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("redis://u:hunter2@h", True),
        ("redis://:hunter2@h", True),
        ("redis://h?password=hunter2", True),
        ("rediss://h?ssl_p%61ssword=hunter2", True),
        ("redis+sentinel://h1,h2/m?sentinel_password=hunter2", True),
        ("rediss+cluster://u:hunter2@h1,h2", True),
        ("redis+sentinel://h1:1,h2:2/m", False),
        ("redis+cluster://user@h1:1,h2:2", False),
        ("redis://user@h:6379/0", False),
        ("rediss://[::1]:6379/0?db=1", False),
    ],
)
def test_a_password_is_found(url: str, found: bool) -> None:
    assert has_password(url) is found
