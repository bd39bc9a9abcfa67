"""How soon what happens on one node reaches sockets of the other: two services over one database."""

import math
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from tests.faults.conftest import OwnPostgres
from tests.harness.raw_websocket import upgraded
from tests.harness.rest import Person, Place, Rest, user
from tests.harness.service import ADMINISTRATOR, Service, running
from tests.integration.test_live_hocuspocus import READ_ONLY, READ_WRITE, Provider

ROUNDS = int(os.environ.get("TMI_REVOCATION_ROUNDS", "5"))
REACH_S = 1.0
OPS = "revoked"


class Crowd:
    """Alice and the administrator at node `a`; others at both nodes."""

    def __init__(self, rest: Rest, other: Rest, ports: tuple[int, int]) -> None:
        self.rest = rest
        self.other = other
        self.ports = ports
        self.alice: Person
        self.admin: Person
        self.group: str

    async def prepare(self) -> None:
        self.alice, self.admin = await self.rest.sign_in("alice"), await self.rest.sign_in(ADMINISTRATOR)
        body = {"group_name": OPS, "name": OPS}
        self.group = (await self.call("POST", "/admin/groups", self.admin, body)).json()["internal_uuid"]

    async def call(
        self, method: str, path: str, person: Person, body: object = None, rest: Rest | None = None
    ) -> httpx.Response:
        http = (rest or self.rest).http
        answer = await http.request(method, path, json=body, headers=person.headers)
        assert answer.is_success, (method, path, answer.status_code, answer.text)
        return answer

    async def id_of(self, person: Person) -> str:
        found = await self.call("GET", f"/admin/users?email={person.name}@", self.admin)
        return str(found.json()["users"][0]["internal_uuid"])

    async def path(self, person: Person, place: Place) -> str:
        return f"/collab/{place.diagram}?token={await self.rest.collab_token(person, place.diagram)}"


Change = Callable[[Crowd, Place, Person], Awaitable[None]]


async def off_the_list(crowd: Crowd, place: Place, bob: Person) -> None:
    await crowd.rest.set_role(crowd.alice, place.model, bob.name, None)


async def out_of_the_group(crowd: Crowd, _place: Place, bob: Person) -> None:
    await crowd.call("DELETE", f"/admin/groups/{crowd.group}/members/{await crowd.id_of(bob)}", crowd.admin)


async def account_deleted(crowd: Crowd, _place: Place, bob: Person) -> None:
    await crowd.call("DELETE", f"/admin/users/{await crowd.id_of(bob)}", crowd.admin)


async def diagram_deleted(crowd: Crowd, place: Place, _bob: Person) -> None:
    await crowd.rest.delete_diagram(crowd.alice, place)


async def session_ended(crowd: Crowd, place: Place, _bob: Person) -> None:
    path = f"/threat_models/{place.model}/diagrams/{place.diagram}/collaborate"
    await crowd.call("DELETE", path, crowd.alice)


async def logged_out(crowd: Crowd, _place: Place, bob: Person) -> None:
    await crowd.call("POST", "/me/logout", bob)


async def token_reused(crowd: Crowd, _place: Place, bob: Person) -> None:
    """Bob's refresh token is used, and then by a thief."""
    body = {"grant_type": "refresh_token", "refresh_token": bob.refresh_token}
    answers = [await crowd.rest.http.post("/oauth2/token", json=body) for _ in range(2)]
    assert [200, 400] == [answer.status_code for answer in answers]


async def token_revoked(crowd: Crowd, _place: Place, bob: Person) -> None:
    await crowd.call("POST", "/oauth2/revoke", bob, {"token": bob.refresh_token})


async def ended_from_elsewhere(crowd: Crowd, _place: Place, bob: Person) -> None:
    await crowd.call("DELETE", "/me/sign_ins", await crowd.rest.sign_in(bob.name))


async def credential_deleted(crowd: Crowd, _place: Place, bob: Person) -> None:
    """Bob is a program here: its refresh token is the id of its credential, and who it is."""
    key = bob.refresh_token
    await crowd.call("DELETE", f"/me/client_credentials/{key}", await crowd.rest.sign_in(bob.name))


ENDS_SIGN_IN = (logged_out, token_reused, token_revoked, ended_from_elsewhere, credential_deleted)

CASES: dict[str, tuple[Change, int]] = {
    "a logout": (logged_out, 4401),
    "a refresh token used twice": (token_reused, 4401),
    "a revoked token": (token_revoked, 4401),
    "the end of all other sign-ins": (ended_from_elsewhere, 4401),
    "the deletion of a client credential": (credential_deleted, 4401),
    "a removal from the list": (off_the_list, 4403),
    "a removal from a group": (out_of_the_group, 4403),
    "the deletion of an account": (account_deleted, 4403),
    "the deletion of a diagram": (diagram_deleted, 4404),
    "the end of a session": (session_ended, 4410),
}


@pytest.fixture
async def crowd(tmp_path: Path, valkey_url: str, own_postgres: OwnPostgres) -> AsyncIterator[Crowd]:
    environment = {
        "TMI_REDIS_URL": valkey_url,
        "TMI_CLIENT_CREDENTIALS_FOR_ALL": "true",
        "TMI_SIGN_IN_REQUESTS_PER_MIN": "0",
    }
    a, b = [Service(tmp_path / name, environment, own_postgres.url) for name in "ab"]
    with running(a, b):
        async with Rest(a.url) as rest, Rest(b.url) as other:
            made = Crowd(rest, other, (a.port, b.port))
            await made.prepare()
            yield made


async def test_what_happens_on_one_node_reaches_sockets_of_the_other_within_a_second(crowd: Crowd) -> None:
    took: dict[str, list[float]] = {name: [] for name in CASES}
    for number in range(ROUNDS):
        for name, (change, code) in CASES.items():
            # The room is owned by either node in turn.
            took[name].append(await one_round(crowd, change, code, f"bob{number}", number % 2 == 0))
    every = sorted(seconds for times in took.values() for seconds in times)
    for name, times in took.items():
        print(f"{name}: {max(times) * 1000:.0f} ms at most")
    p99 = every[math.ceil(0.99 * len(every)) - 1]
    print(f"all {len(every)}: median {every[len(every) // 2] * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms")
    assert p99 <= REACH_S


async def one_round(crowd: Crowd, change: Change, code: int, name: str, a_owns: bool) -> float:
    """Seconds from the request to the Close frame at node `b`."""
    bob = await crowd.rest.sign_in(name)
    entry = {**user(OPS, "writer"), "principal_type": "group", "provider_id": OPS}
    del entry["email"]
    named = change is not out_of_the_group
    place = await crowd.rest.create_place(crowd.alice, user(name, "writer") if named else entry)
    if not named:
        body = {"user_internal_uuid": await crowd.id_of(bob)}
        await crowd.call("POST", f"/admin/groups/{crowd.group}/members", crowd.admin, body)
    if change is credential_deleted:
        bob = await as_program(crowd, bob)
    if change is session_ended:
        target = await ticket_path(crowd, place, bob)
    else:
        target = await crowd.path(bob, place)
    first = crowd.ports[0] if a_owns else crowd.ports[1]
    async with (
        upgraded(first, await crowd.path(crowd.alice, place)),
        upgraded(crowd.ports[1], target) as raw,
    ):
        # The token is known at the other node before it is worth nothing.
        await crowd.call("GET", "/me", bob, rest=crowd.other)
        began = time.monotonic()
        await change(crowd, place, bob)
        closed = await raw.receive_close_only()
        # The sign-in goes with the account: either may be seen first.
        assert closed.close_code in ({code, 4401} if change is account_deleted else {code})
        took = time.monotonic() - began
        if change in ENDS_SIGN_IN:
            took = max(took, await refused_since(crowd.other, bob, began))
        return took


async def refused_since(rest: Rest, person: Person, began: float) -> float:
    """Seconds from a moment until a node refuses a person's token."""
    while (await rest.http.get("/me", headers=person.headers)).status_code != 401:
        assert time.monotonic() - began < 10
    return time.monotonic() - began


async def as_program(crowd: Crowd, person: Person) -> Person:
    """The same user by a client credential, whose id is its refresh token here."""
    made = (await crowd.call("POST", "/me/client_credentials", person, {"name": "ci"})).json()
    pair = (made["client_id"], made["client_secret"])
    form = {"grant_type": "client_credentials"}
    answer = await crowd.other.http.post("/oauth2/token", data=form, auth=pair)
    return Person(person.name, answer.raise_for_status().json()["access_token"], made["id"])


async def ticket_path(crowd: Crowd, place: Place, bob: Person) -> str:
    """By a session begun at one node, with a ticket of the other."""
    path = f"/threat_models/{place.model}/diagrams/{place.diagram}/collaborate"
    session = (await crowd.call("POST", path, crowd.alice)).json()
    key = session["session_id"]
    ticket = (await crowd.call("GET", f"/ws/ticket?session_id={key}", bob, rest=crowd.other)).json()["ticket"]
    return f"{urlsplit(session['websocket_url']).path}?session_id={key}&ticket={ticket}"


async def test_the_end_of_a_sign_in_by_time_closes_its_sockets_within_a_second(
    crowd: Crowd, own_postgres: OwnPostgres
) -> None:
    bob = await crowd.rest.sign_in("bob")
    place = await crowd.rest.create_place(crowd.alice, user("bob", "writer"))
    target = await crowd.path(bob, place)
    database = await asyncpg.connect(own_postgres.admin_url)
    await database.execute(SHORTEN, "bob@tmi.local")
    await database.close()
    async with (
        upgraded(crowd.ports[0], await crowd.path(crowd.alice, place)),
        upgraded(crowd.ports[1], target) as raw,
    ):
        began = time.monotonic()
        assert 4401 == (await raw.receive_close_only()).close_code
        assert 1 < time.monotonic() - began < 2 + REACH_S


SHORTEN = """
UPDATE sign_ins s SET expires_at = now() + interval '2 seconds'
FROM users u WHERE u.id = s.user_id AND u.provider_id = $1
"""


async def test_participants_of_a_session_are_the_same_from_both_nodes(crowd: Crowd) -> None:
    bob = await crowd.rest.sign_in("bob")
    place = await crowd.rest.create_place(crowd.alice, user("bob", "reader"))
    target = await ticket_path(crowd, place, bob)
    path = f"/threat_models/{place.model}/diagrams/{place.diagram}/collaborate"
    async with (
        upgraded(crowd.ports[0], await crowd.path(crowd.alice, place)),
        upgraded(crowd.ports[1], target),
    ):
        shown = [
            (await crowd.call("GET", path, bob, rest=rest)).json() for rest in (crowd.rest, crowd.other)
        ]
    expected = [("alice@tmi.local", "writer"), ("bob@tmi.local", "reader")]
    for body in shown:
        assert expected == [(p["user"]["email"], p["permissions"]) for p in body["participants"]]
        assert "alice@tmi.local" == body["host"]["email"]


async def test_documents_of_the_other_node_follow_a_demotion_and_a_logout_within_a_second(
    crowd: Crowd,
) -> None:
    took: dict[str, list[float]] = {"a demotion": [], "a logout": []}
    for number in range(ROUNDS):
        bob = await crowd.rest.sign_in(f"bert{number}")
        place = await crowd.rest.create_place(crowd.alice, user(bob.name, "writer"))
        token = await crowd.rest.collab_token(bob, place.diagram)
        async with (
            upgraded(crowd.ports[number % 2], await crowd.path(crowd.alice, place)),
            upgraded(crowd.ports[1], "/collab") as raw,
        ):
            document = Provider(raw, place.diagram)
            document.authenticate(token)
            assert READ_WRITE == await document.access()
            began = time.monotonic()
            await crowd.rest.set_role(crowd.alice, place.model, bob.name, "reader")
            assert READ_ONLY == await document.access()
            took["a demotion"].append(time.monotonic() - began)
            began = time.monotonic()
            await logged_out(crowd, place, bob)
            assert (await document.receive(0x02)).startswith(b"\x02\x01")
            took["a logout"].append(time.monotonic() - began)
    for name, times in took.items():
        print(f"{name}, Hocuspocus: {max(times) * 1000:.0f} ms at most")
        assert max(times) <= REACH_S


BY_HAND = {
    "the end of a sign-in": (
        "UPDATE sign_ins s SET ended_at = now() FROM users u WHERE u.id = s.user_id AND u.provider_id = $1",
        4401,
    ),
    "a removal from the list": ("DELETE FROM grants WHERE provider_id = $1", 4403),
    "a removal from the group": (
        "DELETE FROM group_members m USING users u WHERE u.id = m.user_id AND u.provider_id = $1",
        4403,
    ),
}
"""What a node leaves that was killed right after its commit: nobody but the database can tell of it."""

CUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT 1' OR query LIKE 'LISTEN%'
"""
"""Ends the connections over which nodes hear."""


@pytest.mark.parametrize("cut", [False, True], ids=["heard", "while-nobody-hears"])
async def test_a_change_that_nobody_lives_to_tell_of_reaches_every_node_within_a_second(
    crowd: Crowd, own_postgres: OwnPostgres, cut: bool
) -> None:
    database = await asyncpg.connect(own_postgres.admin_url)
    try:
        for number, (name, (statement, code)) in enumerate(BY_HAND.items()):
            bob = await crowd.rest.sign_in(f"bob-{number}")
            entry = user(bob.name, "writer")
            if code == 4403 and "group" in name:
                entry = {**user(OPS, "writer"), "principal_type": "group", "provider_id": OPS}
                del entry["email"]
                body = {"user_internal_uuid": await crowd.id_of(bob)}
                await crowd.call("POST", f"/admin/groups/{crowd.group}/members", crowd.admin, body)
            place = await crowd.rest.create_place(crowd.alice, entry)
            path = await crowd.path(bob, place)
            async with upgraded(crowd.ports[0], path) as one, upgraded(crowd.ports[1], path) as other:
                for rest in (crowd.rest, crowd.other):
                    await crowd.call("GET", "/me", bob, rest=rest)
                began = time.monotonic()
                async with database.transaction():
                    if cut:
                        assert 1 <= len(await database.fetch(CUT))
                    await database.execute(statement, f"{bob.name}@tmi.local")
                for raw in (one, other):
                    assert code == (await raw.receive_close_only()).close_code
                took = time.monotonic() - began
                if code == 4401:
                    for rest in (crowd.rest, crowd.other):
                        took = max(took, await refused_since(rest, bob, began))
            print(f"{name}, by hand: {took * 1000:.0f} ms")
            assert took <= REACH_S, name
    finally:
        await database.close()
