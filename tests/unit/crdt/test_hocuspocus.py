"""The frames of Hocuspocus."""

import pytest

from crdt import hocuspocus
from crdt.hocuspocus import (
    Auth,
    BroadcastStateless,
    CloseDocument,
    Envelope,
    Payload,
    Ping,
    Pong,
    Stateless,
)
from crdt.messages import Awareness, QueryAwareness, SyncStep1, SyncStep2, Update
from tmi.domain.errors import BadFrame


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ("0164020003746f6b05342e382e30", Auth("tok", "4.8.0")),
        ("0164020003746f6b", Auth("tok", None)),
        ("016400000100", SyncStep1(b"\0")),
        ("01640001020000", SyncStep2(b"\0\0")),
        ("01640002020000", Update(b"\0\0")),
        ("01640106010100027b7d", Awareness(bytes.fromhex("010100027b7d"))),
        ("016403", QueryAwareness()),
        ("016405026869", Stateless("hi")),
        ("016406026869", BroadcastStateless("hi")),
        ("016407", CloseDocument("")),
        ("016407026869", CloseDocument("hi")),
    ],
)
def test_a_frame_names_its_document(frame: str, message: Payload) -> None:
    assert Envelope("d", "d", message) == hocuspocus.decode(bytes.fromhex(frame))


def test_the_key_may_carry_a_session_behind_a_nul() -> None:
    envelope = hocuspocus.decode(hocuspocus.prefix("doc\0s1") + b"\x03")
    assert ("doc\0s1", "doc") == (envelope.key, envelope.document)


def test_ping_and_pong_are_bare_bytes() -> None:
    assert Ping() == hocuspocus.decode(hocuspocus.PING).message
    assert Pong() == hocuspocus.decode(hocuspocus.PONG).message


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "01",
        "0164",
        "016408",
        "01640801",
        "016409",
        "01640201026e6f",
        "0164000001",
        "01640000010000",
        "01ff03",
    ],
)
def test_what_a_client_may_not_send_is_refused(frame: str) -> None:
    with pytest.raises(BadFrame):
        hocuspocus.decode(bytes.fromhex(frame))


def test_a_key_is_bounded() -> None:
    with pytest.raises(BadFrame):
        hocuspocus.decode(hocuspocus.prefix("x" * hocuspocus.MAX_KEY_BYTES) + b"\x03")


@pytest.mark.parametrize(
    ("body", "encoded"),
    [
        (hocuspocus.auth_request(), "0200"),
        (hocuspocus.auth_denied("no"), "0201026e6f"),
        (hocuspocus.authenticated(readonly=True), "020208" + b"readonly".hex()),
        (hocuspocus.authenticated(readonly=False), "02020a" + b"read-write".hex()),
        (hocuspocus.sync_status(accepted=True), "0801"),
        (hocuspocus.sync_status(accepted=False), "0800"),
        (hocuspocus.stateless("hi"), "05026869"),
        (hocuspocus.close_document("hi"), "07026869"),
    ],
)
def test_bodies_are_what_the_provider_decodes(body: bytes, encoded: str) -> None:
    assert encoded == body.hex()
