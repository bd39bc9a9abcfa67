"""What the owner tells a follower of the end of seats: who is sent away, and who has to look elsewhere."""

from dataclasses import replace

import pytest

from rooms import closing
from rooms.growth import HELD_BACK
from rooms.journal import SHEDDING
from rooms.nodes.messages import REPLICA, Answered, Ended, Enter, Lost, RoleChanged
from rooms.nodes.mirror import Mirror
from rooms.runner import RoomRunner
from tests.unit.rooms.conftest import World
from tmi.domain.roles import Role

CLIENT = 7
"""The follower's number of a client of its."""


class Followed:
    """The world's room, with one client of another node."""

    def __init__(self, world: World, runner: RoomRunner) -> None:
        self.runner = runner
        self.told: list[Answered] = []
        self.is_shedding = False
        self.mirror = Mirror(
            runner, b"\x00", self.told.append, lambda _: None, lambda: self.is_shedding
        )
        self.member = world.editor(world.other).member
        self.mirror.receive(Enter(CLIENT, self.member))
        self.told.clear()

    @property
    def seat(self) -> int:
        """The room's number of that client."""
        return next(n for n, member in self.runner.room.members.items() if member.user == self.member.user)

    @property
    def ends(self) -> list[Answered]:
        return [answer for answer in self.told if isinstance(answer, Ended | Lost)]


@pytest.fixture
async def followed(world: World) -> Followed:
    await world.editor().join()
    return Followed(world, next(world.rooms.runners))


async def test_a_client_that_the_room_sends_away_is_told_so(followed: Followed) -> None:
    followed.runner.end_session(followed.seat, closing.NO_LONGER_ALLOWED, "no access any more")
    assert [Ended(CLIENT, closing.NO_LONGER_ALLOWED, "no access any more")] == followed.ends


async def test_when_a_room_moves_its_clients_at_a_follower_are_told_nothing_in_whatever_order_it_closes(
    followed: Followed,
) -> None:
    """Rooms close the follower's own seat first, as it is the oldest; the clients do not depend on that."""
    followed.runner.end_session(followed.seat, closing.SERVICE_RESTART, "the room has moved")
    assert [] == followed.ends
    followed.runner.end(followed.runner.room.drain)
    assert [Lost(is_disowned=False)] == followed.ends
    assert followed.mirror.is_over


@pytest.mark.parametrize("how", ["drain", "fence_lost"])
async def test_when_a_room_moves_its_follower_looks_elsewhere_and_nobody_is_ended(
    followed: Followed, how: str
) -> None:
    followed.runner.end(getattr(followed.runner.room, how))
    assert [Lost(is_disowned=False)] == followed.ends


async def test_when_a_diagram_is_deleted_the_follower_itself_is_ended_and_its_clients_with_it(
    followed: Followed,
) -> None:
    followed.runner.end(followed.runner.room.deleted)
    assert [(REPLICA, closing.DIAGRAM_DELETED)] == [
        (end.session, end.code) for end in followed.ends if isinstance(end, Ended)
    ]


async def test_a_role_is_told_under_the_followers_number(followed: Followed) -> None:
    followed.runner.change_roles({followed.member.user: Role.READER})
    assert RoleChanged(CLIENT, Role.READER) in followed.told


async def test_a_room_that_is_held_back_lets_no_writer_of_a_follower_in(followed: Followed) -> None:
    followed.runner.is_held_back = True
    followed.mirror.receive(Enter(CLIENT + 1, followed.member))
    followed.mirror.receive(Enter(CLIENT + 2, replace(followed.member, role=Role.READER)))
    assert [Ended(CLIENT + 1, closing.TRY_AGAIN_LATER, HELD_BACK)] == followed.ends
    assert {"rooms_growth": 1} == followed.runner.room.refusals


async def test_while_too_much_waits_for_the_database_no_writer_of_a_follower_comes_in(
    followed: Followed,
) -> None:
    followed.is_shedding = True
    followed.mirror.receive(Enter(CLIENT + 1, followed.member))
    followed.mirror.receive(Enter(CLIENT + 2, replace(followed.member, role=Role.READER)))
    assert [Ended(CLIENT + 1, closing.TRY_AGAIN_LATER, SHEDDING)] == followed.ends
    assert {"journal": 1} == followed.runner.room.refusals
