"""The port `Database`."""

import asyncio

import pytest

from tests.contracts.conftest import Ports
from tmi.domain.errors import Conflict


async def test_a_migrated_database_has_nothing_to_migrate(ports: Ports) -> None:
    assert [] == list(await ports.database.migrate())


async def test_a_database_that_is_there_answers_a_ping(ports: Ports) -> None:
    assert await ports.database.ping(5.0)


async def test_a_second_service_is_told_that_the_first_is_there(ports: Ports) -> None:
    async with ports.database.hold_single_writer_lock():
        async with asyncio.timeout(2):
            with pytest.raises(Conflict, match="Another tmi service"):
                await ports.database.hold_single_writer_lock().__aenter__()


async def test_services_with_redis_share_the_lock_and_keep_one_without_away(ports: Ports) -> None:
    database = ports.database
    async with database.hold_single_writer_lock(among_nodes=True):
        async with database.hold_single_writer_lock(among_nodes=True):
            pass
        with pytest.raises(Conflict, match="already uses this"):
            await database.hold_single_writer_lock().__aenter__()
    async with database.hold_single_writer_lock():
        with pytest.raises(Conflict, match="without"):
            await database.hold_single_writer_lock(among_nodes=True).__aenter__()


async def test_a_lock_that_was_let_go_can_be_taken_again(ports: Ports) -> None:
    for _ in range(3):
        async with ports.database.hold_single_writer_lock():
            pass


async def test_a_lock_that_is_held_tells_nothing(ports: Ports) -> None:
    async with ports.database.hold_single_writer_lock() as changes:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(changes), 0.1)
