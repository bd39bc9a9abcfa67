"""Tickets of collaboration sessions at the upgrade."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import pytest

from api.live.options import LiveOptions
from persistence.memory.collaborations import MemoryCollaborations
from tests.harness.live_service import LiveService, live_service
from tests.harness.raw_websocket import TEXT, Answer, connected, frame, upgrade_head, upgraded
from tmi.domain.roles import Role

PARALLEL = 100


@pytest.fixture
async def service() -> AsyncIterator[LiveService]:
    async with live_service(LiveOptions(sweep_s=3600)) as running:
        yield running


async def ask(service: LiveService, path: str, headers: dict[str, str] | None = None) -> Answer:
    async with connected(service.port) as raw:
        raw.send(upgrade_head(path, headers))
        return await raw.answer()


async def test_a_ticket_opens_one_socket(service: LiveService) -> None:
    path = await service.ticket("alice", await service.diagram())
    assert 101 == (await ask(service, path)).status
    assert 401 == (await ask(service, path)).status


async def test_of_many_sockets_at_once_with_one_ticket_one_opens(service: LiveService) -> None:
    path = await service.ticket("alice", await service.diagram())
    answers = await asyncio.gather(*(ask(service, path) for _ in range(PARALLEL)))
    assert {101: 1, 401: PARALLEL - 1} == Counter(answer.status for answer in answers)


async def test_a_text_frame_closes_with_1003(service: LiveService) -> None:
    async with upgraded(service.port, await service.ticket("alice", await service.diagram())) as raw:
        raw.send(frame(TEXT, b'{"message_type":"x"}'))
        assert 1003 == (await raw.receive_close()).close_code


async def test_what_is_no_ticket_of_this_session_is_refused_and_used_up(service: LiveService) -> None:
    diagram, other = await service.diagram(), await service.diagram()
    good = await service.ticket("alice", diagram)
    elsewhere = await service.ticket("alice", other)
    collab = await service.token("alice", diagram)
    path, _, secret = good.rpartition("=")
    place, _, _ = good.partition("?")
    expected = {
        "no session": (f"{place}?ticket={secret}", 400),
        "malformed session": (f"{place}?session_id=1&ticket={secret}", 400),
        "two tickets": (f"{good}&ticket={secret}", 400),
        "no ticket": (path.rpartition("&")[0], 401),
        "a wrong one": (f"{path}={'x' * 43}", 401),
        "a long one": (f"{path}={'x' * 5000}", 401),
        "a collab token": (f"{place}?session_id={uuid4()}&token={collab}", 401),
        "another diagram": (good.replace(str(diagram), str(other)), 403),
        "now used up": (good, 401),
        "another session": (elsewhere.replace("session_id=", "session_id=0&x=", 1), 400),
        "a strange session": (elsewhere.replace("session_id=", f"session_id={uuid4()}&x="), 403),
        "a ticket at /collab": (f"/collab/{diagram}?ticket={secret}", 401),
    }
    noted: list[tuple[str, str]] = []
    service.live.use_refused(lambda path, why: noted.append((path, why)))
    found = {name: (await ask(service, path)).status for name, (path, _) in expected.items()}
    # The audit is told of each, and of no secret.
    assert len([status for _, status in expected.values() if status in (401, 403)]) == len(noted)
    assert not [path for path, why in noted if secret in path + why or "?" in path]
    assert {name: status for name, (_, status) in expected.items()} == found


async def test_a_ticket_is_no_better_than_the_sign_in_the_role_and_the_time_behind_it(
    service: LiveService,
) -> None:
    diagram = await service.diagram(bob=Role.WRITER)
    assert 401 == (await ask(service, await service.ticket("bob", diagram, timedelta(seconds=-1)))).status
    path = await service.ticket("bob", diagram)
    await service.set_roles(diagram)
    assert 403 == (await ask(service, path)).status
    path = await service.ticket("alice", diagram)
    service.store.sign_ins[service.people["alice"].sign_in].ended = True
    assert 401 == (await ask(service, path)).status


async def test_a_page_of_another_origin_does_not_even_use_the_ticket_up(service: LiveService) -> None:
    path = await service.ticket("alice", await service.diagram())
    assert 403 == (await ask(service, path, {"Origin": "https://evil.example"})).status
    assert 101 == (await ask(service, path)).status


async def test_the_end_of_a_session_closes_the_sockets_of_its_tickets_alone(service: LiveService) -> None:
    diagram = await service.diagram()
    model = service.store.diagrams[diagram].threat_model_id
    collab = f"/collab/{diagram}?token={await service.token('alice', diagram)}"
    async with (
        upgraded(service.port, await service.ticket("alice", diagram)) as raw,
        upgraded(service.port, collab),
    ):
        session = await MemoryCollaborations(service.store).of_diagram(model, diagram)
        assert session is not None
        await service.rooms.rights.collaboration_ended(session.id)
        assert 4410 == (await raw.receive_close()).close_code
        assert 1 == service.rooms.sessions


async def test_a_plain_request_is_told_to_upgrade(service: LiveService) -> None:
    diagram = await service.diagram()
    model = service.store.diagrams[diagram].threat_model_id
    async with connected(service.port) as raw:
        raw.send(f"GET /threat_models/{model}/diagrams/{diagram}/ws HTTP/1.1\r\nHost: t\r\n\r\n".encode())
        assert 426 == (await raw.answer()).status
