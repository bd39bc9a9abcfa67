"""Who writes, purges, hands over and leaves at once waits for nobody in a circle, and is charged right."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from persistence.postgres.database import PostgresDatabase
from tests.contracts.conftest import Ports, postgres_ports
from tests.contracts.test_accounts import entry
from tests.contracts.test_children import CREATED, DELETED, UPDATED, draft, to
from tmi.domain.children import ChildChange
from tmi.domain.errors import BadInput, Conflict, NotFound
from tmi.domain.ids import ChildId, DiagramId, GroupId, ThreatModelId, UserId
from tmi.domain.kinds import ASSET, NOTE, THREAT, Kind
from tmi.domain.model import User
from tmi.domain.roles import Grant, Principal, Role

NAMES = ("alice", "bob", "carol")
WRITERS = 9
DEEDS = 90
"""Of each of them."""
ROUNDS = 20

DEADLOCKS = """
SELECT pg_stat_force_next_flush(), deadlocks FROM pg_stat_database WHERE datname = current_database()
"""
WRONG = """
SELECT * FROM (
    SELECT u.user_id, u.threat_models, u.diagrams, u.stored_bytes,
           (SELECT count(*) FROM threat_models t WHERE t.charged_to = u.user_id) AS models_there,
           (SELECT count(*) FROM diagrams d JOIN threat_models t ON t.id = d.threat_model_id
            WHERE t.charged_to = u.user_id) AS diagrams_there,
           (SELECT coalesce(sum(child_weight(c.content, c.metadata)), 0)
            FROM children c JOIN threat_models t ON t.id = c.threat_model_id
            WHERE t.charged_to = u.user_id) AS bytes_there
    FROM user_usage u) s
WHERE (threat_models, diagrams, stored_bytes) <> (models_there, diagrams_there, bytes_there)
"""
GROUPS = """
INSERT INTO groups (id, provider, provider_id, name)
SELECT gen_random_uuid(), 'tmi', $1::text || '-' || n, 'A group' FROM generate_series(1, $2::int) AS s (n)
"""
EACH_ADDED_THE_NEXT = """
WITH added AS (
    INSERT INTO group_members (group_id, user_id, added_by)
    SELECT g.id, ($1::uuid[])[n], ($1::uuid[])[n % 3 + 1] FROM groups g, generate_series(1, 3) AS s (n)
    WHERE g.provider_id LIKE $2::text || '-%'
    RETURNING group_id)
SELECT DISTINCT a.group_id AS id FROM added a
"""


class House:
    """Three people who own everything together, and what they do."""

    def __init__(self, ports: Ports, seed: int) -> None:
        self._ports = ports
        self._random = random.Random(seed)
        self._models: list[ThreatModelId] = []
        self._diagrams: list[tuple[ThreatModelId, DiagramId]] = []
        self._children: list[tuple[ThreatModelId, Kind, ChildId]] = []
        self._deeds: list[Callable[[], Awaitable[object]]] = [
            *[self.create] * 6, *[self.change] * 8, *[self.name_another] * 6, *[self.remove] * 5,
            *[self.draw] * 4, *[self.erase] * 3, self.purge, self.purge, self.purge,
            *[self.leave, self.hand_over, self.delete_model] * 2,
        ]  # fmt: skip
        self.done: set[str] = set()

    async def begin(self) -> None:
        for _ in range(3):
            await self.new_model()

    async def live(self) -> None:
        for _ in range(DEEDS):
            deed = self._random.choice(self._deeds)
            with suppress(NotFound, Conflict, BadInput, IndexError):
                await deed()
                self.done.add(deed.__name__)

    async def someone(self) -> User:
        return await self._ports.user(self._random.choice(NAMES))

    async def new_model(self) -> None:
        owners = [
            Grant(Principal("user", "tmi", f"{name}@tmi.local"), Role.OWNER)
            for name in self._random.sample(NAMES, 2)
        ]
        model = await self._ports.model(await self.someone(), *owners)
        self._models.append(model.id)
        for kind in (ASSET, THREAT):
            for child in await self._ports.children.create(model.id, kind, [draft(kind)], CREATED):
                self._children.append((model.id, kind, child.id))

    async def create(self) -> None:
        model, kind = self._random.choice(self._models[-4:]), self._random.choice([NOTE, THREAT, ASSET])
        for child in await self._ports.children.create(model, kind, [draft(kind), draft(kind)], CREATED):
            self._children.append((model, kind, child.id))

    async def change(self) -> None:
        """Content and metadata, which weigh, of several at once."""
        model, kind, _ = self._random.choice(self._children[-40:])
        some = [key for of, what, key in self._children if (of, what) == (model, kind)]
        size = self._random.randrange(500)
        wanted = draft(kind, {"key": "x" * (size % 200)}, **({"content": "x" * size} if kind is NOTE else {}))
        changes = [ChildChange(key, to(wanted)) for key in self._random.sample(some, min(len(some), 4))]
        await self._ports.children.change(model, kind, changes, UPDATED)

    async def name_another(self) -> None:
        """A threat that names a diagram and an asset, and weighs more than before."""
        # Most of what was made is gone soon: the newest of a threat model that has all three.
        newest = {(of, kind): key for of, kind, key in self._children}
        model, diagram = self._random.choice(
            [
                (of, key)
                for of, key in self._diagrams[-20:]
                if of in self._models[-4:] and (of, ASSET) in newest and (of, THREAT) in newest
            ]
        )
        asset, threat = newest[model, ASSET], newest[model, THREAT]
        metadata = {"key": "x" * self._random.randrange(200)}
        wanted = draft(THREAT, metadata, diagram_id=str(diagram), asset_id=str(asset))
        await self._ports.children.change(model, THREAT, [ChildChange(threat, to(wanted))], UPDATED)

    async def remove(self) -> None:
        model, kind, child = self._random.choice(self._children[-40:])
        await self._ports.children.mark(model, kind, [child], DELETED, deleted=True)

    async def draw(self) -> None:
        model = self._random.choice(self._models[-4:])
        drawn = await self._ports.diagrams.create(model, "Flow", "DFD-1.0.0", None)
        self._diagrams.append((model, drawn.id))

    async def erase(self) -> None:
        await self._ports.diagrams.delete(*self._random.choice(self._diagrams[-8:]))

    async def purge(self) -> None:
        await self._ports.bin.purge(datetime.now(UTC) + timedelta(days=1), 50)

    async def leave(self) -> None:
        await self._ports.accounts.delete((await self.someone()).id, entry())
        await self.new_model()

    async def hand_over(self) -> None:
        source, target = [await self._ports.user(name) for name in self._random.sample(NAMES, 2)]
        await self._ports.accounts.transfer(source.id, target.id, entry(), with_charge=True)

    async def delete_model(self) -> None:
        await self._ports.threat_models.delete(self._random.choice(self._models[-4:]))
        await self.new_model()


async def test_nobody_waits_in_a_circle_and_everybody_is_charged_for_what_is_there(database_url: str) -> None:
    database = await PostgresDatabase.connect(database_url, max_connections=WRITERS + 1)
    try:
        house = House(postgres_ports(database), seed=7)
        await house.begin()
        await asyncio.gather(*(house.live() for _ in range(WRITERS)))

        ((_, deadlocks),) = await database.fetch(DEADLOCKS)
        assert 0 == deadlocks
        assert [] == [dict(row) for row in await database.fetch(WRONG)]
        assert {deed.__name__ for deed in house._deeds} == house.done
    finally:
        await database.close()


async def test_people_who_added_each_other_to_groups_leave_at_once_with_the_groups(database_url: str) -> None:
    """An account takes the memberships of its user, and its user's name from those of others."""
    database = await PostgresDatabase.connect(database_url, max_connections=WRITERS + 1)
    ports = postgres_ports(database)
    try:
        for turn in range(ROUNDS):
            people = [(await ports.user(f"{name}{turn}")).id for name in NAMES]
            await database.fetch(GROUPS, f"g{turn}", 100)
            added = await database.fetch(EACH_ADDED_THE_NEXT, people, f"g{turn}")
            groups = [GroupId(row["id"]) for row in added]
            shown = [Grant(Principal("group", "tmi", f"g{turn}-{n}"), Role.READER) for n in range(1, 4)]
            await ports.model(await ports.user(f"dave{turn}"), *shown)

            await asyncio.gather(
                *(ports.accounts.delete(user, entry()) for user in people),
                *(ports.groups.delete(group, entry()) for group in groups[:3]),
                *(_join(ports, group, people[turn % 3], people[turn % 2]) for group in groups[2:5]),
            )

        ((_, deadlocks),) = await database.fetch(DEADLOCKS)
        assert 0 == deadlocks
        assert [] == await database.fetch("SELECT FROM group_members")
    finally:
        await database.close()


async def _join(ports: Ports, group: GroupId, member: UserId, by: UserId) -> None:
    with suppress(Conflict, NotFound):
        await ports.memberships.remove(group, member, entry())
        await ports.memberships.add(group, member, by, None, entry())
