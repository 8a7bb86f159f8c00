"""Frames are held to two parsers that share no code with ours nor with each other: websockets', websocket-client's."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websocket._abnf import frame_buffer
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side

from wsd.protocol.frames import PING, text_frame

# RFC 6455, section 5.2: where the length takes 1, 3 and 9 bytes.
BOUNDARIES = [(0, 2), (1, 2), (125, 2), (126, 4), (127, 4), (65535, 4), (65536, 10), (1_000_000, 10)]


def by_websockets(stream: bytes) -> list[tuple[int, bool, bytes]]:
    """Parse a stream as the library's client does: opcode, FIN and payload of each frame."""
    client = Protocol(Side.CLIENT, state=OPEN, max_size=None)
    client.receive_data(stream)
    assert client.parser_exc is None
    frames = [event for event in client.events_received() if isinstance(event, Frame)]
    assert not any(frame.rsv1 or frame.rsv2 or frame.rsv3 for frame in frames)
    return [(frame.opcode, frame.fin, bytes(frame.data)) for frame in frames]


def by_websocket_client(stream: bytes) -> list[tuple[int, bool, bytes]]:
    """Parse a stream as websocket-client does."""
    position = 0

    def receive(size: int) -> bytes:
        nonlocal position
        position += size
        return stream[position - size : position]

    parser = frame_buffer(receive, skip_utf8_validation=False)
    frames = []
    while position < len(stream):
        frame = parser.recv_frame()
        assert not (frame.rsv1 or frame.rsv2 or frame.rsv3 or frame.mask_value)
        assert isinstance(frame.data, bytes)
        frames.append((frame.opcode, bool(frame.fin), frame.data))
    return frames


@pytest.mark.parametrize(("length", "header"), BOUNDARIES)
def test_the_header_is_as_short_as_it_may_be(length: int, header: int) -> None:
    frame = text_frame(b"x" * length)
    assert len(frame) == header + length
    assert by_websockets(frame) == by_websocket_client(frame) == [(Opcode.TEXT, True, b"x" * length)]


sizes = st.sampled_from([length for length, _ in BOUNDARIES]) | st.integers(0, 300) | st.integers(65500, 65600)


@settings(deadline=None)
@given(st.lists(sizes, max_size=5))
@example([length for length, _ in BOUNDARIES])
def test_a_joined_stream_falls_apart_into_the_same_messages(lengths: list[int]) -> None:
    payloads = [bytes([97 + place]) * length for place, length in enumerate(lengths)]
    stream = PING.join(map(text_frame, payloads))
    expected = [(Opcode.TEXT, True, payload) for payload in payloads]
    for place in reversed(range(1, len(payloads))):
        expected.insert(place, (Opcode.PING, True, b""))
    assert by_websockets(stream) == by_websocket_client(stream) == expected


@settings(deadline=None)
@given(st.text())
def test_any_text_comes_out_as_it_went_in(text: str) -> None:
    ((opcode, _, payload),) = by_websocket_client(text_frame(text.encode()))
    assert (opcode, payload.decode()) == (Opcode.TEXT, text)


def test_the_ping_is_empty_and_answered_by_the_library() -> None:
    client = Protocol(Side.CLIENT, state=OPEN)
    client.receive_data(PING)
    (pong,) = client.data_to_send()
    assert pong[:2] == bytes([0x80 | Opcode.PONG, 0x80])
