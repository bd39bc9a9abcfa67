"""Role x frame: what each role may send into a room, and what of each protocol a room never sees; and who has
no role, or none any more, whose frames come to nothing.

All tables are compared with the program: a message type without a row fails, and so does a frame that a
decoder takes though no table knows it, whatever its numbers.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import product
from typing import Any, get_args
from uuid import UUID

import pytest
from pycrdt import Doc, Map

from api.live.options import LiveOptions
from crdt import awareness, hocuspocus, y_websocket
from crdt.awareness import Entry
from crdt.document import Document
from crdt.lib0 import var_string
from crdt.messages import Awareness, Message, QueryAwareness, SyncStep1, SyncStep2, Update
from rooms import closing
from rooms.edits import RoomLimits
from rooms.effects import Acknowledge, Broadcast, Close, Refuse, Send
from rooms.peer import Member
from rooms.room import Room
from tests.harness.live_service import LiveService, an_update, live_service
from tests.harness.raw_websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    RawWebSocket,
    connected,
    frame,
    upgrade_head,
    upgraded,
)
from tmi.domain.errors import BadFrame
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


ANSWERED, ACKNOWLEDGED_LATER, ACKNOWLEDGED, REFUSED, SHOWN, UNHEARD = (
    "answered",
    "later",
    "acknowledged",
    "refused",
    "shown",
    "unheard",
)

NOBODY = None
"""Who has no role; in a room, who has lost the last one."""

MATRIX: dict[tuple[type[Message], str], dict[Role | None, str]] = {
    (SyncStep1, "the state is sent"): {
        NOBODY: UNHEARD,
        Role.READER: ANSWERED,
        Role.WRITER: ANSWERED,
        Role.OWNER: ANSWERED,
    },
    (SyncStep2, "an edit"): {
        NOBODY: UNHEARD,
        Role.READER: REFUSED,
        Role.WRITER: ACKNOWLEDGED_LATER,
        Role.OWNER: ACKNOWLEDGED_LATER,
    },
    (SyncStep2, "a deletion"): {
        NOBODY: UNHEARD,
        Role.READER: REFUSED,
        Role.WRITER: ACKNOWLEDGED_LATER,
        Role.OWNER: ACKNOWLEDGED_LATER,
    },
    (SyncStep2, "nothing new"): {
        NOBODY: UNHEARD,
        Role.READER: ACKNOWLEDGED,
        Role.WRITER: ACKNOWLEDGED,
        Role.OWNER: ACKNOWLEDGED,
    },
    (Update, "an edit"): {
        NOBODY: UNHEARD,
        Role.READER: REFUSED,
        Role.WRITER: ACKNOWLEDGED_LATER,
        Role.OWNER: ACKNOWLEDGED_LATER,
    },
    (Update, "a deletion"): {
        NOBODY: UNHEARD,
        Role.READER: REFUSED,
        Role.WRITER: ACKNOWLEDGED_LATER,
        Role.OWNER: ACKNOWLEDGED_LATER,
    },
    (Awareness, "its own"): {
        NOBODY: UNHEARD,
        Role.READER: SHOWN,
        Role.WRITER: SHOWN,
        Role.OWNER: SHOWN,
    },
    (QueryAwareness, "everybody"): {
        NOBODY: UNHEARD,
        Role.READER: ANSWERED,
        Role.WRITER: ANSWERED,
        Role.OWNER: ANSWERED,
    },
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
    assert all({NOBODY, *Role} == set(row) for row in MATRIX.values())


@pytest.mark.parametrize(
    ("kind", "what", "role", "expected"),
    [(kind, what, role, row[role]) for (kind, what), row in MATRIX.items() for role in (NOBODY, *Role)],
)
def test_a_role_may_send_what_the_matrix_says(
    kind: type[Message], what: str, role: Role | None, expected: str
) -> None:
    document = Document.load(None, [edit(7)])
    room = Room(DiagramId(UUID(int=1)), Fence(1), document, Seq(1), RoomLimits())
    other = room.join(Member(UserId(UUID(int=2)), SignInId(UUID(int=2)), Role.OWNER))
    room.receive(other, SyncStep1(b"\x00"), 0.0)
    room.receive(other, Awareness(awareness.encode([Entry(9, 1, b"{}")])), 0.0)
    room.flush(0.0)
    number = room.join(Member(UserId(UUID(int=1)), SignInId(UUID(int=1)), role or Role.WRITER))
    before = document.encode()
    if role is NOBODY:
        ends = room.change_role(number, NOBODY, 0.5)
        assert [closing.NO_LONGER_ALLOWED] == [effect.code for effect in ends if isinstance(effect, Close)]
        assert not room.hold(number, edit(8))

    effects = [*room.receive(number, message(kind, what, document), 1.0), *room.flush(1.0)]

    assert (expected == UNHEARD) == (effects == [])
    assert (expected == ACKNOWLEDGED_LATER) == (document.encode() != before)
    assert (expected == ACKNOWLEDGED_LATER) == (room.take_batch() is not None)
    assert (expected == REFUSED) == any(isinstance(effect, Refuse) for effect in effects)
    assert (expected == ACKNOWLEDGED) == any(isinstance(effect, Acknowledge) for effect in effects)
    assert (expected == ANSWERED) == any(
        isinstance(effect, Send) and effect.session == number for effect in effects
    )
    assert (expected in (SHOWN, ACKNOWLEDGED_LATER)) == any(isinstance(e, Broadcast) for e in effects)


# --- frames of each protocol --------------------------------------------------------------------

SYNC: dict[tuple[int, ...], type[Any]] = {
    (0, 0): SyncStep1,
    (0, 1): SyncStep2,
    (0, 2): Update,
    (1,): Awareness,
    (3,): QueryAwareness,
}
"""What y-protocols numbers."""

PROTOCOLS: dict[str, dict[tuple[int, ...], type[Any]]] = {
    "y-websocket": SYNC,
    "hocuspocus": {
        **SYNC,
        (2, 0): hocuspocus.Auth,
        (5,): hocuspocus.Stateless,
        (6,): hocuspocus.BroadcastStateless,
        (7,): hocuspocus.CloseDocument,
    },
}
WITHOUT_KEY = {b"\x09": hocuspocus.Ping, b"\x0a": hocuspocus.Pong}
"""Frames of Hocuspocus that are of no document."""

PAYLOADS = (b"", b"\x00", b"\x01\x00", b"\x01x", b"\x00\x00", b"\x01x\x01x")
STEPS = range(16)


def taken_by_y_websocket(body: bytes) -> list[Any]:
    return list(y_websocket.decode(body))


def taken_by_hocuspocus(body: bytes) -> list[Any]:
    return [hocuspocus.decode(hocuspocus.prefix("d") + body).message]


DECODERS: dict[str, Callable[[bytes], list[Any]]] = {
    "y-websocket": taken_by_y_websocket,
    "hocuspocus": taken_by_hocuspocus,
}


def numbered(kind: type[Any], body: bytes) -> tuple[int, ...]:
    """The numbers of a frame that hold its type: two for the kinds that have steps."""
    return (body[0], body[1]) if kind in (SyncStep1, SyncStep2, Update, hocuspocus.Auth) else (body[0],)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_matrix_has_a_row_for_every_frame_of_each_protocol(protocol: str) -> None:
    found: dict[tuple[int, ...], type[Any]] = {}
    steps = [b"", *(bytes([step]) for step in STEPS)]
    for kind, step, payload in product(range(128), steps, PAYLOADS):
        body = bytes([kind]) + step + payload
        try:
            first, *rest = DECODERS[protocol](body)
        except BadFrame:
            continue
        if not rest:
            found[numbered(type(first), body)] = type(first)
    assert PROTOCOLS[protocol] == found


def test_every_frame_of_hocuspocus_is_a_message_of_rooms_or_has_an_outcome_here() -> None:
    others = set(get_args(hocuspocus.Payload)) - set(get_args(Message))
    assert others == {kind for kind, _ in OUTCOMES}
    assert others <= {*PROTOCOLS["hocuspocus"].values(), *WITHOUT_KEY.values()}
    frames = filter(_is_taken, map(bytes, product(range(256))))
    assert WITHOUT_KEY == {frame: type(hocuspocus.decode(frame).message) for frame in frames}


def _is_taken(frame: bytes) -> bool:
    try:
        hocuspocus.decode(frame)
    except BadFrame:
        return False
    return True


PONG, IGNORED, REFUSED_4400, DETACHED, AUTHENTICATED = "pong", "ignored", "4400", "detached", "authenticated"

OUTCOMES: dict[tuple[type[Any], bytes], str] = {
    (hocuspocus.Ping, b"\x09"): PONG,
    (hocuspocus.Pong, b"\x0a"): IGNORED,
    (hocuspocus.Stateless, b"\x05" + var_string("x")): IGNORED,
    (hocuspocus.BroadcastStateless, b"\x06" + var_string("x")): REFUSED_4400,
    (hocuspocus.CloseDocument, b"\x07" + var_string("x")): DETACHED,
    (hocuspocus.Auth, b"\x02\x00"): AUTHENTICATED,
}
"""What becomes of a frame that is no message of rooms: the same for every role, and never a change."""


async def answers(raw: RawWebSocket, name: str) -> list[bytes]:
    """What comes before the answer to a Ping, without keys; a Close as its code."""
    raw.send_binary(hocuspocus.PING)
    found: list[bytes] = []
    while True:
        received = await raw.receive()
        if received.opcode == CLOSE:
            return [*found, str(received.close_code).encode()]
        if received.payload == hocuspocus.PONG:
            return found
        found.append(received.payload.removeprefix(hocuspocus.prefix(name)))


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(("kind", "body"), OUTCOMES, ids=lambda value: getattr(value, "__name__", ""))
async def test_what_is_no_message_of_rooms_changes_nothing_whatever_the_role(
    kind: type[Any], body: bytes, role: Role
) -> None:
    async with live_service() as service:
        diagram = await service.diagram(bob=role)
        name, token = str(diagram), await service.token("bob")
        async with upgraded(service.port, "/collab") as raw:
            auth = b"\x02\x00" + var_string(token) + var_string("4")
            raw.send_binary(hocuspocus.prefix(name) + auth)
            await opened(service, diagram)
            await answers(raw, name)
            before = document_of(service, diagram).encode()

            whole = auth if kind is hocuspocus.Auth else body
            raw.send_binary(whole if body in WITHOUT_KEY else hocuspocus.prefix(name) + whole)
            told = await answers(raw, name)

            outcome = OUTCOMES[kind, body]
            scope = hocuspocus.authenticated(readonly=role is Role.READER)
            pong = [] if outcome != PONG else [hocuspocus.PONG]
            assert (outcome == REFUSED_4400) == (told[-1:] == [b"4400"])
            assert (outcome == AUTHENTICATED) == (scope in told)
            assert outcome not in (IGNORED, PONG) or told == []
            assert pong == [] or (await raw.receive()).payload == hocuspocus.PONG
            assert before == document_of(service, diagram).encode()
            left = outcome in (DETACHED, REFUSED_4400)
            assert left == (len(await service.rooms.members(diagram)) == 0)


async def opened(service: LiveService, diagram: DiagramId) -> None:
    for _ in range(200):
        if service.rooms.owned(diagram) is not None and await service.rooms.members(diagram):
            return
        await asyncio.sleep(0.01)
    raise TimeoutError("nobody came in")


def document_of(service: LiveService, diagram: DiagramId) -> Document:
    runner = service.rooms.owned(diagram)
    assert runner is not None
    return runner.room.document


async def test_a_writer_who_is_demoted_in_the_middle_of_a_frame_changes_nothing_by_it() -> None:
    async with live_service() as service:
        diagram = await service.diagram(bob=Role.WRITER)
        async with upgraded(service.port, f"/collab/{diagram}?token={await service.token('bob')}") as raw:
            edit_of_bob = y_websocket.update(an_update("b"))
            raw.send(frame(BINARY, edit_of_bob[:5], fin=False))
            await opened(service, diagram)
            before = document_of(service, diagram).encode()
            await service.set_roles(diagram, bob=Role.READER)
            raw.send(frame(CONTINUATION, edit_of_bob[5:]))
            raw.send_binary(y_websocket.sync_step1(b"\x00"))
            while (await raw.receive_binary())[:2] != b"\x00\x01":
                pass
            assert before == document_of(service, diagram).encode()
            assert [] == service.store.logs[diagram].rows


async def test_a_role_taken_and_given_while_edits_stream_in_never_lets_a_readers_edit_through() -> None:
    async with live_service() as service:
        diagram = await service.diagram(bob=Role.WRITER)
        async with upgraded(service.port, f"/collab/{diagram}?token={await service.token('bob')}") as raw:
            await opened(service, diagram)
            for turn in range(10):
                await service.set_roles(diagram, bob=Role.READER)
                before = document_of(service, diagram).encode()
                for n in range(20):
                    raw.send_binary(y_websocket.update(an_update(f"{turn}-{n}")))
                await asyncio.sleep(0.01)
                assert before == document_of(service, diagram).encode()
                await service.set_roles(diagram, bob=Role.WRITER)


# --- who has no role ----------------------------------------------------------------------------

DENIED, KEPT_OUT, SENT_AWAY = "denied", "403", "4403"

WITHOUT_A_ROLE: dict[str, dict[tuple[int, ...], str]] = {
    "y-websocket": {
        (0, 0): KEPT_OUT,
        (0, 1): KEPT_OUT,
        (0, 2): KEPT_OUT,
        (1,): KEPT_OUT,
        (3,): KEPT_OUT,
    },
    "hocuspocus": {
        (0, 0): DENIED,
        (0, 1): DENIED,
        (0, 2): DENIED,
        (1,): DENIED,
        (2, 0): DENIED,
        (3,): DENIED,
        (5,): DENIED,
        (6,): REFUSED_4400,
        (7,): DENIED,
        (9,): PONG,
        (10,): DENIED,
    },
}
"""What becomes of a frame by its numbers. The socket of y-websocket is refused, or closed 4403 with the role.
That of Hocuspocus is of nobody yet: there all that is told is the denial of the document at the next Auth.
"""

MARK = "of-nobody"


def frames_of_nobody(protocol: str, token: str) -> dict[tuple[int, ...], bytes]:
    """One of each type, which would change something or be shown if it came from a writer."""
    mark = an_update(MARK)
    bodies = [
        y_websocket.sync_step1(b"\x00"),
        y_websocket.sync_step2(mark),
        y_websocket.update(mark),
        y_websocket.awareness(awareness.encode([Entry(8, 1, f'{{"user":"{MARK}"}}'.encode())])),
        y_websocket.QUERY_AWARENESS,
    ]
    if protocol == "hocuspocus":
        bodies += [auth(token), *(body for kind, body in OUTCOMES if kind is not hocuspocus.Auth)]
    return {numbers_of(protocol, body): body for body in bodies}


def numbers_of(protocol: str, body: bytes) -> tuple[int, ...]:
    if protocol == "hocuspocus" and body in WITHOUT_KEY:
        return tuple(body)
    (taken,) = DECODERS[protocol](body)
    return numbered(type(taken), body)


def auth(token: str) -> bytes:
    return b"\x02\x00" + var_string(token) + var_string("4")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_row_of_nobody_names_every_frame_of_each_protocol(protocol: str) -> None:
    others = {tuple(frame) for frame in WITHOUT_KEY} if protocol == "hocuspocus" else set()
    assert set(PROTOCOLS[protocol]) | others == set(WITHOUT_A_ROLE[protocol])
    assert set(frames_of_nobody(protocol, "token")) == set(WITHOUT_A_ROLE[protocol])


@asynccontextmanager
async def watched(service: LiveService, diagram: DiagramId) -> AsyncIterator[None]:
    """Alice is in the room meanwhile, and neither is anything changed nor does she see anything of it."""
    async with upgraded(service.port, f"/collab/{diagram}?token={await service.token('alice')}") as raw:
        raw.send_binary(y_websocket.update(an_update("a")))
        await opened(service, diagram)
        await until_answered(raw)
        before = document_of(service, diagram).encode()
        yield
        assert before == document_of(service, diagram).encode()
        assert 1 == len(service.store.logs[diagram].rows)
        assert not [told for told in await until_answered(raw) if MARK.encode() in told]


async def until_answered(raw: RawWebSocket) -> list[bytes]:
    """What has come before the answer to a SyncStep1, and that."""
    raw.send_binary(y_websocket.sync_step1(b"\x00"))
    told = [await raw.receive_binary()]
    while told[-1][:2] != b"\x00\x01":
        told.append(await raw.receive_binary())
    return told


@pytest.mark.parametrize("way", ["token", "ticket", "role lost meanwhile"])
async def test_no_frame_of_y_websocket_is_heard_from_who_has_no_role(way: str) -> None:
    row = WITHOUT_A_ROLE["y-websocket"]
    async with live_service(LiveOptions(sweep_s=3600)) as service:
        diagram = await service.diagram()
        frames = frames_of_nobody("y-websocket", "")
        async with watched(service, diagram):
            found = {}
            for numbers, body in frames.items():
                if way == "role lost meanwhile":
                    found[numbers] = await in_the_middle(service, diagram, frame(BINARY, body))
                    continue
                path = f"/collab/{diagram}?token={await service.token('bob')}"
                path = await service.ticket("bob", diagram) if way == "ticket" else path
                async with connected(service.port) as raw:
                    raw.send(upgrade_head(path) + frame(BINARY, body))
                    found[numbers] = str((await raw.answer()).status)
                    await raw.receive_end()
            expected = dict.fromkeys(row, SENT_AWAY) if way == "role lost meanwhile" else row
            assert expected == found


async def in_the_middle(service: LiveService, diagram: DiagramId, sent: bytes) -> str:
    """The code with which bob is closed, who loses his role before the last byte of a frame."""
    await service.set_roles(diagram, bob=Role.WRITER)
    async with upgraded(service.port, f"/collab/{diagram}?token={await service.token('bob')}") as raw:
        await until_answered(raw)
        raw.send(sent[:-1])
        await service.set_roles(diagram)
        raw.send(sent[-1:])
        return str((await raw.receive_close_only()).close_code)


@pytest.mark.parametrize("way", ["before Auth", "after a denial", "role lost meanwhile"])
async def test_no_frame_of_hocuspocus_is_heard_from_who_has_no_role(way: str) -> None:
    async with live_service(LiveOptions(sweep_s=3600)) as service:
        diagram = await service.diagram()
        token = await service.token("bob")
        async with watched(service, diagram):
            found = {}
            for numbers, body in frames_of_nobody("hocuspocus", token).items():
                async with upgraded(service.port, "/collab") as raw:
                    whole = frame(BINARY, body if body in WITHOUT_KEY else of(diagram, body))
                    if way == "role lost meanwhile":
                        await service.set_roles(diagram, bob=Role.WRITER)
                        raw.send_binary(of(diagram, auth(token)))
                        told = await raw.receive_binary()
                        assert of(diagram, hocuspocus.authenticated(readonly=False)) == told
                        raw.send(whole[:-1])
                        await service.set_roles(diagram)
                        assert DENIED == await told_until_denied(raw, diagram)
                        raw.send(whole[-1:])
                    elif way == "after a denial":
                        raw.send_binary(of(diagram, auth(token)))
                        assert DENIED == await told_until_denied(raw, diagram)
                        raw.send(whole)
                    else:
                        raw.send(whole)
                    raw.send_binary(of(diagram, auth(token)))
                    found[numbers] = await told_until_denied(raw, diagram)
            assert WITHOUT_A_ROLE["hocuspocus"] == found


def of(diagram: DiagramId, body: bytes) -> bytes:
    return hocuspocus.prefix(str(diagram)) + body


async def told_until_denied(raw: RawWebSocket, diagram: DiagramId) -> str:
    """What is told besides the denial of a document, or instead of it."""
    told: list[str] = []
    while (received := await raw.receive()).opcode != CLOSE:
        if received.payload.startswith(of(diagram, b"\x02\x01")):
            return " ".join(told) or DENIED
        told.append(PONG if received.payload == hocuspocus.PONG else received.payload.hex())
    return " ".join([*told, str(received.close_code)])
