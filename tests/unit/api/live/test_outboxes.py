"""Whom the bound on what all stalled sockets hold closes, and what counts."""

import asyncio

import pytest

import api.live.outboxes
from api.live.outboxes import Held, Outboxes


class Reader:
    """A stalled socket, by what waits in its buffer."""

    def __init__(self, world: "World", queued_bytes: int) -> None:
        self.world = world
        self.queued_bytes = queued_bytes
        self.held: Held

    def fail(self, code: int, reason: str) -> None:
        assert 1013 == code
        self.world.closed.append(self)
        self.world.outboxes.discard(self.held)


class World:
    def __init__(self, max_bytes: int = 1000) -> None:
        self.told = 0
        self.closed: list[Reader] = []
        self.outboxes = Outboxes(max_bytes, self.tell)

    def tell(self) -> None:
        self.told += 1

    def stall(self, queued: int, shared: bytes | None = None) -> Reader:
        reader = Reader(self, queued)
        reader.held = self.outboxes.add(reader)
        if shared is not None:
            self.outboxes.shares(reader.held, shared)
        return reader

    async def settle(self) -> list[Reader]:
        """Who was closed since."""
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        closed, self.closed = self.closed, []
        return closed


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.live.outboxes, "_GRACE_S", 0.0)


async def test_who_has_been_stalled_longest_is_closed_until_it_is_enough() -> None:
    world = World()
    first, second, third = (world.stall(300) for _ in range(3))
    assert [] == await world.settle()
    world.stall(600)
    assert [] == world.closed, "never in the middle of a write"
    assert [first, second] == await world.settle()
    assert (900, 2, 2) == (world.outboxes.total_bytes, len(world.outboxes), world.told)
    third.queued_bytes += 200
    world.outboxes.grew(third.held, 200)
    assert [third] == await world.settle()


async def test_who_reads_slowly_is_closed_after_those_who_do_not_read() -> None:
    world = World()
    slow, stuck = world.stall(500), world.stall(400)
    slow.queued_bytes -= 10
    last = world.stall(150)
    assert [stuck] == await world.settle()
    slow.queued_bytes -= 10
    world.stall(900)
    assert last in (closed := await world.settle())
    assert slow not in closed or closed.index(last) < closed.index(slow)


async def test_who_has_had_no_time_to_read_is_not_taken_for_one_who_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api.live.outboxes, "_GRACE_S", 3600.0)
    world = World()
    old, _ = world.stall(600), world.stall(500)
    old.queued_bytes -= 10
    assert [old] == await world.settle()


async def test_what_has_drained_meanwhile_does_not_count() -> None:
    world = World()
    one, _ = world.stall(900), world.stall(300)
    one.queued_bytes = 600
    assert [] == await world.settle()
    assert 900 == world.outboxes.total_bytes


async def test_what_many_have_in_common_counts_once_and_as_long_as_one_has_it() -> None:
    world, state = World(), bytes(700)
    readers = [world.stall(650, state) for _ in range(20)]
    world.outboxes.grew(readers[0].held, 50)
    assert [] == await world.settle()
    assert 750 == world.outboxes.total_bytes
    lone = world.stall(300)
    assert [readers[0]] == (await world.settle())[:1], "the others free nothing"
    for reader in (*readers, lone):
        world.outboxes.discard(reader.held)
        world.outboxes.discard(reader.held)
    assert (0, 0) == (world.outboxes.total_bytes, len(world.outboxes))
