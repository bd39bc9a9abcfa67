"""What PostgreSQL tells by itself, with the commit of a change that open sockets have to follow."""

import asyncio
from uuid import UUID, uuid4

import pytest

from persistence.postgres.database import PostgresDatabase
from persistence.postgres.signals import PostgresSignals
from tests.contracts.conftest import postgres_ports
from tmi.domain.ports import Happened, Signal

ACCESS, DELETED, PEOPLE = Happened.ACCESS_CHANGED, Happened.DELETED, Happened.PEOPLE_CHANGED
SIGN_IN, SESSION = Happened.SIGN_IN_ENDED, Happened.COLLABORATION_ENDED
MARK = Happened.SETTINGS_CHANGED
"""What the test publishes after a change: what the change told has come before it."""

Ids = dict[str, UUID]
OPS = "(SELECT id FROM groups WHERE provider_id = 'ops')"

SIGN_INS = """
INSERT INTO sign_ins (id, user_id, expires_at)
SELECT key, $1, now() + lasts FROM unnest($2::uuid[], $3::text[]::interval[]) AS s (key, lasts)
"""
GRANT = """
INSERT INTO grants (threat_model_id, position, principal_type, provider, provider_id, role)
VALUES ('{model}', 5, 'user', 'tmi', 'dora', 1)
"""

BOTH = {(ACCESS, "first"), (ACCESS, "second")}
BOB, CAROL = (PEOPLE, "bob"), (PEOPLE, "carol")

TELLS: dict[str, tuple[str, set[tuple[Happened, str]]]] = {
    "the end of a sign-in": (
        "UPDATE sign_ins SET ended_at = now() WHERE id = '{sign_in}'",
        {(SIGN_IN, "sign_in")},
    ),
    "a sign-in that is gone": ("DELETE FROM sign_ins WHERE id = '{sign_in}'", {(SIGN_IN, "sign_in")}),
    "a new grant": (GRANT, BOTH),
    "a demotion": ("UPDATE grants SET role = 1 WHERE threat_model_id = '{model}'", BOTH),
    "a grant taken away": ("DELETE FROM grants WHERE threat_model_id = '{model}'", BOTH),
    "a new member": (
        f"INSERT INTO group_members (group_id, user_id) VALUES ({OPS}, '{{alice}}')",
        {(PEOPLE, "alice")},
    ),
    "a member who is taken out": ("DELETE FROM group_members WHERE user_id = '{bob}'", {BOB}),
    "a group that is gone": (f"DELETE FROM groups WHERE id = {OPS}", {BOB, CAROL}),
    "another address": ("UPDATE users SET email = 'x@tmi.local' WHERE id = '{carol}'", {CAROL}),
    "an address in doubt": ("UPDATE users SET email_verified = false WHERE id = '{carol}'", {CAROL}),
    "an account that is gone": ("DELETE FROM users WHERE id = '{bob}'", {BOB}),
    "a deleted diagram": (
        "UPDATE diagrams SET deleted_at = now() WHERE id = '{first}'",
        {(DELETED, "first")},
    ),
    "a diagram that is gone": (
        "DELETE FROM diagram_fences WHERE diagram_id = '{first}'; DELETE FROM diagrams WHERE id = '{first}'",
        {(DELETED, "first")},
    ),
    "the end of a session": ("DELETE FROM collaborations WHERE id = '{session}'", {(SESSION, "session")}),
}
SILENT = {
    "a renewed sign-in": (
        "UPDATE sign_ins SET refreshed_at = now(), expires_at = now() + interval '2 hours' "
        "WHERE id = '{sign_in}'"
    ),
    "a sign-in that had ended": "DELETE FROM sign_ins WHERE id = '{old}'",
    "a sign-in of the same person": "UPDATE users SET last_login = now(), email = email",
    "another name of a diagram": "UPDATE diagrams SET name = 'Other', version = version + 1",
    "a member who is there": (
        f"INSERT INTO group_members (group_id, user_id) VALUES ({OPS}, '{{bob}}') ON CONFLICT DO NOTHING"
    ),
}


@pytest.fixture
async def ids(database: PostgresDatabase) -> Ids:
    """Bob and Carol are in the group `ops`; Alice has two diagrams, one of them with a session."""
    ports = postgres_ports(database)
    people = {name: (await ports.user(name)).id for name in ("alice", "bob", "carol")}
    for name in ("bob", "carol"):
        await ports.add_to_group("tmi", "ops", people[name])
    model = await ports.model(await ports.user("alice"))
    first, second = [await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None) for _ in range(2)]
    made = {"sign_in": uuid4(), "old": uuid4(), "session": uuid4()}
    sign_ins = [made["sign_in"], made["old"]]
    await database.fetch(SIGN_INS, people["bob"], sign_ins, ["1 hour", "-1 hour"])
    await database.fetch(
        "INSERT INTO collaborations (id, diagram_id) VALUES ($1, $2)", made["session"], first.id
    )
    return {**people, **made, "model": model.id, "first": first.id, "second": second.id}


async def told(
    database: PostgresDatabase, statement: str, *, commit: bool = True
) -> set[tuple[Happened, UUID]]:
    """What is heard of a statement that is made by hand."""
    signals, heard = PostgresSignals(database), list[Signal | None]()
    async with signals.hearing(heard.append):
        connection = await database.connect_aside()
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(statement)
        await (transaction.commit() if commit else transaction.rollback())
        await connection.close()
        await signals.publish(Signal(MARK, (uuid4(),)))
        async with asyncio.timeout(5):
            while not (heard and heard[-1] is not None and heard[-1].happened is MARK):
                await asyncio.sleep(0.005)
    assert None not in heard
    return {(one.happened, key) for one in heard[:-1] if one is not None for key in one.ids}


@pytest.mark.parametrize("what", TELLS)
async def test_a_change_is_told_with_its_commit(database: PostgresDatabase, ids: Ids, what: str) -> None:
    statement, expected = TELLS[what]

    assert {(happened, ids[name]) for happened, name in expected} == await told(
        database, statement.format(**ids)
    )


async def test_what_is_rolled_back_is_not_told(database: PostgresDatabase, ids: Ids) -> None:
    for statement, _ in TELLS.values():
        assert set() == await told(database, statement.format(**ids), commit=False)


async def test_what_changes_nobodys_rights_is_not_told(database: PostgresDatabase, ids: Ids) -> None:
    for what, statement in SILENT.items():
        assert set() == await told(database, statement.format(**ids)), what


async def test_more_is_told_than_a_payload_holds(database: PostgresDatabase, ids: Ids) -> None:
    ports = postgres_ports(database)
    for _ in range(248):
        await ports.diagrams.create(ids["model"], "Flow", "DFD-1.0.0", None)  # type: ignore[arg-type]

    assert 250 == len(await told(database, GRANT.format(**ids)))


async def test_whatever_the_store_tells_is_tried_here() -> None:
    tried = {happened for _, expected in TELLS.values() for happened, _ in expected}

    assert PostgresSignals.told_at_commit == tried
