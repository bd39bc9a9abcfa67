"""Where there is no room left, nobody edits live; what was edited before is kept."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from api.storage_quota import StorageBoundAccess
from persistence.memory.access import MemoryAccessControl
from persistence.memory.quotas import MemoryStorage
from persistence.memory.store import MemoryStore
from tests.harness.live_service import LiveService, live_service
from tests.harness.raw_websocket import upgraded
from tests.unit.rooms.conftest import until
from tmi.domain.errors import DatabaseUnavailable
from tmi.domain.ids import DiagramId, Seq, UserId
from tmi.domain.ports import Entrant, LoggedUpdate, Origin, RoomBatch
from tmi.domain.quotas import Allowance, Quota
from tmi.domain.roles import Role

LIMIT = 100


def bound(store: MemoryStore) -> StorageBoundAccess:
    return StorageBoundAccess(MemoryAccessControl(store), MemoryStorage(store), lambda: LIMIT)


async def fill(service: LiveService, diagram: DiagramId) -> None:
    """Let a diagram take more than allowed."""
    fence = await service.log.claim(diagram, "test")
    update = LoggedUpdate(Seq(1), None, Origin.SERVER, b"\0\0")
    await service.log.append([RoomBatch(diagram, fence, (update,))])
    assert await service.log.save_snapshot(diagram, fence, Seq(1), bytes(LIMIT))


async def live_roles(
    access: StorageBoundAccess, service: LiveService, diagram: DiagramId
) -> list[Role | None]:
    """Of alice, who owns it, and of nobody."""
    alice = await service.someone("alice")
    standings = await access.standings([Entrant(alice.id, alice.sign_in, diagram)])
    roles = await access.to_diagram_of_all([alice.id, UserId(uuid4())], diagram)
    assert roles[alice.id] == standings[0].role
    return list(roles.values())


async def test_everybody_is_a_reader_while_who_is_charged_has_no_room_left() -> None:
    async with live_service() as service:
        access = bound(service.store)
        full, other = await service.diagram(), await service.diagram()
        assert not await access.refresh()
        await fill(service, full)
        assert await access.refresh()
        assert not await access.refresh()
        assert await access.is_full(full)

        assert [Role.READER, None] == await live_roles(access, service, full)
        assert [Role.READER, None] == await live_roles(access, service, other)
        # Over REST an owner may still delete.
        alice = await service.someone("alice")
        model = service.store.diagrams[full].threat_model_id
        assert Role.OWNER is await access.to_threat_model(alice.id, model)
        assert Role.OWNER is (await access.to_diagram(alice.id, full)).role


async def test_room_comes_back_by_deletion_and_by_an_allowance() -> None:
    async with live_service() as service:
        access = bound(service.store)
        full, other = await service.diagram(), await service.diagram()
        alice = await service.someone("alice")
        await fill(service, full)
        await access.refresh()
        now = datetime.now(UTC)
        service.store.quotas[alice.id] = Quota(alice.id, Allowance(5, stored_bytes=0), now, now)
        assert await access.refresh()
        assert [Role.OWNER, None] == await live_roles(access, service, full)
        del service.store.quotas[alice.id]
        assert await access.refresh()
        service.store.remove_diagram(full)
        assert await access.refresh()
        assert [Role.OWNER, None] == await live_roles(access, service, other)


async def test_who_is_over_stays_known_while_the_database_is_away() -> None:
    async with live_service() as service:
        access = bound(service.store)
        full = await service.diagram()
        await fill(service, full)
        await access.refresh()
        service.store.fail_next = DatabaseUnavailable()
        with pytest.raises(DatabaseUnavailable):
            await access.refresh()
        assert await access.is_full(full)


async def test_open_sessions_follow_without_a_close() -> None:
    made: list[StorageBoundAccess] = []

    def over(store: MemoryStore) -> StorageBoundAccess:
        made.append(bound(store))
        return made[0]

    async with live_service(access_over=over) as service:
        access, diagram = made[0], await service.diagram()
        path = f"/collab/{diagram}?token={await service.token('alice', diagram)}"
        async with upgraded(service.port, path):
            (member,) = await service.rooms.members(diagram)
            assert Role.OWNER is member.role
            log = service.store.logs[diagram]
            log.rows.append((log.fence, LoggedUpdate(Seq(1), None, Origin.SERVER, b"\0\0")))
            log.snapshots[Seq(1)] = (bytes(LIMIT), True)
            assert await access.refresh()
            service.rooms.rights.look_at_all()
            await until(lambda: [Role.READER] == roles_in(service, diagram))
            del log.snapshots[Seq(1)]
            assert await access.refresh()
            service.rooms.rights.look_at_all()
            await until(lambda: [Role.OWNER] == roles_in(service, diagram))


def roles_in(service: LiveService, diagram: DiagramId) -> list[Role]:
    runner = service.rooms.owned(diagram)
    assert runner is not None
    return [member.role for member in runner.room.members.values()]
