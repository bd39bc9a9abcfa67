"""The port `UpdateLog`."""

from uuid import uuid4

import pytest

from tests.contracts.conftest import Ports
from tmi.domain.errors import Conflict, NotFound
from tmi.domain.ids import DiagramId, Fence, Seq, UserId
from tmi.domain.ports import AppendResult, LoggedUpdate, Origin, RoomBatch, StoredDocument

ALICE = UserId(uuid4())


def update(
    seq: int, data: bytes = b"", origin: Origin = Origin.UPDATE, author: UserId | None = ALICE
) -> LoggedUpdate:
    return LoggedUpdate(Seq(seq), author, origin, data or f"update {seq}".encode())


def batch(diagram: DiagramId, fence: int, *seqs: int) -> RoomBatch:
    return RoomBatch(diagram, Fence(fence), tuple(update(seq) for seq in seqs))


def result(
    committed: tuple[DiagramId, ...] = (),
    stale: tuple[DiagramId, ...] = (),
    failed: dict[DiagramId, str] | None = None,
) -> AppendResult:
    return AppendResult(frozenset(committed), frozenset(stale), failed or {})


async def claimed(ports: Ports) -> DiagramId:
    diagram = (await ports.diagram()).id
    await ports.log.claim(diagram, "node")
    return diagram


async def tail(ports: Ports, diagram: DiagramId) -> list[bytes]:
    return list((await ports.log.load(diagram)).tail)


async def test_a_new_diagrams_log_is_empty(ports: Ports) -> None:
    diagram = (await ports.diagram()).id

    assert StoredDocument(None, Seq(0), (), Seq(0)) == await ports.log.load(diagram)


async def test_each_claim_raises_the_fence(ports: Ports) -> None:
    diagram = (await ports.diagram()).id

    assert [1, 2, 3] == [await ports.log.claim(diagram, "node") for _ in range(3)]


async def test_an_unknown_diagram_can_be_neither_claimed_nor_loaded(ports: Ports) -> None:
    with pytest.raises(NotFound):
        await ports.log.claim(DiagramId(uuid4()), "node")
    with pytest.raises(NotFound):
        await ports.log.load(DiagramId(uuid4()))


async def test_updates_of_every_origin_come_back_in_order(ports: Ports) -> None:
    diagram = await claimed(ports)
    first = tuple(update(seq, bytes([seq]), origin) for seq, origin in enumerate(Origin, 1))
    second = (update(5, b"\x00\xff" * 5000, author=None),)

    for updates in (first, second):
        assert result((diagram,)) == await ports.log.append([RoomBatch(diagram, Fence(1), updates)])

    expected = StoredDocument(None, Seq(0), (b"\x01", b"\x02", b"\x03", b"\x04", b"\x00\xff" * 5000), Seq(5))
    assert expected == await ports.log.load(diagram)


async def test_an_empty_update_is_kept(ports: Ports) -> None:
    diagram = await claimed(ports)

    await ports.log.append([RoomBatch(diagram, Fence(1), (LoggedUpdate(Seq(1), None, Origin.SERVER, b""),))])

    assert [b""] == await tail(ports, diagram)


async def test_a_group_commit_of_no_rooms_commits_nothing(ports: Ports) -> None:
    assert result() == await ports.log.append([])


async def test_a_stale_room_adds_nothing_and_the_others_everything(ports: Ports) -> None:
    first, stale, last = [await claimed(ports) for _ in range(3)]
    await ports.log.claim(stale, "another node")

    answer = await ports.log.append([batch(first, 1, 1, 2), batch(stale, 1, 1), batch(last, 1, 1)])

    assert result((first, last), (stale,)) == answer
    assert [2, 0, 1] == [len(await tail(ports, d)) for d in (first, stale, last)]


async def test_a_fence_from_the_future_is_stale_too(ports: Ports) -> None:
    diagram = await claimed(ports)

    assert result(stale=(diagram,)) == await ports.log.append([batch(diagram, 2, 1)])


async def test_a_deleted_diagram_is_stale(ports: Ports) -> None:
    diagram = await ports.diagram()
    await ports.log.claim(diagram.id, "node")
    await ports.diagrams.delete(diagram.threat_model_id, diagram.id)

    assert result(stale=(diagram.id,)) == await ports.log.append([batch(diagram.id, 1, 1)])
    assert not await ports.log.save_snapshot(diagram.id, Fence(1), Seq(1), b"state")
    with pytest.raises(NotFound):
        await ports.log.load(diagram.id)


async def test_the_same_batch_again_counts_as_committed_and_adds_nothing(ports: Ports) -> None:
    diagram = await claimed(ports)

    for _ in range(2):
        assert result((diagram,)) == await ports.log.append([batch(diagram, 1, 1, 2)])

    assert [b"update 1", b"update 2"] == await tail(ports, diagram)


async def test_a_repeated_batch_may_have_grown(ports: Ports) -> None:
    diagram = await claimed(ports)
    await ports.log.append([batch(diagram, 1, 1, 2)])

    assert result((diagram,)) == await ports.log.append([batch(diagram, 1, 1, 2, 3)])

    assert [b"update 1", b"update 2", b"update 3"] == await tail(ports, diagram)


async def test_rows_of_another_fence_do_not_count_as_ours(ports: Ports) -> None:
    diagram, other = await claimed(ports), await claimed(ports)
    await ports.log.append([batch(diagram, 1, 1, 2)])
    await ports.log.claim(diagram, "another node")

    answer = await ports.log.append([batch(diagram, 2, 2, 3), batch(other, 1, 1)])

    assert frozenset({other}) == answer.committed
    assert {diagram} == answer.failed.keys()
    assert [b"update 1", b"update 2"] == await tail(ports, diagram)


async def test_other_bytes_under_a_taken_number_do_not_count_as_ours(ports: Ports) -> None:
    diagram = await claimed(ports)
    await ports.log.append([batch(diagram, 1, 1)])

    answer = await ports.log.append([RoomBatch(diagram, Fence(1), (update(1, b"other bytes"),))])

    assert {diagram} == answer.failed.keys()
    assert [b"update 1"] == await tail(ports, diagram)


@pytest.mark.parametrize("seqs", [(2,), (1, 3), (2, 1), (0, 1), (1, 1), ()])
async def test_numbers_with_a_gap_fail_their_room_alone(ports: Ports, seqs: tuple[int, ...]) -> None:
    diagram, other = await claimed(ports), await claimed(ports)

    answer = await ports.log.append([batch(diagram, 1, *seqs), batch(other, 1, 1)])

    assert frozenset({other}) == answer.committed
    assert {diagram} == answer.failed.keys()
    assert [] == await tail(ports, diagram)


async def test_two_batches_of_one_room_are_a_mistake_of_the_caller(ports: Ports) -> None:
    diagram = await claimed(ports)

    with pytest.raises(ValueError, match="at most one batch"):
        await ports.log.append([batch(diagram, 1, 1), batch(diagram, 1, 2)])


async def test_a_snapshot_bounds_loading_and_deletes_nothing(ports: Ports) -> None:
    diagram = await claimed(ports)
    await ports.log.append([batch(diagram, 1, 1, 2, 3)])

    assert await ports.log.save_snapshot(diagram, Fence(1), Seq(2), b"state at 2")

    assert StoredDocument(b"state at 2", Seq(2), (b"update 3",), Seq(3)) == await ports.log.load(diagram)
    assert result((diagram,)) == await ports.log.append([batch(diagram, 1, 1, 2, 3)])


async def test_the_newest_snapshot_is_loaded(ports: Ports) -> None:
    diagram = await claimed(ports)
    await ports.log.append([batch(diagram, 1, 1, 2, 3)])

    for seq in (3, 1, 2):
        state = f"state at {seq}".encode()
        assert await ports.log.save_snapshot(diagram, Fence(1), Seq(seq), state, is_whole=seq == 3)

    assert StoredDocument(b"state at 3", Seq(3), (), Seq(3), True) == await ports.log.load(diagram)


async def test_a_snapshot_of_a_number_that_has_one_keeps_the_first(ports: Ports) -> None:
    diagram = await claimed(ports)
    await ports.log.append([batch(diagram, 1, 1)])

    assert [True, True] == [await ports.log.save_snapshot(diagram, Fence(1), Seq(1), s) for s in (b"a", b"b")]

    assert b"a" == (await ports.log.load(diagram)).snapshot


async def test_a_snapshot_of_a_former_owner_is_refused(ports: Ports) -> None:
    diagram = await claimed(ports)
    await ports.log.append([batch(diagram, 1, 1)])
    await ports.log.claim(diagram, "another node")

    assert not await ports.log.save_snapshot(diagram, Fence(1), Seq(1), b"state")

    assert (await ports.log.load(diagram)).snapshot is None


@pytest.mark.parametrize("seq", [0, 2])
async def test_a_snapshot_of_an_update_that_is_not_committed_is_refused(ports: Ports, seq: int) -> None:
    diagram = await claimed(ports)
    await ports.log.append([batch(diagram, 1, 1)])

    with pytest.raises(Conflict):
        await ports.log.save_snapshot(diagram, Fence(1), Seq(seq), b"state")
