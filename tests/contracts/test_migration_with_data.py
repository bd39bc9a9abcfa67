"""A database of the first schema (migrations 0001 to 0003) becomes one of today, with all that is in it."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from pycrdt import Doc, Map

from crdt.document import Document
from crdt.reading import read_cells
from persistence.postgres.database import PostgresDatabase
from persistence.postgres.migrate import CREATE_TABLE, shipped
from persistence.secrets import digest
from tests.contracts.conftest import Ports, postgres_ports
from tests.contracts.test_children import CREATED, RESTORED, draft
from tmi.domain.events import ObjectType
from tmi.domain.ids import DiagramId, Seq, SignInId, ThreatModelId, UserId
from tmi.domain.kinds import NOTE
from tmi.domain.model import NewThreatModel
from tmi.domain.ports import LoggedUpdate, Origin, Page, RoomBatch
from tmi.domain.quotas import Usage
from tmi.domain.roles import Role

FIRST = 3
MODELS = 3
DIAGRAMS = 2
"""Of each threat model."""
REFRESH_TOKEN = "r" * 43


class Old:
    """What a service of the first schema left."""

    def __init__(self) -> None:
        self.alice, self.bob, self.sign_in = uuid4(), uuid4(), uuid4()
        self.models = [uuid4() for _ in range(MODELS)]
        self.diagrams = [[uuid4() for _ in range(DIAGRAMS)] for _ in self.models]
        self.contents: dict[UUID, list[dict[str, Any]]] = {}

    async def write(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        """Apply the first migrations as a program of then did, and fill the tables."""
        await connection.execute(CREATE_TABLE)
        for migration in shipped()[:FIRST]:
            await connection.execute(migration.sql)
            add = "INSERT INTO schema_migrations (name, checksum) VALUES ($1, $2)"
            await connection.execute(add, migration.name, migration.checksum)
        for key, name in ((self.alice, "alice"), (self.bob, "bob")):
            email = f"{name}@tmi.local"
            add = "INSERT INTO users (id, provider, provider_id, email, name) VALUES ($1, 'tmi', $2, $2, $3)"
            await connection.execute(add, key, email, name.title())
        ops = uuid4()
        await connection.execute("INSERT INTO groups VALUES ($1, 'tmi', 'ops', 'Ops')", ops)
        await connection.execute("INSERT INTO group_members VALUES ($1, $2)", ops, self.bob)
        add = "INSERT INTO sign_ins (id, user_id, expires_at) VALUES ($1, $2, now() + interval '1 hour')"
        await connection.execute(add, self.sign_in, self.alice)
        add = "INSERT INTO refresh_tokens VALUES ($1, $2, now() + interval '1 day', NULL)"
        await connection.execute(add, digest(REFRESH_TOKEN), self.sign_in)
        for place, model in enumerate(self.models, 1):
            await self._write_model(connection, place, model)
        await connection.execute("UPDATE threat_model_aliases SET last = $1", MODELS)

    async def _write_model(
        self, connection: "asyncpg.Connection[asyncpg.Record]", place: int, model: UUID
    ) -> None:
        await connection.execute(
            """
            INSERT INTO threat_models (id, alias, name, description, threat_model_framework, issue_uri,
                is_confidential, created_by, version, last_diagram_alias)
            VALUES ($1, $2, $3, 'old', 'STRIDE', NULL, false, $4, 4, $5)
            """,
            model, place, f"Shop {place}", self.alice, DIAGRAMS,
        )  # fmt: skip
        grants = [("user", "alice@tmi.local", 3), ("group", "ops", 2)]
        for position, (kind, name, role) in enumerate(grants):
            add = "INSERT INTO grants VALUES ($1, $2, $3, 'tmi', $4, NULL, NULL, $5)"
            await connection.execute(add, model, position, kind, name, role)
        for alias, diagram in enumerate(self.diagrams[place - 1], 1):
            add = "INSERT INTO diagrams (id, threat_model_id, alias, name, type) VALUES ($1, $2, $3, $4, $5)"
            await connection.execute(add, diagram, model, alias, f"Flow {alias}", "DFD-1.0.0")
            add = "INSERT INTO diagram_fences (diagram_id, fence, owner) VALUES ($1, 7, 'old node')"
            await connection.execute(add, diagram)
            await self._write_log(connection, diagram)

    async def _write_log(self, connection: "asyncpg.Connection[asyncpg.Record]", diagram: UUID) -> None:
        """Six updates, with a snapshot of the first four."""
        doc: Doc[Any] = Doc()
        cells = doc.get("cells", type=Map)
        for seq in range(1, 7):
            before = doc.get_state()
            with doc.transaction():
                cell = {"id": f"c{seq}", "shape": "process", "x": float(seq), "y": 0.0}
                cells[f"c{seq}"] = Map(cell)
            add = "INSERT INTO diagram_updates VALUES ($1, $2, 7, $3, 1, now(), $4)"
            await connection.execute(add, diagram, seq, self.alice, doc.get_update(before))
            if seq == 4:
                add = "INSERT INTO diagram_snapshots VALUES ($1, 4, 7, now(), $2)"
                await connection.execute(add, diagram, doc.get_update())
        self.contents[diagram] = read_cells(Document.load(doc.get_update(), ()))
        assert 6 == len(self.contents[diagram])


@pytest.fixture
async def old(empty_database_url: str) -> Old:
    made = Old()
    connection = await asyncpg.connect(empty_database_url)
    try:
        await made.write(connection)
    finally:
        await connection.close()
    return made


@pytest.fixture
async def ports(old: Old, empty_database_url: str) -> Any:
    """Of the migrated database."""
    database = await PostgresDatabase.connect(empty_database_url)
    try:
        assert [m.name for m in shipped()[FIRST:]] == list(await database.migrate())
        yield postgres_ports(database)
    finally:
        await database.close()


async def test_people_and_their_rights_are_there(old: Old, ports: Ports) -> None:
    alice, bob = [await ports.users.get(UserId(key)) for key in (old.alice, old.bob)]
    assert ("alice@tmi.local", True) == (alice.email, alice.email_verified)
    for model in map(ThreatModelId, old.models):
        roles = [await ports.access.to_threat_model(user.id, model) for user in (alice, bob)]
        assert [Role.OWNER, Role.WRITER] == roles
    found, total = await ports.threat_models.visible_to(bob.id, Page(10, 0))
    assert (old.models, MODELS) == (sorted_by_alias(found), total)
    shown = await ports.threat_models.get(ThreatModelId(old.models[0]))
    assert ("Shop 1", "old", 4, alice.id) == (
        shown.name, shown.description, shown.version, shown.owner and shown.owner.id,
    )  # fmt: skip
    sign_in = await ports.sign_ins.get(SignInId(old.sign_in))
    assert sign_in is not None
    assert alice.id == sign_in.user.id
    rotated = await ports.refresh_tokens.find(REFRESH_TOKEN)
    assert rotated is not None
    assert not rotated.is_used


def sorted_by_alias(found: Any) -> list[UUID]:
    return [summary.model.id for summary in sorted(found, key=lambda one: one.model.alias)]


async def test_every_document_is_what_it_was_and_goes_on(old: Old, ports: Ports) -> None:
    for diagram in [DiagramId(key) for of_model in old.diagrams for key in of_model]:
        stored = await ports.log.load(diagram)
        document = Document.load(stored.snapshot, stored.tail, is_whole=stored.is_whole)
        assert (6, old.contents[diagram]) == (stored.seq, read_cells(document))
        fence = await ports.log.claim(diagram, "new")
        assert fence > 7
        more = document.transact(lambda doc: doc.get("cells", type=Map).__setitem__("c7", Map({"id": "c7"})))
        assert more is not None
        update = LoggedUpdate(Seq(7), UserId(old.bob), Origin.UPDATE, more)
        await ports.log.append([RoomBatch(diagram, fence, (update,))])
        assert 7 == (await ports.log.load(diagram)).seq


async def test_counts_aliases_and_usage_go_on_from_what_is_there(old: Old, ports: Ports) -> None:
    alice, model = await ports.users.get(UserId(old.alice)), ThreatModelId(old.models[0])
    usage = await ports.storage.usage(alice.id)
    assert (MODELS, MODELS * DIAGRAMS) == (usage.threat_models, usage.diagrams)
    found, _ = await ports.threat_models.visible_to(alice.id, Page(10, 0))
    assert {DIAGRAMS} == {summary.counts.get("diagram") for summary in found}

    new = await ports.threat_models.create(alice, NewThreatModel("New", None, "STRIDE", None, False, ()))
    drawn = await ports.diagrams.create(model, "Flow", "DFD-1.0.0", None)
    assert (MODELS + 1, DIAGRAMS + 1) == (new.alias, drawn.alias)
    (note,) = await ports.children.create(model, NOTE, [draft(NOTE)], CREATED)
    assert 1 == note.alias
    events, _ = await ports.trail.of_object(model, ObjectType.NOTE, note.id, Page(10, 0))
    assert ["created"] == [recorded.event.change.value for recorded in events]
    after = await ports.storage.usage(alice.id)
    assert Usage(MODELS + 1, MODELS * DIAGRAMS + 1) == Usage(after.threat_models, after.diagrams)


async def test_what_is_old_can_be_deleted_restored_and_purged(old: Old, ports: Ports) -> None:
    model, diagram = ThreatModelId(old.models[0]), DiagramId(old.diagrams[0][0])
    await ports.diagrams.delete(model, diagram)
    await ports.bin.restore_diagram(model, diagram, RESTORED)
    stored = await ports.log.load(diagram)
    document = Document.load(stored.snapshot, stored.tail, is_whole=stored.is_whole)
    assert old.contents[diagram] == read_cells(document)
    await ports.threat_models.delete(model)
    deleted = (await ports.bin.restore_model(model, RESTORED)).modified_at
    await ports.threat_models.delete(model)
    assert 1 == await ports.bin.purge(deleted + timedelta(days=1), 100)
    usage = await ports.storage.usage(UserId(old.alice))
    assert (MODELS - 1, (MODELS - 1) * DIAGRAMS) == (usage.threat_models, usage.diagrams)
