"""REST and open rooms: cells beside their number, roles and deletions that reach those who are connected."""

import asyncio
from collections.abc import AsyncIterator, Hashable
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from pycrdt import Doc, Map

from crdt.messages import Update
from rooms.closing import DIAGRAM_DELETED, NO_LONGER_ALLOWED
from rooms.peer import Member
from rooms.session import Session
from tests.rest import RestClient, over_memory, user_grant
from tmi.domain.ids import DiagramId
from tmi.domain.roles import Role


@dataclass
class Listener:
    """A peer that notes what it is told."""

    framing: Hashable = "test"
    wants_acknowledgements = True
    roles: list[Role] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)
    acknowledged: int = 0

    def frame(self, body: bytes) -> bytes:
        return body

    def write_state(self, *wires: bytes) -> None:
        for wire in wires:
            self.write(wire)

    def write(self, wire: bytes) -> None:
        pass

    def acknowledge(self, syncs: int, updates: int) -> None:
        self.acknowledged += syncs + updates

    def refuse(self, reason: str) -> None:
        pass

    def role_changed(self, role: Role) -> None:
        self.roles.append(role)

    def answered(self, size: int) -> None: ...

    def hold_back(self) -> None: ...

    def go_on(self) -> None: ...

    def close(self, code: int, reason: str) -> None:
        self.closed.append(code)


@pytest.fixture
async def rest() -> AsyncIterator[RestClient]:
    async with over_memory() as client:
        yield client


async def joined(rest: RestClient, name: str, diagram: str, role: Role) -> tuple[Listener, Session]:
    """Somebody who watches a diagram."""
    claims = rest.services.tokens.verify_access(await rest.sign_in(name))
    peer = Listener()
    member = Member(claims.user, claims.sign_in, role)
    return peer, await rest.services.rooms.join(DiagramId(UUID(diagram)), member, peer)


def parse(diagram: str) -> DiagramId:
    from uuid import UUID

    return DiagramId(UUID(diagram))


async def test_a_change_of_roles_reaches_open_rooms_before_the_answer(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    model = (await rest.create_model(alice, user_grant("bob", "writer"), user_grant("carol", "reader")))["id"]
    diagram = (await rest.create_diagram(alice, model))["id"]
    bob, _ = await joined(rest, "bob", diagram, Role.WRITER)
    carol, _ = await joined(rest, "carol", diagram, Role.READER)
    grants = [user_grant("alice", "owner"), user_grant("bob", "reader")]
    answer = await rest.patch(alice, model, {"op": "replace", "path": "/authorization", "value": grants})
    assert answer.status == 200
    assert ([Role.READER], []) == (bob.roles, bob.closed)
    assert carol.closed == [NO_LONGER_ALLOWED]


@pytest.mark.parametrize("whole_model", [True, False])
async def test_a_deletion_closes_open_rooms(rest: RestClient, whole_model: bool) -> None:
    alice = await rest.sign_in("alice")
    model = (await rest.create_model(alice))["id"]
    diagram = (await rest.create_diagram(alice, model))["id"]
    peer, _ = await joined(rest, "alice", diagram, Role.OWNER)
    path = f"/threat_models/{model}" + ("" if whole_model else f"/diagrams/{diagram}")
    assert (await rest.call("DELETE", path, alice)).status == 204
    assert peer.closed == [DIAGRAM_DELETED]


async def test_a_get_shows_the_cells_of_the_open_room_and_their_number(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    model = (await rest.create_model(alice))["id"]
    diagram = (await rest.create_diagram(alice, model))["id"]
    peer, session = await joined(rest, "alice", diagram, Role.OWNER)
    doc: Doc[Map[object]] = Doc()
    cell = "7b3e1f6c-1111-4a5b-9c0d-2e2e2e2e2e2e"
    doc.get("cells", type=Map)[cell] = Map(
        {"shape": "process", "position": {"x": 10, "y": 20}, "size": {"width": 80, "height": 40}}
    )
    session.receive(Update(doc.get_update()))
    shown = (await rest.call("GET", f"/threat_models/{model}/diagrams/{diagram}", alice)).json
    assert shown["update_vector"] == 1
    assert [(cell, "process")] == [(c["id"], c["shape"]) for c in shown["cells"]]
    async with asyncio.timeout(5):
        while not peer.acknowledged:
            await asyncio.sleep(0.01)


async def test_a_get_never_fails_on_what_a_client_wrote_into_a_cell(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    model = (await rest.create_model(alice))["id"]
    diagram = (await rest.create_diagram(alice, model))["id"]
    _, session = await joined(rest, "alice", diagram, Role.OWNER)
    doc: Doc[Map[object]] = Doc()
    cells = doc.get("cells", type=Map)
    odd: list[object] = [
        b"\x00\xff",
        float("nan"),
        float("inf"),
        2**62,
        -(2**53),
        None,
        "\u0000",
        {"a": [b"x"]},
    ]
    for number, value in enumerate(odd):
        cells[f"odd {number}"] = Map({"shape": "process", "data": value, "x": value, "value": value})
        cells[f"plain {number}"] = value
    session.receive(Update(doc.get_update()))
    answer = await rest.call("GET", f"/threat_models/{model}/diagrams/{diagram}", alice)
    assert answer.status == 200
    assert answer.json["update_vector"] == 1
