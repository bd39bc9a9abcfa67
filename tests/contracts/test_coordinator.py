"""The port `Coordinator`, on every update log."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from rooms.coordination.local import LocalCoordinator
from rooms.coordination.memory import Leases, MemoryCoordinator
from tests.contracts.conftest import Ports
from tests.valkey import new_node, running_coordinator
from tmi.domain.errors import NotFound
from tmi.domain.ids import DiagramId, Fence, NodeId, Seq
from tmi.domain.ports import Coordinator, LoggedUpdate, Origin, RoomBatch


@pytest.fixture(params=["local", "memory", "redis", "redis-away"])
def kind(request: pytest.FixtureRequest) -> str:
    """What there is to coordinate by."""
    kind: str = request.param
    if kind == "redis":
        kind = request.getfixturevalue("valkey_url")
    return kind


@pytest.fixture
async def coordinator(kind: str, ports: Ports) -> AsyncIterator[Coordinator]:
    """The coordinator of a node that is alone."""
    if kind == "local":
        yield LocalCoordinator(ports.log, "node")
        return
    if kind == "memory":
        yield MemoryCoordinator(Leases(), ports.log, new_node())
        return
    url = "unix:///nowhere/valkey.sock" if kind == "redis-away" else kind
    async with running_coordinator(url, ports.ownership) as running:
        yield running


def batch(diagram: DiagramId, fence: Fence, seq: int) -> RoomBatch:
    return RoomBatch(diagram, fence, (LoggedUpdate(Seq(seq), None, Origin.SERVER, b"update"),))


async def test_each_claim_raises_the_fence(ports: Ports, coordinator: Coordinator) -> None:
    diagram = (await ports.diagram()).id

    assert [1, 2, 3] == [await coordinator.claim(diagram) for _ in range(3)]


async def test_who_claimed_last_may_write_and_nobody_else(ports: Ports, coordinator: Coordinator) -> None:
    diagram = (await ports.diagram()).id
    first = await coordinator.claim(diagram)
    second = await coordinator.claim(diagram)

    assert {diagram} == (await ports.log.append([batch(diagram, first, 1)])).stale
    assert {diagram} == (await ports.log.append([batch(diagram, second, 1)])).committed


async def test_an_unknown_diagram_cannot_be_claimed(coordinator: Coordinator) -> None:
    with pytest.raises(NotFound):
        await coordinator.claim(DiagramId(uuid4()))


async def test_a_room_that_was_released_can_be_claimed_again(ports: Ports, coordinator: Coordinator) -> None:
    diagram = (await ports.diagram()).id
    fence = await coordinator.claim(diagram)
    await coordinator.release(diagram, fence)

    assert fence < await coordinator.claim(diagram)


async def test_a_fence_stands_after_its_release_until_the_next_claim(
    ports: Ports, coordinator: Coordinator
) -> None:
    diagram = (await ports.diagram()).id
    fence = await coordinator.claim(diagram)
    await coordinator.release(diagram, fence)

    assert {diagram} == (await ports.log.append([batch(diagram, fence, 1)])).committed


async def test_releasing_what_is_not_ours_does_nothing(ports: Ports, coordinator: Coordinator) -> None:
    diagram = (await ports.diagram()).id
    fence = await coordinator.claim(diagram)
    await coordinator.release(diagram, Fence(fence - 1))
    await coordinator.release(diagram, Fence(fence + 1))
    await coordinator.release(DiagramId(uuid4()), Fence(1))

    assert {diagram} == (await ports.log.append([batch(diagram, fence, 1)])).committed


async def test_a_free_room_can_be_claimed_whoever_disowns_it(ports: Ports, coordinator: Coordinator) -> None:
    diagram = (await ports.diagram()).id

    assert 1 == await coordinator.claim(diagram, disowned=NodeId(uuid4()))


async def test_a_node_alone_has_no_peers(coordinator: Coordinator) -> None:
    assert [] == list(coordinator.peers())
