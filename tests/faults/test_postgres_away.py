"""Postgres away: relay goes on, nothing is acknowledged, newcomers wait, and all drains when it is back."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from tests.faults.conftest import OwnPostgres
from tests.harness.kinds import spec_of
from tests.harness.ledger import Ledger, Writers, loaded_by_a_fresh_client, returns
from tests.harness.node import NodeDriver
from tests.harness.rest import Rest, user
from tests.harness.service import Service

AWAY_S = 20.0
EDITS_PER_SECOND = 40
RELAY_MS = 10_000
DRAINED_S = 30
KIB = 1024


@asynccontextmanager
async def commits_stalled(postgres: OwnPostgres) -> AsyncIterator[None]:
    """Nothing can be added to the log, while everything can be read."""
    connection = await asyncpg.connect(postgres.admin_url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE diagram_updates IN EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


async def assert_relay_goes_on_unacknowledged(driver: NodeDriver, writers: Writers, away_s: float) -> None:
    """Every kind of writer is heard by all others of its room, and none is told that it is saved."""
    place = writers.places[0]
    names = writers.of(place)
    before = await Ledger.read(driver, names)
    until = time.monotonic() + away_s
    number = 0
    while number == 0 or time.monotonic() < until:
        for name in names:
            key = f"away-{number}-{name}"
            await driver.call("put", name=name, key=key, value=number)
            await driver.call("wait_key", names=names, key=key, timeout_ms=RELAY_MS)
        number += 1
        await asyncio.sleep(0.5)
    assert before.acknowledged == (await Ledger.read(driver, names)).acknowledged


async def assert_newcomers_are_told_to_come_back(driver: NodeDriver, writers: Writers) -> None:
    """503 at the upgrade; a Hocuspocus socket is closed with 1013."""
    place = writers.places[0]
    y, hocuspocus = (
        spec_of(
            kind,
            f"newcomer-{kind}-{time.monotonic_ns()}",
            writers.service.collab,
            place.diagram,
            writers.token,
        )
        for kind in ("y-websocket-3.1", "hocuspocus-4.8")
    )
    await driver.open([y, hocuspocus])
    await asyncio.gather(
        driver.wait([y["client"]], "refused", 40),
        driver.call("wait_close", name=hocuspocus["client"], code=1013, timeout_ms=40_000),
    )
    assert {503} == set((await driver.report(y["client"]))["refusals"])
    await driver.close([y["client"], hocuspocus["client"]])


async def assert_ready_but_degraded(service: Service) -> None:
    async with Rest(service.url) as rest:
        status, body = await rest.ready()
    assert (200, True) == (status, "degraded" in body and "database" in body), body


async def assert_all_drains(driver: NodeDriver, writers: Writers) -> None:
    await driver.wait(writers.names, "settled", DRAINED_S)
    for place in writers.places:
        ledger = await writers.ledger(place)
        assert (ledger.made, ()) == (ledger.acknowledged, ledger.violations)
    async with Rest(writers.service.url) as rest:
        await returns(rest)


async def assert_a_reload_has_everything(driver: NodeDriver, writers: Writers) -> None:
    """From Postgres alone: the service is killed, and the writers stay away."""
    ledgers = {place.diagram: await writers.ledger(place) for place in writers.places}
    writers.service.kill()
    await driver.call("offline", names=writers.names)
    await asyncio.to_thread(writers.service.start)
    await writers.assert_nothing_acknowledged_is_lost(ledgers)


async def test_a_stalled_postgres_stops_acknowledgements_and_nothing_else(
    data: Path, driver: NodeDriver, own_postgres: OwnPostgres
) -> None:
    """Every process of Postgres is stopped for 20 s: connections stay open, nothing answers."""
    with Service(data, database_url=own_postgres.url) as service:
        writers = Writers(driver, service)
        await writers.open(1)
        await driver.call("put", name=writers.names[0], key="before", value=1)
        await driver.call("wait_saved", name=writers.names[0], edit="before", timeout_ms=20_000)
        await asyncio.to_thread(own_postgres.process.stall)
        try:
            await asyncio.gather(
                assert_relay_goes_on_unacknowledged(driver, writers, AWAY_S),
                assert_newcomers_are_told_to_come_back(driver, writers),
            )
            await assert_ready_but_degraded(service)
        finally:
            own_postgres.process.resume()
        await assert_all_drains(driver, writers)
        await assert_a_reload_has_everything(driver, writers)


async def test_a_stopped_postgres_stops_acknowledgements_and_nothing_else(
    data: Path, driver: NodeDriver, own_postgres: OwnPostgres
) -> None:
    """Connections are refused for a while, then it is started again."""
    with Service(data, database_url=own_postgres.url) as service:
        writers = Writers(driver, service)
        await writers.open(1)
        await asyncio.to_thread(own_postgres.kill)
        await asyncio.gather(
            assert_relay_goes_on_unacknowledged(driver, writers, 5),
            assert_newcomers_are_told_to_come_back(driver, writers),
        )
        await assert_ready_but_degraded(service)
        await asyncio.to_thread(own_postgres.start_again)
        await assert_all_drains(driver, writers)
        await assert_a_reload_has_everything(driver, writers)


@pytest.mark.parametrize("kind", ["y-websocket-2.1", "y-websocket-3.1", "hocuspocus-3.4", "hocuspocus-4.8"])
async def test_a_sync_that_adds_nothing_is_not_acknowledged_before_what_it_repeats_is_committed(
    data: Path, driver: NodeDriver, own_postgres: OwnPostgres, kind: str
) -> None:
    """An edit, a dropped socket, a reconnect whose SyncStep2 adds nothing, kill -9."""
    with Service(data, database_url=own_postgres.url) as service:
        async with Rest(service.url) as rest:
            alice = await rest.sign_in("alice")
            place = await rest.create_place(alice)
            token = await rest.collab_token(alice)
        spec = {**spec_of(kind, "editor", service.collab, place.diagram, token), "saved": True}
        watcher = spec_of("y-websocket-3.1", "watcher", service.collab, place.diagram, token)
        await driver.open([spec, watcher])
        await driver.wait(["editor", "watcher"], "settled")
        async with commits_stalled(own_postgres):
            await driver.call("put", name="editor", key="edit", value=1)
            await driver.call("wait_key", names=["watcher"], key="edit", timeout_ms=RELAY_MS)
            opened = (await driver.report("editor"))["opened"]
            await driver.call("drop", names=["editor"])
            await driver.call("wait_opened", name="editor", count=opened + 1, timeout_ms=30_000)
            await driver.wait(["editor"], "synced")
            # What goes through the room now was sent after the SyncStep2.
            await driver.call("put", name="editor", key="mark", value=1)
            await driver.call("wait_key", names=["watcher"], key="mark", timeout_ms=RELAY_MS)
            ledger = await Ledger.read(driver, ["editor"])
            service.kill()
            assert frozenset() == (await Ledger.read(driver, ["editor"])).acknowledged
        assert (frozenset({"edit", "mark"}), ()) == (ledger.made, ledger.violations)
        await asyncio.to_thread(service.start)
        await driver.wait(["editor"], "settled", 60)
        assert ledger.made == (await Ledger.read(driver, ["editor"])).acknowledged


async def test_at_the_buffers_bound_writers_leave_and_readers_stay_and_nothing_applied_is_dropped(
    data: Path, driver: NodeDriver, own_postgres: OwnPostgres
) -> None:
    bound = {"TMI_JOURNAL_MAX_BYTES": str(64 * KIB)}
    with Service(data, bound, database_url=own_postgres.url) as service:
        async with Rest(service.url) as rest:
            alice, bob = await rest.sign_in("alice"), await rest.sign_in("bob")
            model = await rest.create_model(alice, user("bob", "reader"))
            full, quiet = await rest.create_diagram(alice, model), await rest.create_diagram(alice, model)
            token, readers_token = await rest.collab_token(alice), await rest.collab_token(bob)
        kinds = {"full-y": "y-websocket-3.1", "full-h": "hocuspocus-4.8", "quiet": "y-websocket-2.1"}
        specs = [
            spec_of(
                kind, name, service.collab, (quiet if name == "quiet" else full).diagram, token, socket=name
            )
            for name, kind in kinds.items()
        ]
        specs.append(spec_of("y-websocket-3.1", "reader", service.collab, full.diagram, readers_token))
        await driver.open(specs)
        await driver.wait([*kinds, "reader"], "synced")
        async with commits_stalled(own_postgres):
            for number in range(40):
                for name in ("full-y", "full-h"):
                    await driver.call("put", name=name, key=f"{number}-{name}", value="x" * 2 * KIB)
            for name in ("full-y", "full-h"):
                await driver.call("wait_close", name=name, code=1013, timeout_ms=30_000)
            await driver.call("offline", names=["full-y", "full-h"])
            reader, bystander = await driver.report("reader"), await driver.report("quiet")
            assert ([], []) == (reader["closes"], bystander["closes"])
            seen = set(reader["content"]["meta"])
            assert seen
        # Once the writers are back and all is acknowledged, all is committed: in the order of the room.
        await driver.call("online", names=["full-y", "full-h"])
        await driver.wait(["full-y", "full-h"], "settled", 60)
        service.kill()
        await driver.close(["reader", "quiet", "full-y", "full-h"])
        await asyncio.to_thread(service.start)
        loaded = await loaded_by_a_fresh_client(driver, service, full, token)
        assert {f"{n}-{name}" for n in range(40) for name in ("full-y", "full-h")} == loaded["content"][
            "meta"
        ].keys()
        assert seen <= loaded["content"]["meta"].keys()
