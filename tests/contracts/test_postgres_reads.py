"""Reads on PostgreSQL: how they are found, and that a list costs what its page costs."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest

from persistence.postgres.database import PostgresDatabase
from persistence.postgres.reads import MODEL, page_statement
from persistence.postgres.threat_models import list_statement
from tests.contracts.conftest import postgres_ports
from tmi.domain.children import ChildFilter
from tmi.domain.ids import ThreatModelId, UserId
from tmi.domain.kinds import KINDS
from tmi.domain.roles import Grant, Principal, Role

MODELS, THREATS = 2_000, 10
OTHERS = 100
"""Threat models of somebody else."""
KIND_NAMES = [kind.name for kind in KINDS]

FILL = f"""
WITH next AS (UPDATE threat_model_aliases SET last = last + {MODELS} RETURNING last - {MODELS} AS before),
made AS (
    INSERT INTO threat_models (id, alias, name, threat_model_framework, is_confidential, created_by)
    SELECT gen_random_uuid(), before + n, 'Model ' || n, 'STRIDE', false, $1
    FROM next, generate_series(1, {MODELS}) AS n RETURNING id, alias
)
SELECT id FROM made ORDER BY alias
"""
GRANT = """
INSERT INTO grants (threat_model_id, position, principal_type, provider, provider_id, role)
SELECT m.id, 0, 'user', u.provider, u.provider_id, 3
FROM unnest($1::uuid[]) AS m (id), users u
WHERE u.id = CASE WHEN m.id = ANY($3::uuid[]) THEN $4::uuid ELSE $2::uuid END
"""
CHILDREN = f"""
INSERT INTO children (id, threat_model_id, kind, alias, fields)
SELECT gen_random_uuid(), m.id, 'threat', k,
       jsonb_build_object('name', 'Threat ' || k, 'threat_type', '[]'::jsonb)
FROM unnest($1::uuid[]) AS m (id), generate_series(1, {THREATS}) AS k
"""


class Filled:
    """Two users and their threat models, and a connection like those on which is read."""

    def __init__(
        self, alice: UserId, bob: UserId, models: Sequence[ThreatModelId], plans: asyncpg.Connection
    ) -> None:
        self.alice, self.bob, self.models, self._plans = alice, bob, models, plans
        self._numbers = itertools.count()

    async def plan(self, statement: str, *arguments: Any) -> str:
        """The plan that a prepared statement gets, whatever its parameters."""
        name = f"plan_{next(self._numbers)}"
        await self._plans.execute(f"PREPARE {name} AS {statement}")
        given = ", ".join(_literal(value) for value in arguments)
        rows = await self._plans.fetch(
            f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, COSTS OFF) EXECUTE {name}({given})"
        )
        return "\n".join(row[0] for row in rows)


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return "'{" + ",".join(value) + "}'"
    return str(value) if isinstance(value, int) else f"'{value}'"


@pytest.fixture
async def filled(database: PostgresDatabase, database_url: str) -> AsyncIterator[Filled]:
    ports = postgres_ports(database)
    alice, bob = await ports.user(), await ports.user("bob")
    connection = await asyncpg.connect(
        database_url, server_settings={"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"}
    )
    try:
        models = [row["id"] for row in await connection.fetch(FILL, alice.id)]
        await connection.execute(GRANT, models, alice.id, models[:OTHERS], bob.id)
        await connection.execute(CHILDREN, models)
        for table in ("threat_models", "grants", "children", "child_counters", "users"):
            await connection.execute(f"VACUUM ANALYZE {table}")
        yield Filled(alice.id, bob.id, models, connection)
    finally:
        await connection.close()


def _read(plan: str) -> int:
    """Pages that a whole statement looked at."""
    shared = next(line for line in plan.splitlines() if "Buffers: shared" in line)
    return sum(int(word.partition("=")[2]) for word in shared.split() if word.startswith(("hit=", "read=")))


async def test_pages_of_threat_models_are_found_in_an_index_alone_and_in_its_order(filled: Filled) -> None:
    statement, _ = list_statement(None)
    for offset in (0, 1800):
        plan = await filled.plan(statement, filled.alice, 20, offset)
        assert "Seq Scan" not in plan
        assert "Index Only Scan using grants_listed" in plan
        # Of threat models, the page's alone are looked at.
        (lookups,) = [
            line for line in plan.splitlines() if "using threat_models_pkey on threat_models t " in line
        ]
        assert "loops=20" in lookups
    first, last = [_read(await filled.plan(statement, filled.alice, 20, at)) for at in (0, 1800)]
    assert last < first + 40


async def test_a_short_list_costs_no_more_where_others_have_much(filled: Filled) -> None:
    statement, _ = list_statement(None)
    of_few = _read(await filled.plan(statement, filled.bob, 1, 0))
    of_many = _read(await filled.plan(statement, filled.alice, 1, 0))
    assert of_few < of_many + 10
    assert of_many < 120


async def test_a_page_of_children_and_a_threat_model_are_read_by_their_indexes(filled: Filled) -> None:
    model = filled.models[-1]
    statement, _ = page_statement(ChildFilter(descending=True))
    plan = await filled.plan(statement, filled.alice, model, "threat", 5, 3)
    assert "Index Only Scan Backward using children_living" in plan
    assert "using child_counters_pkey" in plan
    assert "Seq Scan" not in plan
    whole = await filled.plan(MODEL, filled.alice, model, 1000, KIND_NAMES)
    assert "Index Scan using children_living" in whole
    assert "Seq Scan" not in whole
    assert _read(whole) < 100


async def test_for_who_has_no_role_nothing_is_looked_at(filled: Filled) -> None:
    model = filled.models[-1]
    for statement, arguments in (
        (MODEL, (1000, KIND_NAMES)), (page_statement(ChildFilter())[0], ("threat", 5, 0)),
    ):  # fmt: skip
        plan = await filled.plan(statement, filled.bob, model, *arguments)
        of_children = [line for line in plan.splitlines() if " on children c" in line]
        assert of_children
        assert all("never executed" in line for line in of_children), plan


async def test_triggers_keep_where_grants_are_listed_whoever_writes(database: PostgresDatabase) -> None:
    ports = postgres_ports(database)
    alice = await ports.user()
    model = await ports.model(alice)

    async def kept() -> list[tuple[int, bool]]:
        rows = await database.fetch(
            "SELECT model_alias, is_living FROM grants WHERE threat_model_id = $1", model.id
        )
        return [(row["model_alias"], row["is_living"]) for row in rows]

    assert [(model.alias, True)] == await kept()
    await ports.threat_models.delete(model.id)
    assert [(model.alias, False)] == await kept()
    await database.fetch(
        """
        INSERT INTO grants
            (threat_model_id, position, principal_type, provider, provider_id, role, model_alias, is_living)
        VALUES ($1, 7, 'group', 'tmi', 'everyone', 1, 0, true)
        """,
        model.id,
    )
    assert [(model.alias, False)] * 2 == await kept()
    await database.fetch("UPDATE threat_models SET deleted_at = NULL WHERE id = $1", model.id)
    assert [(model.alias, True)] * 2 == await kept()


async def test_a_grant_that_is_written_while_its_threat_model_is_deleted_is_marked(
    database: PostgresDatabase, database_url: str
) -> None:
    ports = postgres_ports(database)
    alice = await ports.user()
    model = await ports.model(alice)
    writer, deleter = [await asyncpg.connect(database_url) for _ in range(2)]
    insert = """
        INSERT INTO grants (threat_model_id, position, principal_type, provider, provider_id, role)
        VALUES ($1, 7, 'group', 'tmi', 'everyone', 1)
    """
    delete = "UPDATE threat_models SET deleted_at = now() WHERE id = $1"
    try:
        for first, then in (((writer, insert), (deleter, delete)), ((deleter, delete), (writer, insert))):
            begun = first[0].transaction()
            await begun.start()
            await first[0].execute(first[1], model.id)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(then[0].execute(then[1], model.id))
                await asyncio.sleep(0.05)
                await begun.commit()
            marked = await database.fetch("SELECT is_living FROM grants WHERE threat_model_id = $1", model.id)
            assert [False, False] == [row["is_living"] for row in marked]
            await database.fetch("DELETE FROM grants WHERE threat_model_id = $1 AND position = 7", model.id)
            await database.fetch("UPDATE threat_models SET deleted_at = NULL WHERE id = $1", model.id)
    finally:
        await writer.close()
        await deleter.close()


async def test_the_two_views_of_whom_grants_mean_agree(database: PostgresDatabase) -> None:
    ports = postgres_ports(database)
    dave = await ports.users.sign_in("corp", "dAve", "Dave@Example.com", "Dave", email_verified=True)
    eve = await ports.users.sign_in("corp", "eve@example.com", "Eve@Example.com", "Eve", email_verified=True)
    mallory = await ports.users.sign_in("corp", "m", "dave@example.com", "M", email_verified=False)
    await ports.add_to_group("corp", "Ops", eve.id)
    ids = ["dAve", "dave", "DAVE@example.com", "dave@example.com", "EVE@example.com", "eve@example.com"]
    ids += ["Ops", "ops", "m", "everyone", "Everyone"]
    grants = [
        Grant(Principal(type_, provider, id_), Role.READER)
        for type_ in ("user", "group")
        for provider in ("corp", "tmi", "*")
        for id_ in ids
    ]
    for grant in grants:
        await ports.model(dave if grant.principal.provider_id == "m" else mallory, grant)
    listed, granted = [
        await database.fetch(statement)
        for statement in (
            """
            SELECT DISTINCT n.user_id, g.threat_model_id FROM user_names n JOIN grants g
                ON g.provider = n.provider AND lower(g.provider_id COLLATE "C") = n.name
               AND g.principal_type = n.principal_type AND (n.exactly IS NULL OR g.provider_id = n.exactly)
            """,
            "SELECT DISTINCT user_id, threat_model_id FROM user_grants",
        )
    ]
    assert {tuple(row) for row in granted} == {tuple(row) for row in listed}
    assert len(granted) > len(grants)
