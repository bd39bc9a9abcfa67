"""kill -9 in mid-edit: no edit that was acknowledged may be missing from what Postgres holds.

`TMI_KILL_ROUNDS` says how often the service is killed (10); every other time its Postgres is killed too.
"""

import asyncio
import os
import random
import statistics
import time
from pathlib import Path

import pytest

from tests.faults.conftest import OwnPostgres
from tests.harness.kinds import spec_of
from tests.harness.ledger import Ledger, Writers, returns
from tests.harness.node import NodeDriver
from tests.harness.rest import Rest
from tests.harness.service import Service

ROUNDS = int(os.environ.get("TMI_KILL_ROUNDS", "10"))
EDITS_PER_SECOND = 200
ROOMS = 3
BACK_S = 30
"""A bound for a busy machine; the measured times are printed."""


class Killing:
    """One service that is killed again and again, its writers, and a witness that retries every 100 ms."""

    def __init__(self, service: Service, driver: NodeDriver) -> None:
        self.service = service
        self.driver = driver
        self.writers = Writers(driver, service)
        self.back_s: list[float] = []
        self.acknowledged = 0
        self._random = random.Random(ROUNDS)

    async def open(self) -> None:
        await self.writers.open(ROOMS)
        async with Rest(self.service.url) as rest:
            place = await rest.create_place(self.writers.person)
        witness = spec_of(
            "y-websocket-3.1", "witness", self.service.collab, place.diagram, self.writers.token
        )
        await self.driver.open([witness])
        await self.driver.wait(["witness"], "synced")

    async def round(self, number: int) -> None:
        """Edits, a kill at a random moment, a restart; then a comparison before the writers return."""
        await self.driver.call(
            "stream",
            stream="edits",
            names=self.writers.names,
            per_second=EDITS_PER_SECOND,
            prefix=str(number),
        )
        await asyncio.sleep(0.4 + self._random.random())
        killed_at = time.monotonic()
        self.service.kill()
        if number % 2:
            for postgres in self.service.embedded_postgres():
                postgres.kill()
        await self.driver.call("offline", names=self.writers.names)
        await self.driver.call("stop_stream", stream="edits")
        ledgers = {place.diagram: await self.writers.ledger(place) for place in self.writers.places}
        await asyncio.gather(asyncio.to_thread(self.service.start), self._witness(killed_at))
        await self.writers.assert_nothing_acknowledged_is_lost(ledgers)
        self.acknowledged = sum(len(ledger.acknowledged) for ledger in ledgers.values())
        await self._return()

    async def _witness(self, killed_at: float) -> None:
        await self.driver.wait(["witness"], "disconnected", BACK_S)
        await self.driver.wait(["witness"], "synced", BACK_S)
        self.back_s.append(time.monotonic() - killed_at)

    async def _return(self) -> None:
        """The writers come back with what was not acknowledged, and all agree."""
        await self.writers.renew_token()
        await self.driver.call("set_token", names=["witness"], token=self.writers.token)
        await self.driver.call("online", names=self.writers.names)
        await self.driver.wait(self.writers.names, "synced", 60)
        groups = [self.writers.of(place) for place in self.writers.places]
        agreed = await self.driver.call("agree", groups=groups, timeout_ms=60_000)
        assert [] == agreed["unequal"]
        for place, report in zip(self.writers.places, agreed["reports"], strict=True):
            ledger = await self.writers.ledger(place)
            assert ledger.made == ledger.made & report["content"]["meta"].keys()


@pytest.mark.timeout(120 + 30 * ROUNDS)
async def test_no_acknowledged_edit_is_lost_when_the_service_is_killed(
    data: Path, driver: NodeDriver, capsys: pytest.CaptureFixture[str]
) -> None:
    with Service(data) as service:
        killing = Killing(service, driver)
        await killing.open()
        for number in range(ROUNDS):
            await killing.round(number)
    assert killing.acknowledged > 0
    with capsys.disabled():
        print(
            f"\n{ROUNDS} kills, {killing.acknowledged} acknowledged edits kept; back after "
            f"{statistics.median(killing.back_s):.2f} s (median), {max(killing.back_s):.2f} s (longest)"
        )


async def test_no_acknowledged_edit_is_lost_when_postgres_is_killed(
    data: Path, driver: NodeDriver, own_postgres: OwnPostgres
) -> None:
    """The service stays alive; Postgres comes back and goes through crash recovery."""
    with Service(data, database_url=own_postgres.url) as service:
        writers = Writers(driver, service)
        await writers.open(ROOMS)
        for number in range(3):
            await driver.call(
                "stream", stream="edits", names=writers.names, per_second=EDITS_PER_SECOND, prefix=str(number)
            )
            await asyncio.sleep(1)
            await asyncio.to_thread(own_postgres.kill)
            await asyncio.sleep(1)
            await asyncio.to_thread(own_postgres.start_again)
            await driver.call("stop_stream", stream="edits")
            await driver.wait(writers.names, "settled", 60)
        ledgers = {place.diagram: await writers.ledger(place) for place in writers.places}
        for ledger in ledgers.values():
            assert (ledger.made, ()) == (ledger.acknowledged, ledger.violations)
        service.kill()
        await driver.call("offline", names=writers.names)
        await asyncio.to_thread(service.start)
        await writers.assert_nothing_acknowledged_is_lost(ledgers)


async def test_the_embedded_postgres_returns_after_it_was_killed(data: Path, driver: NodeDriver) -> None:
    with Service(data) as service:
        writers = Writers(driver, service)
        await writers.open(1)
        for postgres in service.embedded_postgres():
            await asyncio.to_thread(postgres.kill)
        writer = writers.names[0]
        await driver.call("put", name=writer, key="after-the-kill", value=1)
        await driver.call("wait_saved", name=writer, edit="after-the-kill", timeout_ms=60_000)
        ledger: Ledger = await writers.ledger(writers.places[0])
        async with Rest(service.url) as rest:
            await returns(rest)
        assert frozenset({"after-the-kill"}) == ledger.acknowledged
