"""What two nodes say to each other, as bytes."""

from uuid import UUID

import pytest

from rooms.nodes.messages import (
    Acknowledged,
    Bring,
    Census,
    Counted,
    Ended,
    Enter,
    Follow,
    Hear,
    Leave,
    Lost,
    Message,
    Question,
    Refused,
    Reply,
    RoleChanged,
    Say,
    Tell,
    Unfollow,
    decode,
    encode,
)
from rooms.peer import Member
from tmi.domain.errors import BadFrame
from tmi.domain.ids import DiagramId, NodeId, Seq, SignInId, UserId
from tmi.domain.model import Node
from tmi.domain.ports import Origin
from tmi.domain.roles import Role

EVERY_KIND: list[Message] = [
    Follow(DiagramId(UUID(int=9)), b"\x01\x02"),
    Unfollow(),
    Enter(5, Member(UserId(UUID(int=1)), SignInId(UUID(int=2)), Role.WRITER)),
    Leave(300),
    Census(),
    Counted((Member(UserId(UUID(int=1)), SignInId(UUID(int=2)), Role.WRITER),) * 3),
    Say(1, b"\x00\x02\x02\x00\x00"),
    Hear(b"\x00\x02\x02\x00\x00", 7, Seq(2**40)),
    Tell(0, b"", Seq(3)),
    Acknowledged(4, 1000),
    Refused(4, "your role is reader, \u00fcber"),
    RoleChanged(4, Role.READER),
    Ended(4, 4403, "gone"),
    Lost(is_disowned=True),
    Lost(False, Node(NodeId(UUID(int=6)), "n\u00f6de", "ws://10.0.0.5:7946")),
    Bring(UserId(UUID(int=1)), Origin.SYNC, b"\x00\x00"),
    Bring(None, Origin.REST, b"\x00\x00"),
    Question(7, 2000, b'{"do":"status"}'),
    Reply(2**40, False, b"{}"),
]


def test_each_kind_comes_out_as_it_went_in_many_in_a_frame() -> None:
    frame = b"".join(encode(channel, message) for channel, message in enumerate(EVERY_KIND))
    assert list(enumerate(EVERY_KIND)) == list(decode(frame))


@pytest.mark.parametrize("message", EVERY_KIND, ids=lambda message: type(message).__name__)
def test_a_message_that_ends_too_early_is_refused(message: Message) -> None:
    whole = encode(3, message)
    for length in range(1, len(whole)):
        with pytest.raises(BadFrame):
            list(decode(whole[:length]))


@pytest.mark.parametrize(
    "frame",
    [
        b"\x01\x11",
        b"\x01\x0c\x04\x00\x00",
        b"\x01\x0c\x00\x01\x07\x00",
        b"\x01\x00\x0f" + bytes(15) + b"\x00",
        b"\x01\x09\x04\x00",
        b"\x01\x09\x04\x09",
        b"\x01\x08\x01\x02\xff\xff",
    ],
)
def test_what_no_node_sends_is_refused(frame: bytes) -> None:
    with pytest.raises(BadFrame):
        list(decode(frame))
