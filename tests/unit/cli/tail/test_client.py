"""What ``wsd tail`` prints of a message."""

from __future__ import annotations

import base64
import json

from hypothesis import given
from hypothesis import strategies as st

from wsd.cli.tail import client as tail
from wsd.protocol.messages import message_head
from wsd.protocol.payload import embed


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.one_of(
        st.binary(),
        st.text().map(lambda text: json.dumps(text).encode()),
        st.sampled_from(
            [b'"\\ud800"', b"1e999", b'{"encoding":"base64"}', b'{"snapshot":1}', b"[" * 2000 + b"]" * 2000]
        ),
    ),
)
def test_what_is_cut_out_is_what_was_published(topic: str, payload: bytes) -> None:
    found = tail.cut(embed(message_head(topic), payload))
    assert found is not None
    assert found[0] == topic
    try:
        json.loads(payload.decode(), parse_constant=int)  # NaN is no JSON
    except UnicodeDecodeError:
        assert base64.b64decode(json.loads(found[1])) == payload
    except RecursionError:
        assert found[1] == payload
    except ValueError:
        assert json.loads(found[1]).encode() == payload
    else:
        assert found[1] == payload
