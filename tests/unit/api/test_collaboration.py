"""Collaboration sessions over REST."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from persistence.memory.store import MemoryStore
from tests.rest import RestClient, over_memory, user_grant
from tests.unit.api.test_rooms import joined
from tmi.domain.roles import Role


@pytest.fixture
async def rest() -> AsyncIterator[RestClient]:
    async with over_memory() as client:
        yield client


async def place(rest: RestClient) -> tuple[str, str, str]:
    """A diagram of alice's, which bob may edit and carol watch: its path, its id, and alice's token."""
    alice = await rest.sign_in("alice")
    model = await rest.create_model(alice, user_grant("bob", "writer"), user_grant("carol", "reader"))
    diagram = (await rest.create_diagram(alice, model["id"]))["id"]
    return f"/threat_models/{model['id']}/diagrams/{diagram}/collaborate", diagram, alice


def people(body: Any) -> list[tuple[str, str]]:
    return [(p["user"]["email"], p["permissions"]) for p in body["participants"]]


async def test_a_session_is_begun_once_and_shown_to_all_who_may_watch(rest: RestClient) -> None:
    path, diagram, alice = await place(rest)
    carol = await rest.sign_in("carol")
    assert 404 == (await rest.call("GET", path, carol)).status
    assert 404 == (await rest.call("DELETE", path, alice)).status
    begun = await rest.call("POST", path, alice, headers={"Host": "tmi.example.org"})
    assert 201 == begun.status
    again = await rest.call("POST", path, carol, headers={"Host": "tmi.example.org"})
    assert (200, begun.json) == (again.status, again.json)
    shown = begun.json
    assert (diagram, "Flow", "Shop", "alice@tmi.local", []) == (
        shown["diagram_id"],
        shown["diagram_name"],
        shown["threat_model_name"],
        shown["host"]["email"],
        shown["participants"],
    )
    assert f"ws://tmi.example.org{path.removesuffix('collaborate')}ws" == shown["websocket_url"]


async def test_participants_are_who_has_the_diagram_open_each_once(rest: RestClient) -> None:
    path, diagram, alice = await place(rest)
    await rest.call("POST", path, alice)
    for name, role in (("bob", Role.WRITER), ("carol", Role.READER), ("bob", Role.WRITER)):
        await joined(rest, name, diagram, role)
    shown = (await rest.call("GET", path, alice)).json
    assert [("bob@tmi.local", "writer"), ("carol@tmi.local", "reader")] == people(shown)


async def test_the_role_of_host_passes_on_and_waits(rest: RestClient) -> None:
    path, diagram, alice = await place(rest)
    await rest.call("POST", path, alice)

    async def host() -> str:
        return str((await rest.call("GET", path, alice)).json["host"]["email"])

    _, hosting = await joined(rest, "alice", diagram, Role.OWNER)
    _, second = await joined(rest, "bob", diagram, Role.WRITER)
    await joined(rest, "carol", diagram, Role.READER)
    assert "alice@tmi.local" == await host()
    hosting.leave()
    assert "bob@tmi.local" == await host()
    second.leave()
    assert "carol@tmi.local" == await host()
    await joined(rest, "alice", diagram, Role.OWNER)
    assert "alice@tmi.local" == await host()


async def test_the_host_ends_a_session_whatever_their_role(rest: RestClient) -> None:
    path, _, alice = await place(rest)
    bob, carol = await rest.sign_in("bob"), await rest.sign_in("carol")
    await rest.call("POST", path, carol)
    assert 403 == (await rest.call("DELETE", path, bob)).status
    assert 204 == (await rest.call("DELETE", path, carol)).status
    assert 404 == (await rest.call("GET", path, alice)).status
    assert 201 == (await rest.call("POST", path, bob)).status
    assert 204 == (await rest.call("DELETE", path, alice)).status


async def test_a_ticket_is_for_who_may_watch_the_sessions_diagram(rest: RestClient) -> None:
    path, _, alice = await place(rest)
    session = (await rest.call("POST", path, alice)).json["session_id"]
    mallory = await rest.sign_in("mallory")
    for query, token, status in (
        (f"?session_id={session}", alice, 200),
        (f"?session_id={session}", await rest.sign_in("carol"), 200),
        (f"?session_id={session}", mallory, 404),
        (f"?session_id={session[::-1]}", alice, 400),
        ("?session_id=00000000-0000-4000-8000-000000000000", alice, 404),
        ("", alice, 400),
    ):
        answer = await rest.call("GET", f"/ws/ticket{query}", token)
        assert status == answer.status, query
    first = (await rest.call("GET", f"/ws/ticket?session_id={session}", alice)).json
    assert {"ticket"} == first.keys()
    grant = await rest.services.tickets.redeem(first["ticket"])
    claims = rest.services.tokens.verify_access(alice)
    assert grant is not None
    assert (claims.user, claims.sign_in, session) == (grant.user, grant.sign_in, str(grant.collaboration))


async def test_people_find_the_sessions_that_they_may_join(rest: RestClient) -> None:
    path, diagram, alice = await place(rest)
    begun = (await rest.call("POST", path, alice)).json
    for name, expected in (("alice", [begun]), ("carol", [begun]), ("mallory", [])):
        body = (await rest.call("GET", "/me/sessions", await rest.sign_in(name))).json
        assert {"sessions": expected, "total": len(expected)} == body
    await joined(rest, "bob", diagram, Role.WRITER)
    body = (await rest.call("GET", "/me/sessions", alice)).json
    assert [("bob@tmi.local", "writer")] == people(body["sessions"][0])


@pytest.mark.parametrize(("later_s", "is_good"), [(29, True), (31, False)])
async def test_a_ticket_lives_for_half_a_minute(later_s: int, is_good: bool) -> None:
    store = MemoryStore()
    async with over_memory(store=store) as rest:
        path, _, alice = await place(rest)
        session = (await rest.call("POST", path, alice)).json["session_id"]
        ticket = (await rest.call("GET", f"/ws/ticket?session_id={session}", alice)).json["ticket"]
        now = store.clock()
        store.clock = lambda: now + timedelta(seconds=later_s)
        assert is_good == (await rest.services.tickets.redeem(ticket) is not None)
