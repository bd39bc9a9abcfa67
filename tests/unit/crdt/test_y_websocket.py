"""The frames of y-websocket."""

import pytest

from crdt import y_websocket
from crdt.messages import Awareness, Message, QueryAwareness, SyncStep1, SyncStep2, Update
from tmi.domain.errors import BadFrame


@pytest.mark.parametrize(
    ("frame", "messages"),
    [
        ("00000100", [SyncStep1(b"\0")]),
        ("0001020000", [SyncStep2(b"\0\0")]),
        ("0002020000", [Update(b"\0\0")]),
        ("010100", [Awareness(b"\0")]),
        ("03", [QueryAwareness()]),
        ("0000010001010003", [SyncStep1(b"\0"), Awareness(b"\0"), QueryAwareness()]),
    ],
)
def test_a_frame_holds_one_or_several_messages(frame: str, messages: list[Message]) -> None:
    assert messages == list(y_websocket.decode(bytes.fromhex(frame)))


@pytest.mark.parametrize(
    "frame",
    ["", "00", "0003", "000301", "02006162", "6401", "04", "0000", "00000200", "0102", "0300", "0000010000"],
)
def test_what_a_client_may_not_send_is_refused(frame: str) -> None:
    with pytest.raises(BadFrame):
        y_websocket.decode(bytes.fromhex(frame))


def test_a_frame_holds_at_most_64_messages() -> None:
    assert 64 == len(y_websocket.decode(b"\x03" * 64))
    with pytest.raises(BadFrame):
        y_websocket.decode(b"\x03" * 65)


def test_bodies_are_what_the_client_decodes() -> None:
    assert [SyncStep1(b"\0")] == list(y_websocket.decode(y_websocket.sync_step1(b"\0")))
    assert [SyncStep2(b"x" * 200)] == list(y_websocket.decode(y_websocket.sync_step2(b"x" * 200)))
    assert [Update(b"\0\0")] == list(y_websocket.decode(y_websocket.update(b"\0\0")))
    assert [Awareness(b"\0")] == list(y_websocket.decode(y_websocket.awareness(b"\0")))
    assert [Awareness(b"\0")] == list(y_websocket.decode(y_websocket.KEEPALIVE))
    assert [QueryAwareness()] == list(y_websocket.decode(y_websocket.QUERY_AWARENESS))


def test_what_only_the_server_sends_is_encoded_as_the_protocol_says() -> None:
    assert "0200026e6f" == y_websocket.permission_denied("no").hex()
    assert "64ac02" == y_websocket.saved(300).hex()


@pytest.mark.parametrize("size", [1, 2, 127, 128, 129, 16382, 16383, 16384, 20_000])
def test_a_lone_update_is_found_at_a_glance_or_by_decoding(size: int) -> None:
    frame = y_websocket.update(b"u" * size)
    assert y_websocket.lone_update(frame) in (b"u" * size, None)
    assert (size < 16384) == (y_websocket.lone_update(frame) is not None)
    assert [Update(b"u" * size)] == list(y_websocket.decode(frame))


NO_LONE_UPDATES = ["0002", "000203aabb", "000201aabb", "00028001", "0002800100", "000281", "0001", ""]


@pytest.mark.parametrize("frame", NO_LONE_UPDATES)
def test_what_is_no_lone_update_is_left_to_decoding(frame: str) -> None:
    assert y_websocket.lone_update(bytes.fromhex(frame)) is None


@pytest.mark.parametrize("size", [1, 2, 127, 128, 129, 16382, 16383, 16384, 20_000])
def test_a_lone_awareness_is_found_at_a_glance_or_by_decoding(size: int) -> None:
    frame = y_websocket.awareness(b"a" * size)
    assert (b"a" * size if size < 16384 else None) == y_websocket.lone_awareness(frame)
    assert [Awareness(b"a" * size)] == list(y_websocket.decode(frame))


NO_LONE_AWARENESS = ["01", "0100", "0103aabb", "0101aabb", "018001", "01800100", "0181", "0001aa", ""]


@pytest.mark.parametrize("frame", NO_LONE_AWARENESS)
def test_what_is_no_lone_awareness_is_left_to_decoding(frame: str) -> None:
    assert y_websocket.lone_awareness(bytes.fromhex(frame)) is None
