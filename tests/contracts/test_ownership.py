"""The port `Ownership`."""

from uuid import uuid4

import pytest

from tests.contracts.conftest import Ports
from tests.valkey import new_node
from tmi.domain.errors import Conflict, NotFound, OwnedElsewhere
from tmi.domain.ids import DiagramId, Fence, Seq
from tmi.domain.ports import LoggedUpdate, Origin, RoomBatch

A, B = new_node("a"), new_node("b")


async def test_a_new_diagram_is_nobodys(ports: Ports) -> None:
    tenure = await ports.ownership.find((await ports.diagram()).id)

    assert (0, None, True) == (tenure.fence, tenure.owner, tenure.is_free)


async def test_a_claim_names_the_owner_and_where_it_is_reached(ports: Ports) -> None:
    diagram = (await ports.diagram()).id

    assert [1, 2] == [await ports.ownership.claim(diagram, node) for node in (A, B)]
    tenure = await ports.ownership.find(diagram)
    assert (2, B, False) == (tenure.fence, tenure.owner, tenure.is_free)
    assert 0 <= tenure.unseen_s < 30


async def test_an_unknown_diagram_can_be_neither_claimed_nor_found(ports: Ports) -> None:
    with pytest.raises(NotFound):
        await ports.ownership.claim(DiagramId(uuid4()), A)
    with pytest.raises(NotFound):
        await ports.ownership.find(DiagramId(uuid4()))


async def test_a_room_is_not_taken_from_a_spared_owner(ports: Ports) -> None:
    diagram = (await ports.diagram()).id
    await ports.ownership.claim(diagram, A, [A.id, B.id])
    with pytest.raises(OwnedElsewhere) as refusal:
        await ports.ownership.claim(diagram, B, [A.id])
    assert A == refusal.value.owner

    await ports.ownership.release(diagram, A.id, Fence(1))
    assert 2 == await ports.ownership.claim(diagram, B, [A.id])


async def test_a_claim_after_another_fence_is_refused(ports: Ports) -> None:
    diagram = (await ports.diagram()).id
    await ports.ownership.claim(diagram, A, after=Fence(0))
    with pytest.raises(Conflict):
        await ports.ownership.claim(diagram, B, after=Fence(0))

    assert A == (await ports.ownership.find(diagram)).owner


async def test_a_released_room_is_free_and_its_fence_stands(ports: Ports) -> None:
    diagram = (await ports.diagram()).id
    fence = await ports.ownership.claim(diagram, A)
    await ports.ownership.release(diagram, A.id, fence)

    tenure = await ports.ownership.find(diagram)
    assert (1, None, True) == (tenure.fence, tenure.owner, tenure.is_free)
    batch = RoomBatch(diagram, fence, (LoggedUpdate(Seq(1), None, Origin.SERVER, b"update"),))
    assert {diagram} == (await ports.log.append([batch])).committed


async def test_a_release_of_an_earlier_term_does_nothing(ports: Ports) -> None:
    diagram = (await ports.diagram()).id
    fence = await ports.ownership.claim(diagram, A)
    await ports.ownership.claim(diagram, A)
    await ports.ownership.release(diagram, A.id, fence)
    await ports.ownership.release(diagram, B.id, Fence(2))

    assert A == (await ports.ownership.find(diagram)).owner


async def test_renewing_tells_which_fences_have_risen(ports: Ports) -> None:
    kept, lost = [(await ports.diagram()).id for _ in range(2)]
    held = {diagram: await ports.ownership.claim(diagram, A) for diagram in (kept, lost)}
    await ports.ownership.claim(lost, B)

    assert {kept} == await ports.ownership.renew(held | {DiagramId(uuid4()): Fence(1)})
    assert frozenset() == await ports.ownership.renew({})


async def test_an_owner_that_does_not_say_where_it_is_leaves_no_address_of_another(ports: Ports) -> None:
    diagram = (await ports.diagram()).id
    await ports.ownership.claim(diagram, A)
    await ports.log.claim(diagram, str(B.id))  # as code before the address did

    tenure = await ports.ownership.find(diagram)
    assert (2, None, False) == (tenure.fence, tenure.owner, tenure.is_free)
    assert 3 == await ports.ownership.claim(diagram, A, [A.id, B.id])
