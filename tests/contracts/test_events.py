"""The ports `Trail` and `Feed`, and what the repositories write into the trail."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from persistence.postgres import events
from persistence.postgres.database import PostgresDatabase
from persistence.postgres.events import PostgresFeed
from persistence.postgres.migrate import migrate, shipped
from tests.contracts.conftest import Ports, postgres_ports
from tests.contracts.test_access_control import grant
from tests.contracts.test_accounts import entry
from tests.rest import over_postgres
from tmi.domain.children import ChildChange, Draft
from tmi.domain.errors import Conflict, NotFound
from tmi.domain.events import (
    CHANGES_MAX_BYTES,
    SYSTEM,
    Actor,
    ChangeType,
    Deed,
    Difference,
    Event,
    ObjectType,
    Recorded,
)
from tmi.domain.ids import EventId, ThreatModelId
from tmi.domain.kinds import BY_NAME
from tmi.domain.model import ThreatModel, User
from tmi.domain.ports import EventFilter, Page, ThreatModelChange
from tmi.domain.roles import Role

PAGE = Page(50, 0)
NOW = datetime.now(UTC)


def patched(user: User) -> Deed:
    return Deed(Actor.of(user), ChangeType.PATCHED)


async def rename(ports: Ports, model: ThreatModel, user: User, name: str) -> ThreatModel:
    change = ThreatModelChange(name=name)
    return await ports.threat_models.update(model.id, model.version, change, None, patched(user))


async def trail_of(ports: Ports, model: ThreatModelId) -> list[Recorded]:
    """All events of a threat model, newest first."""
    return list((await ports.trail.page(EventFilter(model), 100, None, newer=False)).events)


def told(found: list[Recorded]) -> list[tuple[str, str]]:
    return [(r.event.object_type.value, r.event.change.value) for r in found]


async def test_each_write_leaves_its_event_with_actor_version_and_state(ports: Ports) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")
    model = await ports.model(alice)
    await rename(ports, model, bob, "Renamed")
    diagram = await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None, Actor.of(bob))
    await ports.diagrams.delete(model.id, diagram.id, Actor.of(alice))
    await ports.threat_models.delete(model.id, Actor.of(bob))

    found = await trail_of(ports, model.id)
    assert [
        ("threat_model", "deleted"),
        ("diagram", "deleted"),
        ("diagram", "created"),
        ("threat_model", "patched"),
        ("threat_model", "created"),
    ] == told(found)
    assert [bob.id, alice.id, bob.id, bob.id, alice.id] == [r.event.actor.user for r in found]
    assert [3, 2, 1, 2, 1] == [r.event.version for r in found]
    assert "name" == found[3].event.summary
    assert sorted((r.number for r in found), reverse=True) == [r.number for r in found]

    states = [(await ports.trail.get(r.event.id)).event.state for r in found]
    assert ["Renamed", "Flow", "Flow", "Renamed", "Shop"] == [state and state["name"] for state in states]
    owner = {"provider_id": "alice@tmi.local", "role": "owner", "principal_type": "user", "provider": "tmi"}
    assert states[4] is not None
    assert owner.items() <= states[4]["authorization"][0].items()


async def test_a_change_that_fails_leaves_no_event(ports: Ports) -> None:
    alice = await ports.user()
    model = await ports.model(alice)
    before = await trail_of(ports, model.id)
    with pytest.raises(Conflict):
        await ports.threat_models.update(model.id, 9, ThreatModelChange(name="x"), None, patched(alice))
    with pytest.raises(NotFound):
        await ports.diagrams.delete(model.id, (await ports.diagram()).id, Actor.of(alice))
    assert before == await trail_of(ports, model.id)


async def test_a_list_is_paged_both_ways_and_holds_no_states(ports: Ports) -> None:
    alice = await ports.user()
    model = await ports.model(alice)
    await ports.model(alice)
    for n in range(4):
        model = await rename(ports, model, alice, f"name {n}")
    every = await trail_of(ports, model.id)
    assert 5 == len(every)
    assert {(None, True)} == {(r.event.state, r.is_kept) for r in every}

    first = await ports.trail.page(EventFilter(model.id), 2, None, newer=False)
    assert (every[:2], 5, None) == (list(first.events), first.total, first.newer)
    second = await ports.trail.page(EventFilter(model.id), 2, first.older, newer=False)
    assert every[2:4] == list(second.events)
    last = await ports.trail.page(EventFilter(model.id), 2, second.older, newer=False)
    assert (every[4:], None) == (list(last.events), last.older)
    back = await ports.trail.page(EventFilter(model.id), 2, last.newer, newer=True)
    assert every[2:4] == list(back.events)
    nothing = await ports.trail.page(EventFilter(ThreatModelId(uuid4())), 2, None, newer=False)
    assert ([], 0) == (list(nothing.events), nothing.total)


async def test_a_list_is_filtered(ports: Ports) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")
    model = await ports.model(alice)
    await rename(ports, model, bob, "Renamed")
    await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None, Actor.of(bob))
    await ports.model(bob)

    async def matching(**wanted: object) -> int:
        page = await ports.trail.page(EventFilter(**wanted), 100, None, newer=False)  # type: ignore[arg-type]
        assert page.total == len(page.events)
        return page.total

    assert 4 == await matching()
    assert 3 == await matching(threat_model=model.id)
    assert 2 == await matching(threat_model=model.id, email="BOB@tmi.local")
    assert 3 == await matching(object_type=ObjectType.THREAT_MODEL)
    assert 1 == await matching(change=ChangeType.PATCHED)
    assert 1 == await matching(change=ChangeType.CREATED, object_type=ObjectType.DIAGRAM, provider="tmi")
    assert 0 == await matching(provider="corp")
    assert 0 == await matching(after=NOW + timedelta(hours=1))
    assert 4 == await matching(before=NOW + timedelta(hours=1), after=NOW - timedelta(hours=1))


async def test_the_events_of_one_object_are_listed_under_its_own_threat_model_and_type(ports: Ports) -> None:
    alice = await ports.user()
    model, other = await ports.model(alice), await ports.model(alice)
    diagram = await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None)
    await ports.diagrams.delete(model.id, diagram.id)

    found, total = await ports.trail.of_object(model.id, ObjectType.DIAGRAM, diagram.id, PAGE)
    assert (2, ["deleted", "created"]) == (total, [r.event.change.value for r in found])
    assert {SYSTEM} == {r.event.actor for r in found}
    second, total = await ports.trail.of_object(model.id, ObjectType.DIAGRAM, diagram.id, Page(1, 1))
    assert (2, [found[1]]) == (total, list(second))
    for elsewhere in ((other.id, ObjectType.DIAGRAM), (model.id, ObjectType.THREAT)):
        assert ([], 0) == await ports.trail.of_object(*elsewhere, diagram.id, PAGE)
    with pytest.raises(NotFound):
        await ports.trail.get(EventId(uuid4()))


async def test_the_trail_outlives_the_account_of_its_actor(ports: Ports) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")
    model = await ports.model(alice, grant("user", "tmi", "bob@tmi.local", Role.OWNER))
    await rename(ports, model, bob, "Renamed")
    await ports.accounts.delete(bob.id, entry())
    assert "bob@tmi.local" == (await trail_of(ports, model.id))[-2].event.actor.email


async def test_a_threat_model_that_goes_with_its_last_owner_is_told_of(ports: Ports) -> None:
    alice = await ports.user("alice")
    model = await ports.model(alice)
    await ports.accounts.delete(alice.id, entry())
    last = (await trail_of(ports, model.id))[0]
    told = last.event.change.value, last.event.actor.email, last.is_kept
    assert ("deleted", "root@tmi.local", False) == told


async def test_old_events_and_older_states_go_a_bounded_number_at_a_time(ports: Ports) -> None:
    alice = await ports.user()
    model = await ports.model(alice)
    for n in range(3):
        model = await rename(ports, model, alice, f"name {n}")
    past, future = NOW - timedelta(days=1), datetime.now(UTC) + timedelta(days=1)

    assert 0 == await ports.trail.purge(past, past, 10)
    assert 3 == await ports.trail.purge(past, future, 3)
    found = await trail_of(ports, model.id)
    assert [True, False, False, False] == [r.is_kept for r in found]
    assert (await ports.trail.get(found[1].event.id)).event.state is None
    assert 1 == await ports.trail.purge(past, future, 3)
    assert 0 == await ports.trail.purge(past, future, 3)
    assert 3 == await ports.trail.purge(future, past, 3)
    assert 1 == len(await trail_of(ports, model.id))
    assert 1 == await ports.trail.purge(future, past, 3)
    assert [] == await trail_of(ports, model.id)


async def test_a_feed_gives_what_came_after_a_number(ports: Ports) -> None:
    alice = await ports.user()
    assert 0 == await ports.feed.last(ThreatModelId(uuid4()))
    model = await ports.model(alice)
    begin = await ports.feed.last(model.id)
    await ports.model(alice)
    for n in range(3):
        model = await rename(ports, model, alice, f"name {n}")
    every = await trail_of(ports, model.id)
    assert every[0].number == await ports.feed.last(model.id)
    assert every[:3][::-1] == list(await ports.feed.since(model.id, begin, 10))
    assert [every[2]] == list(await ports.feed.since(model.id, begin, 1))
    assert [] == await ports.feed.since(model.id, every[0].number, 10)


async def test_who_listens_hears_of_every_threat_model_that_changed(ports: Ports) -> None:
    alice = await ports.user()
    heard: asyncio.Queue[ThreatModelId | None] = asyncio.Queue()
    async with ports.feed.hearing(heard.put_nowait):
        model = await ports.model(alice)
        assert model.id == await asyncio.wait_for(heard.get(), 5)
        await rename(ports, model, alice, "Renamed")
        assert model.id == await asyncio.wait_for(heard.get(), 5)
    await rename(ports, await ports.threat_models.get(model.id), alice, "Again")
    await asyncio.sleep(0.05)
    assert heard.empty()


async def changed(ports: Ports, model: ThreatModelId) -> list[Difference | None]:
    """What the events of a threat model changed, oldest first."""
    numbers = [recorded.number for recorded in reversed(await trail_of(ports, model))]
    told = await ports.trail.changes(numbers)
    return [told.get(number) for number in numbers]


async def test_what_an_event_changed_is_told_from_the_states_before_and_after_it(ports: Ports) -> None:
    alice = await ports.user()
    model = await ports.model(alice)
    model = await rename(ports, model, alice, "Other")
    change = ThreatModelChange(description="Text", metadata={"k": "1"})
    model = await ports.threat_models.update(model.id, model.version, change, None, patched(alice))
    change = ThreatModelChange(clear_description=True)
    model = await ports.threat_models.update(model.id, model.version, change, None, patched(alice))
    await ports.threat_models.delete(model.id, Actor.of(alice))

    created, renamed, described, cleared, deleted = await changed(ports, model.id)
    assert created is not None
    assert ({}, "Shop", "STRIDE") == (
        created.before, created.after["name"], created.after["threat_model_framework"],
    )  # fmt: skip
    assert Difference({"name": "Shop"}, {"name": "Other"}) == renamed
    described_now = {"description": "Text", "metadata": [{"key": "k", "value": "1"}]}
    assert Difference({"description": None, "metadata": []}, described_now) == described
    assert Difference({"description": "Text"}, {"description": None}) == cleared
    assert Difference({}, {}) == deleted
    assert {} == await ports.trail.changes([2**40])


async def test_fields_that_are_too_large_are_named_alone(ports: Ports) -> None:
    alice = await ports.user()
    model = await ports.model(alice)
    note = BY_NAME["note"]
    deed = patched(alice)
    long = "ü" * (CHANGES_MAX_BYTES // 4)  # in UTF-8 half of what is told
    draft = Draft({"name": "a", "content": long})
    (child,) = await ports.children.create(model.id, note, [draft], replace(deed, change=ChangeType.CREATED))

    async def become(**fields: str) -> None:
        change = ChildChange(child.id, lambda _: Draft(fields))
        await ports.children.change(model.id, note, [change], deed)

    await become(name="b", content=long)
    await become(name="c", content=long + "!")
    created, renamed, rewritten = (await changed(ports, model.id))[1:]
    assert Difference({}, {"name": "a", "content": long, "metadata": []}) == created
    assert Difference({"name": "a"}, {"name": "b"}) == renamed
    assert Difference({"name": "b"}, {"name": "c"}, ("content",)) == rewritten


async def test_what_is_made_anew_under_an_old_id_is_made_of_nothing(ports: Ports) -> None:
    alice = await ports.user()
    model = await ports.model(alice)
    note, deed = BY_NAME["note"], patched(alice)
    (child,) = await ports.children.create(model.id, note, [Draft({"name": "a", "content": "b"})], deed)
    await ports.children.mark(model.id, note, [child.id], deed, deleted=True)
    assert 1 == await ports.bin.purge(datetime.now(UTC) + timedelta(days=1), 10)
    draft = Draft({"name": "a", "content": "new"})
    await ports.children.change(model.id, note, [ChildChange(child.id, lambda _: draft, draft)], deed)
    again = (await changed(ports, model.id))[-1]
    assert Difference({}, {"name": "a", "content": "new", "metadata": []}) == again


async def test_without_the_state_before_it_nothing_is_told_of_a_change(ports: Ports) -> None:
    alice = await ports.user()
    model = await ports.model(alice)
    for name in ("one", "two"):
        model = await rename(ports, model, alice, name)
    far = NOW - timedelta(days=9)
    assert 1 == await ports.trail.purge(far, datetime.now(UTC) + timedelta(days=1), 1)
    none, unknown, known = await changed(ports, model.id)
    assert (None, None) == (none, unknown)
    assert Difference({"name": "one"}, {"name": "two"}) == known


# --- on PostgreSQL alone ------------------------------------------------------------------------


def event_of(model: ThreatModelId) -> Event:
    return Event.of(Deed(SYSTEM, ChangeType.UPDATED), model, ObjectType.NOTE, uuid4(), 1, {"at": NOW})


async def test_numbers_rise_in_the_order_of_commits_within_a_threat_model(database_url: str) -> None:
    database = await PostgresDatabase.connect(database_url)
    try:
        feed, model = PostgresFeed(database), ThreatModelId(uuid4())
        seen: list[int] = []
        begun, written = asyncio.Event(), asyncio.Event()

        async def slow() -> None:
            async with database.transaction() as connection:
                await events.write(connection, event_of(model))
                begun.set()
                await asyncio.sleep(0.2)

        async def fast() -> None:
            await begun.wait()
            async with database.transaction() as connection:
                await events.write(connection, event_of(model), event_of(model))
            written.set()

        async def watch() -> None:
            # A reader that goes on from the highest number it saw.
            while not written.is_set():
                seen.extend(r.number for r in await feed.since(model, max(seen, default=0), 10))
                await asyncio.sleep(0.005)
            seen.extend(r.number for r in await feed.since(model, max(seen, default=0), 10))

        await asyncio.wait_for(asyncio.gather(slow(), fast(), watch()), 10)
        every = [r.number for r in await feed.since(model, 0, 10)]
        assert 3 == len(every)
        assert every == seen
    finally:
        await database.close()


async def test_an_event_of_one_threat_model_waits_for_none_of_another(database_url: str) -> None:
    database = await PostgresDatabase.connect(database_url)
    try:
        async with database.transaction() as first:
            await events.write(first, event_of(ThreatModelId(uuid4())))
            async with asyncio.timeout(2), database.transaction() as second:
                await events.write(second, event_of(ThreatModelId(uuid4())))
    finally:
        await database.close()


async def test_a_state_that_an_earlier_version_writes_knows_its_object(database_url: str) -> None:
    database = await PostgresDatabase.connect(database_url)
    try:
        ports = postgres_ports(database)
        alice = await ports.user()
        model = await ports.model(alice)
        earlier = events.WRITE.replace("created_at, object_id, state)", "created_at, state)")
        earlier = earlier.replace("g.created_at, g.object_id, g.state", "g.created_at, g.state")
        assert len(earlier) == len(events.WRITE) - len("object_id, g.object_id, ")
        event = Event.of_model(patched(alice), replace(model, name="Old"))
        await database.fetch(earlier, *[[value] for value in events._columns(event)], [], [], [])
        await rename(ports, model, alice, "New")
        _, old, new = await changed(ports, model.id)
        assert Difference({"name": "Shop"}, {"name": "Old"}) == old
        assert Difference({"name": "Old"}, {"name": "New"}) == new
    finally:
        await database.close()


async def test_states_of_before_the_migration_know_their_objects(empty_database_url: str) -> None:
    model = ThreatModelId(uuid4())
    connection = await asyncpg.connect(empty_database_url)
    try:
        await migrate(connection, [migration for migration in shipped() if migration.name < "0036"])
        for change in ("created", "patched"):
            number = await connection.fetchval(
                "INSERT INTO events (id, created_at, threat_model_id, object_type, object_id, change_type,"
                " provider, provider_id, email, name) VALUES ($1, now(), $2, 'note', $2, $3, '', '', '', '')"
                " RETURNING number", uuid4(), model, change,
            )  # fmt: skip
            await connection.execute(
                "INSERT INTO event_states VALUES ($1, now(), jsonb_build_object('name', $2::text))",
                number, change,
            )  # fmt: skip
    finally:
        await connection.close()
    database = await PostgresDatabase.connect(empty_database_url)
    try:
        assert "0036_states_by_object" == (await database.migrate())[0]
        created, patched_ = await changed(postgres_ports(database), model)
        assert Difference({}, {"name": "created"}) == created
        assert Difference({"name": "created"}, {"name": "patched"}) == patched_
        with pytest.raises(asyncpg.RestrictViolationError):
            await database.fetch("UPDATE event_states SET state = '{}'")
    finally:
        await database.close()


async def test_a_page_with_what_its_events_changed_takes_as_many_statements_however_long_it_is(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for name in ("fetch", "fetchrow", "fetchval"):
        count_calls(monkeypatch, name, asked)
    database = await PostgresDatabase.connect(database_url)
    try:
        async with over_postgres(database) as rest:
            alice = await rest.sign_in("alice")
            model = (await rest.create_model(alice))["id"]
            for n in range(12):
                await rest.patch(alice, model, {"op": "replace", "path": "/name", "value": f"name {n}"})
            counts = []
            for limit in (2, 2, 12):
                asked.clear()
                answer = await rest.call("GET", f"/threat_models/{model}/audit_trail?limit={limit}", alice)
                assert [2] * limit == [len(entry["changes"]) for entry in answer.json["audit_entries"]]
                counts.append(len(asked))
            assert counts[1] == counts[2] <= 8
    finally:
        await database.close()


def count_calls(monkeypatch: pytest.MonkeyPatch, name: str, asked: list[str]) -> None:
    real = getattr(asyncpg.Connection, name)

    async def counted(connection: object, sql: str, *arguments: object, **more: object) -> object:
        asked.append(sql)
        return await real(connection, sql, *arguments, **more)

    monkeypatch.setattr(asyncpg.Connection, name, counted)


async def test_what_is_written_cannot_be_changed(database_url: str) -> None:
    database = await PostgresDatabase.connect(database_url)
    try:
        ports = postgres_ports(database)
        await ports.model(await ports.user())
        for statement in ("UPDATE events SET name = 'x'", "UPDATE event_states SET state = '{}'"):
            with pytest.raises(asyncpg.RestrictViolationError):
                await database.fetch(statement)
    finally:
        await database.close()
