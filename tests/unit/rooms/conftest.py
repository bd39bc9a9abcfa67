"""A room service over the in-memory adapters, with peers that follow the sync protocol."""

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from typing import Any
from uuid import uuid4

import pytest
from pycrdt import Doc, Map

from crdt import y_websocket
from crdt.messages import SyncStep1, SyncStep2, Update
from persistence.memory.access import MemoryAccessControl
from persistence.memory.diagrams import MemoryDiagrams
from persistence.memory.store import MemoryStore
from persistence.memory.threat_models import MemoryThreatModels
from persistence.memory.update_log import MemoryUpdateLog
from persistence.memory.users import MemoryUsers
from rooms.coordination.local import LocalCoordinator
from rooms.handing_over import HandoverLimits
from rooms.hosting import Runner
from rooms.journal import JournalLimits
from rooms.limits import RoomsLimits
from rooms.peer import Member
from rooms.service import Rooms
from rooms.session import Session
from rooms.snapshots import SnapshotLimits
from tmi.domain.ids import DiagramId, SignInId, ThreatModelId
from tmi.domain.model import NewThreatModel, User
from tmi.domain.ports import ThreatModelChange
from tmi.domain.roles import Grant, Principal, Role

LIMITS = RoomsLimits(
    journal=JournalLimits(max_bytes=2_000_000, retry_min_s=0.005, retry_max_s=0.01),
    snapshots=SnapshotLimits(min_weight=5_000),
    idle_s=0.05,
    sweep_s=0.01,
    rights_retry_s=0.01,
    handover=HandoverLimits(commit_s=0.2, claim_s=0.5),
)


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is true, at most five seconds."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


def runner_of(session: Session | None) -> Runner[Any]:
    """Who hosts a session that is in a room, or in a replica."""
    assert session is not None
    assert isinstance(session.runner, Runner)
    return session.runner


class Editor:
    """A peer with a Yjs document of its own, on a wire without framing."""

    def __init__(self, world: "World", user: User, role: Role) -> None:
        self.world = world
        self.member = Member(user.id, SignInId(uuid4()), role)
        self.doc: Doc[Any] = Doc()
        self.cells = self.doc.get("cells", type=Map)
        self.session: Session | None = None
        self.acknowledged = 0
        self.wires: list[bytes] = []
        self.refused = 0
        self.roles: list[Role] = []
        self.charged: list[int] = []
        self.closed: tuple[int, str] | None = None

    wants_acknowledgements = True

    @property
    def framing(self) -> Hashable:
        return "bare"

    def frame(self, body: bytes) -> bytes:
        return body

    def write_state(self, *wires: bytes) -> None:
        for wire in wires:
            self.write(wire)

    def write(self, wire: bytes) -> None:
        self.wires.append(wire)
        for message in y_websocket.decode(wire):
            if isinstance(message, SyncStep1) and self.session is not None:
                self.session.receive(SyncStep2(self.doc.get_update(message.state_vector)))
            elif isinstance(message, SyncStep2 | Update):
                self.doc.apply_update(message.update)

    def acknowledge(self, syncs: int, updates: int) -> None:
        self.acknowledged += syncs + updates

    def refuse(self, reason: str) -> None:
        self.refused += 1

    def role_changed(self, role: Role) -> None:
        self.roles.append(role)

    def answered(self, size: int) -> None:
        self.charged.append(size)

    def hold_back(self) -> None: ...

    def go_on(self) -> None: ...

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    async def join(self) -> "Editor":
        self.closed = None
        self.session = await self.world.rooms.join(self.world.diagram, self.member, self)
        self.session.receive(SyncStep1(self.doc.get_state()))
        return self

    def edit(self, key: str, value: Any = 1) -> None:
        before = self.doc.get_state()
        self.cells[key] = value
        assert self.session is not None
        self.session.receive(Update(self.doc.get_update(before)))


class World:
    """Everything a room service needs, in memory."""

    store: MemoryStore
    log: MemoryUpdateLog
    rooms: Rooms
    models: MemoryThreatModels
    diagrams: MemoryDiagrams
    model: ThreatModelId
    diagram: DiagramId
    unopened: DiagramId
    owner: User
    other: User

    async def prepare(self) -> None:
        self.store = MemoryStore()
        self.log = MemoryUpdateLog(self.store)
        self.models = MemoryThreatModels(self.store)
        self.diagrams = MemoryDiagrams(self.store)
        users = MemoryUsers(self.store)
        self.owner = await users.sign_in("tmi", "alice@tmi.local", "alice@tmi.local", "alice")
        self.other = await users.sign_in("tmi", "bob@tmi.local", "bob@tmi.local", "bob")
        self.model = (await self.models.create(self.owner, new_model())).id
        await self.grant(Role.WRITER)
        self.diagram = (await self.diagrams.create(self.model, "d", "DFD-1.0.0", None)).id
        self.unopened = (await self.diagrams.create(self.model, "e", "DFD-1.0.0", None)).id
        self.rooms = self.service()

    def service(self) -> Rooms:
        """Another service on the same log, as after a restart or on a second node."""
        return Rooms(self.log, LocalCoordinator(self.log, "node"), MemoryAccessControl(self.store), LIMITS)

    async def grant(self, role: Role | None) -> None:
        """Give `other` a role, or none."""
        model = await self.models.get(self.model)
        owners = tuple(grant for grant in model.grants if grant.role is Role.OWNER)
        bob = Principal("user", "tmi", self.other.provider_id)
        grants = owners if role is None else (*owners, Grant(bob, role))
        await self.models.update(self.model, model.version, ThreatModelChange(grants=grants))

    def editor(self, user: User | None = None, role: Role = Role.WRITER) -> Editor:
        return Editor(self, user or self.owner, role)

    @property
    def stored(self) -> int:
        """How many updates the log holds."""
        return len(self.store.logs[self.diagram].rows)


def new_model() -> NewThreatModel:
    return NewThreatModel("m", None, "STRIDE", None, False, ())


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A world whose room service runs."""
    made = World()
    await made.prepare()
    async with made.rooms.running():
        yield made
