"""Role x frame: what each role may send into a room. A new message type without a row fails here."""

from typing import Any, get_args
from uuid import UUID

import pytest
from pycrdt import Doc, Map

from crdt import awareness
from crdt.awareness import Entry
from crdt.document import Document
from crdt.messages import Awareness, Message, QueryAwareness, SyncStep1, SyncStep2, Update
from rooms.effects import Acknowledge, Broadcast, Refuse, Send
from rooms.peer import Member
from rooms.room import Room, RoomLimits
from tmi.domain.ids import DiagramId, Fence, Seq, SignInId, UserId
from tmi.domain.roles import Role


def edit(client: int) -> bytes:
    doc: Doc[Any] = Doc(client_id=client)
    doc.get("cells", type=Map)["a"] = 1
    return doc.get_update()


def delete(document: Document) -> bytes:
    doc: Doc[Any] = Doc()
    doc.apply_update(document.encode())
    before = doc.get_state()
    del doc.get("cells", type=Map)["a"]
    return doc.get_update(before)


ANSWERED, ACKNOWLEDGED_LATER, ACKNOWLEDGED, REFUSED, SHOWN = (
    "answered",
    "later",
    "acknowledged",
    "refused",
    "shown",
)

MATRIX: dict[tuple[type[Message], str], dict[Role, str]] = {
    (SyncStep1, "the state is sent"): {Role.READER: ANSWERED, Role.WRITER: ANSWERED, Role.OWNER: ANSWERED},
    (SyncStep2, "an edit"): {
        Role.READER: REFUSED,
        Role.WRITER: ACKNOWLEDGED_LATER,
        Role.OWNER: ACKNOWLEDGED_LATER,
    },
    (SyncStep2, "a deletion"): {
        Role.READER: REFUSED,
        Role.WRITER: ACKNOWLEDGED_LATER,
        Role.OWNER: ACKNOWLEDGED_LATER,
    },
    (SyncStep2, "nothing new"): {
        Role.READER: ACKNOWLEDGED,
        Role.WRITER: ACKNOWLEDGED,
        Role.OWNER: ACKNOWLEDGED,
    },
    (Update, "an edit"): {
        Role.READER: REFUSED,
        Role.WRITER: ACKNOWLEDGED_LATER,
        Role.OWNER: ACKNOWLEDGED_LATER,
    },
    (Update, "a deletion"): {
        Role.READER: REFUSED,
        Role.WRITER: ACKNOWLEDGED_LATER,
        Role.OWNER: ACKNOWLEDGED_LATER,
    },
    (Awareness, "its own"): {Role.READER: SHOWN, Role.WRITER: SHOWN, Role.OWNER: SHOWN},
    (QueryAwareness, "everybody"): {Role.READER: ANSWERED, Role.WRITER: ANSWERED, Role.OWNER: ANSWERED},
}


def message(kind: type[Message], what: str, document: Document) -> Message:
    if kind in (SyncStep2, Update):
        update = {"an edit": edit(8), "a deletion": delete(document), "nothing new": b"\x00\x00"}[what]
        return SyncStep2(update) if kind is SyncStep2 else Update(update)
    if kind is Awareness:
        return Awareness(awareness.encode([Entry(8, 1, b'{"user":"x"}')]))
    return SyncStep1(b"\x00") if kind is SyncStep1 else QueryAwareness()


def test_the_matrix_has_a_row_for_every_message() -> None:
    assert set(get_args(Message)) == {kind for kind, _ in MATRIX}
    assert all(set(Role) == set(row) for row in MATRIX.values())


@pytest.mark.parametrize(
    ("kind", "what", "role", "expected"),
    [(kind, what, role, row[role]) for (kind, what), row in MATRIX.items() for role in Role],
)
def test_a_role_may_send_what_the_matrix_says(
    kind: type[Message], what: str, role: Role, expected: str
) -> None:
    document = Document.load(None, [edit(7)])
    room = Room(DiagramId(UUID(int=1)), Fence(1), document, Seq(1), RoomLimits())
    other = room.join(Member(UserId(UUID(int=2)), SignInId(UUID(int=2)), Role.OWNER))
    room.receive(other, SyncStep1(b"\x00"), 0.0)
    room.receive(other, Awareness(awareness.encode([Entry(9, 1, b"{}")])), 0.0)
    room.flush(0.0)
    number = room.join(Member(UserId(UUID(int=1)), SignInId(UUID(int=1)), role))
    before = document.encode()

    effects = [*room.receive(number, message(kind, what, document), 1.0), *room.flush(1.0)]

    assert (expected == ACKNOWLEDGED_LATER) == (document.encode() != before)
    assert (expected == ACKNOWLEDGED_LATER) == (room.take_batch() is not None)
    assert (expected == REFUSED) == any(isinstance(effect, Refuse) for effect in effects)
    assert (expected == ACKNOWLEDGED) == any(isinstance(effect, Acknowledge) for effect in effects)
    assert (expected == ANSWERED) == any(
        isinstance(effect, Send) and effect.session == number for effect in effects
    )
    assert (expected in (SHOWN, ACKNOWLEDGED_LATER)) == any(isinstance(e, Broadcast) for e in effects)
