"""The ports `Collaborations` and `Tickets`."""

import asyncio
import os
from datetime import timedelta
from uuid import uuid4

import pytest

from tests.contracts.conftest import Ports
from tmi.domain.errors import NotFound
from tmi.domain.ids import CollaborationId, DiagramId, ThreatModelId
from tmi.domain.model import Collaboration, Diagram, Ticket, User

MOMENT = timedelta(seconds=30)
REDEMPTIONS = int(os.environ.get("TMI_TICKET_REDEMPTIONS", "1000"))


async def begun(ports: Ports) -> tuple[Collaboration, Diagram, User]:
    diagram, alice = await ports.diagram(), await ports.user()
    session, is_new = await ports.collaborations.begin(diagram.threat_model_id, diagram.id, alice.id)
    assert is_new
    return session, diagram, alice


async def ticket_of(ports: Ports, session: Collaboration, user: User) -> Ticket:
    sign_in = await ports.sign_ins.start(user.id, uuid4().hex, timedelta(hours=1))
    return Ticket(user.id, sign_in.id, session.id, session.threat_model_id, session.diagram_id)


async def test_a_diagram_has_one_session_and_its_first_caller_is_the_host(ports: Ports) -> None:
    session, diagram, alice = await begun(ports)
    bob = await ports.user("bob")
    again, is_new = await ports.collaborations.begin(diagram.threat_model_id, diagram.id, bob.id)

    assert (False, session) == (is_new, again)
    assert (alice.id, "Flow", "Shop") == (session.host, session.diagram_name, session.threat_model_name)
    assert session == await ports.collaborations.get(session.id)
    assert session == await ports.collaborations.of_diagram(diagram.threat_model_id, diagram.id)


async def test_of_many_who_begin_at_once_one_does(ports: Ports) -> None:
    diagram, alice = await ports.diagram(), await ports.user()
    answers = await asyncio.gather(
        *(ports.collaborations.begin(diagram.threat_model_id, diagram.id, alice.id) for _ in range(8))
    )

    assert 1 == sum(is_new for _, is_new in answers)
    assert 1 == len({session.id for session, _ in answers})


async def test_a_session_ends_once_and_the_next_one_is_another(ports: Ports) -> None:
    session, diagram, alice = await begun(ports)

    assert await ports.collaborations.end(session.id)
    assert not await ports.collaborations.end(session.id)
    assert None is await ports.collaborations.of_diagram(diagram.threat_model_id, diagram.id)
    with pytest.raises(NotFound):
        await ports.collaborations.get(session.id)
    again, is_new = await ports.collaborations.begin(diagram.threat_model_id, diagram.id, alice.id)
    assert (is_new, True) == (True, session.id != again.id)


async def test_people_see_the_sessions_that_they_may_join_newest_first(ports: Ports) -> None:
    first, _, alice = await begun(ports)
    second, _, _ = await begun(ports)
    bob = await ports.user("bob")
    visible_to = ports.collaborations.visible_to

    assert [second, first] == list(await visible_to(alice.id, 10))
    assert [second] == list(await visible_to(alice.id, 1))
    assert [] == list(await visible_to(bob.id, 10))
    await ports.collaborations.end(second.id)
    assert [first] == list(await visible_to(alice.id, 10))


async def test_a_session_goes_with_its_diagram(ports: Ports) -> None:
    session, diagram, _ = await begun(ports)
    await ports.diagrams.delete(diagram.threat_model_id, diagram.id)

    with pytest.raises(NotFound):
        await ports.collaborations.get(session.id)


async def test_a_diagram_that_is_missing_or_of_another_model_has_no_session(ports: Ports) -> None:
    diagram, alice = await ports.diagram(), await ports.user()
    other = ThreatModelId(uuid4())
    for model, key in ((other, diagram.id), (diagram.threat_model_id, DiagramId(uuid4()))):
        with pytest.raises(NotFound):
            await ports.collaborations.begin(model, key, alice.id)
        with pytest.raises(NotFound):
            await ports.collaborations.of_diagram(model, key)


async def test_a_ticket_is_good_once(ports: Ports) -> None:
    session, _, alice = await begun(ports)
    grant = await ticket_of(ports, session, alice)
    await ports.tickets.issue("secret", grant, MOMENT)

    assert None is await ports.tickets.redeem("another")
    assert grant == await ports.tickets.redeem("secret")
    assert None is await ports.tickets.redeem("secret")


async def test_of_a_thousand_redemptions_at_once_one_succeeds(ports: Ports) -> None:
    session, _, alice = await begun(ports)
    grant = await ticket_of(ports, session, alice)
    await ports.tickets.issue("secret", grant, MOMENT)

    answers = await asyncio.gather(*(ports.tickets.redeem("secret") for _ in range(REDEMPTIONS)))
    assert [grant] == [answer for answer in answers if answer is not None]


async def test_a_ticket_past_its_time_is_good_for_nothing(ports: Ports) -> None:
    session, _, alice = await begun(ports)
    await ports.tickets.issue("secret", await ticket_of(ports, session, alice), timedelta(seconds=-1))

    assert None is await ports.tickets.redeem("secret")


async def test_a_ticket_goes_with_its_session(ports: Ports) -> None:
    session, _, alice = await begun(ports)
    grant = await ticket_of(ports, session, alice)
    await ports.tickets.issue("secret", grant, MOMENT)
    await ports.collaborations.end(session.id)

    assert None is await ports.tickets.redeem("secret")
    with pytest.raises(NotFound):
        await ports.tickets.issue("late", grant, MOMENT)
    with pytest.raises(NotFound):
        await ports.collaborations.get(CollaborationId(uuid4()))


async def test_many_users_are_read_at_once(ports: Ports) -> None:
    alice, bob = await ports.user(), await ports.user("bob")

    assert {alice.id: alice, bob.id: bob} == await ports.users.get_all([alice.id, bob.id, uuid4()])  # type: ignore[list-item]
