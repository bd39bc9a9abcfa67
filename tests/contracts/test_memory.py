"""What the in-memory adapters offer to tests besides their ports: failures on demand."""

import asyncio

import pytest

from persistence.memory.database import MemoryDatabase
from persistence.memory.store import MemoryStore
from persistence.memory.update_log import MemoryUpdateLog
from tests.contracts.conftest import memory_ports
from tests.contracts.test_update_log import batch, result
from tmi.domain.errors import DatabaseUnavailable


async def test_a_store_that_is_away_refuses_every_call_until_it_is_back() -> None:
    store = MemoryStore()
    ports = memory_ports(store)
    diagram = await ports.diagram()

    store.unavailable = True
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable):
            await ports.log.claim(diagram.id, "node")
    assert not await ports.database.ping(1.0)

    store.unavailable = False
    assert 1 == await ports.log.claim(diagram.id, "node")


async def test_a_failure_is_injected_once() -> None:
    store = MemoryStore(fail_next=DatabaseUnavailable("injected"))
    ports = memory_ports(store)

    with pytest.raises(DatabaseUnavailable, match="injected"):
        await ports.user()

    assert "Alice" == (await ports.user()).name


async def test_a_closed_gate_stalls_the_commit_and_the_fence_is_checked_after_it() -> None:
    store = MemoryStore()
    diagram = (await memory_ports(store).diagram()).id
    log = MemoryUpdateLog(store, gate=asyncio.Event())
    assert log.gate is not None
    await log.claim(diagram, "node")

    append = asyncio.create_task(log.append([batch(diagram, 1, 1)]))
    await asyncio.sleep(0)
    assert not append.done()
    await log.claim(diagram, "another node")
    log.gate.set()

    assert result(stale=(diagram,)) == await append


async def test_a_lost_answer_leaves_the_rows_committed() -> None:
    store = MemoryStore()
    diagram = (await memory_ports(store).diagram()).id
    log = MemoryUpdateLog(store)
    await log.claim(diagram, "node")

    log.lose_next_answer = True
    with pytest.raises(DatabaseUnavailable):
        await log.append([batch(diagram, 1, 1)])

    assert 1 == (await log.load(diagram)).seq
    assert result((diagram,)) == await log.append([batch(diagram, 1, 1)])


async def test_a_refused_room_fails_alone() -> None:
    store = MemoryStore()
    ports = memory_ports(store)
    refused, other = (await ports.diagram()).id, (await ports.diagram()).id
    log = MemoryUpdateLog(store)
    for diagram in (refused, other):
        await log.claim(diagram, "node")

    log.refused[refused] = "injected"

    expected = result((other,), failed={refused: "injected"})
    assert expected == await log.append([batch(refused, 1, 1), batch(other, 1, 1)])


async def test_the_single_writer_lock_follows_the_switch() -> None:
    store = MemoryStore()
    async with MemoryDatabase(store).hold_single_writer_lock() as changes:
        store.unavailable = True
        lost = await anext(changes)
        store.unavailable = False

        assert [False, True] == [lost, await anext(changes)]
