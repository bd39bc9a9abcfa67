"""SIGTERM: clients are told to come back, what was accepted is flushed, the exit status tells the truth."""

import asyncio
import time
from pathlib import Path

from tests.faults.conftest import OwnPostgres
from tests.faults.test_postgres_away import commits_stalled
from tests.harness.kinds import spec_of
from tests.harness.ledger import Ledger, Writers, loaded_by_a_fresh_client
from tests.harness.node import NodeDriver, Spec
from tests.harness.rest import Place, Rest
from tests.harness.service import Service

ROOMS = 50
KINDS = 5 * ("y-websocket-3.1",) + ("y-websocket-2.1",) + 2 * ("hocuspocus-3.4", "hocuspocus-4.8")
DRAINED_S = 10.0
UNSAVED_STATUS = 3
EDITS_PER_SECOND = 100


async def test_a_drain_of_50_rooms_with_10_clients_each_loses_nothing(data: Path, driver: NodeDriver) -> None:
    with Service(data) as service:
        async with Rest(service.url) as rest:
            alice = await rest.sign_in("alice")
            model = await rest.create_model(alice)
            places = [await rest.create_diagram(alice, model) for _ in range(ROOMS)]
            token = await rest.collab_token(alice)
        rooms: dict[str, list[str]] = {}
        specs: list[Spec] = []
        for place in places:
            rooms[place.diagram] = [f"{place.diagram}-{index}" for index in range(len(KINDS))]
            specs += [
                {**spec_of(kind, name, service.collab, place.diagram, token), "saved": True}
                for name, kind in zip(rooms[place.diagram], KINDS, strict=True)
            ]
        names = [spec["client"] for spec in specs]
        await driver.open(specs)
        await driver.wait(names, "settled", 60)
        await driver.call("stream", stream="s", names=names, per_second=EDITS_PER_SECOND, prefix="s")
        await driver.call("wait_sent", stream="s", count=2 * EDITS_PER_SECOND, timeout_ms=30_000)
        started = time.monotonic()
        service.terminate()
        assert 0 == await asyncio.to_thread(service.wait, 60)
        took_s = time.monotonic() - started
        await driver.call("stop_stream", stream="s")
        await driver.wait(names, "disconnected", 30)
        codes = (await driver.call("first_close_codes", names=names)).values()
        assert {1012} == set(codes)
        assert took_s <= DRAINED_S
        await driver.call("offline", names=names)
        ledgers = {diagram: await Ledger.read(driver, members) for diagram, members in rooms.items()}
        assert any(ledger.acknowledged for ledger in ledgers.values())
        await asyncio.to_thread(service.start)
        await assert_kept(driver, service, places, ledgers, token)


async def assert_kept(
    driver: NodeDriver, service: Service, places: list[Place], ledgers: dict[str, Ledger], token: str
) -> None:
    """Fresh clients load what was acknowledged, and one room's clients come back with the rest."""
    for place in places:
        ledger = ledgers[place.diagram]
        loaded = await loaded_by_a_fresh_client(driver, service, place, token)
        assert (frozenset(), ()) == (
            ledger.acknowledged - loaded["content"]["meta"].keys(),
            ledger.violations,
        )


async def test_a_drain_that_cannot_flush_says_what_is_unsaved_and_exits_with_3(
    data: Path, driver: NodeDriver, own_postgres: OwnPostgres
) -> None:
    with Service(data, {"TMI_DRAIN_S": "2"}, database_url=own_postgres.url) as service:
        writers = Writers(driver, service)
        await writers.open(2)
        first, second = writers.places
        async with commits_stalled(own_postgres):
            for place, count in ((first, 3), (second, 5)):
                name = writers.of(place)[0]
                for number in range(count):
                    await driver.call("put", name=name, key=f"{number}", value=1)
                    # One after the other: what one user sends in one tick is journaled as one.
                    await driver.call("wait_key", names=writers.of(place), key=f"{number}", timeout_ms=20_000)
            offset = service.output_size()
            started = time.monotonic()
            service.terminate()
            assert UNSAVED_STATUS == await asyncio.to_thread(service.wait, 60)
            took_s = time.monotonic() - started
        lines = service.output(offset).splitlines()
        for place, count in ((first, 3), (second, 5)):
            assert any(place.diagram in line and str(count) in line for line in lines), lines
        assert took_s <= DRAINED_S
        for place in writers.places:
            assert frozenset() == (await writers.ledger(place)).acknowledged
        await asyncio.to_thread(service.start)
        await driver.wait(writers.names, "settled", 60)
        for place in writers.places:
            ledger = await writers.ledger(place)
            assert (ledger.made, ()) == (ledger.acknowledged, ledger.violations)
