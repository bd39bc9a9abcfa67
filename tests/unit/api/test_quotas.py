"""Quotas over REST, and what a client is told who has reached one."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.rest import ADMINISTRATOR, Answer, RestClient, given, over_memory
from tmi.domain.ids import DiagramId, Seq, UserId
from tmi.domain.ports import LoggedUpdate, Origin, RoomBatch

MODEL = {"name": "Shop"}
DIAGRAM = {"name": "Flow", "type": "DFD-1.0.0"}


@dataclass(frozen=True, slots=True)
class Office:
    """An administrator and a user, alice."""

    rest: RestClient
    admin: str
    alice: str
    alice_id: str

    async def call(self, method: str, path: str, token: str | None = None, body: Any = ...) -> Answer:
        return await self.rest.call(method, path, token or self.admin, json_body=body)

    async def quota(self, **values: int) -> Answer:
        body = {"max_requests_per_minute": 1000} | values
        return await self.call("PUT", f"/admin/quotas/users/{self.alice_id}", body=body)


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    async with over_memory(given=given(user_threat_models_max=3, user_requests_per_min=1000)) as rest:
        admin, alice = await rest.sign_in(ADMINISTRATOR), await rest.sign_in("alice")
        yield Office(rest, admin, alice, await rest.user_id("alice"))


async def test_without_a_word_of_an_administrator_the_limits_of_everybody_are_shown(office: Office) -> None:
    await office.call("POST", "/threat_models", office.alice, MODEL)
    shown = (await office.call("GET", f"/admin/quotas/users/{office.alice_id}")).json
    assert {
        "user_id": office.alice_id,
        "max_requests_per_minute": 1000,
        "max_threat_models": 3,
        "max_diagrams": 0,
        "max_stored_bytes": 0,
        "max_connections": 0,
        "is_default": True,
        "usage": {"threat_models": 1, "diagrams": 0, "stored_bytes": 0},
    } == {name: value for name, value in shown.items() if not name.endswith("_at")}


async def test_a_quota_is_created_changed_listed_and_taken_back(office: Office) -> None:
    made = await office.quota(max_diagrams=7, max_requests_per_hour=5000)
    assert (201, 7, 5000, 3, False) == (
        made.status, made.json["max_diagrams"], made.json["max_requests_per_hour"],
        made.json["max_threat_models"], made.json["is_default"],
    )  # fmt: skip
    changed = await office.quota(max_diagrams=8)
    assert (200, 8) == (changed.status, changed.json["max_diagrams"])
    assert "max_requests_per_hour" not in changed.json
    listed = (await office.call("GET", "/admin/quotas/users?limit=5")).json
    assert ([8], 1, 5, 0) == (
        [quota["max_diagrams"] for quota in listed["quotas"]],
        listed["total"],
        listed["limit"],
        listed["offset"],
    )
    assert {"max_requests_per_minute": 1000, "max_requests_per_hour": 0} == listed["defaults"]
    path = f"/admin/quotas/users/{office.alice_id}"
    assert [204, 404] == [(await office.call("DELETE", path)).status for _ in range(2)]
    assert (await office.call("GET", path)).json["is_default"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"max_requests_per_minute": 0},
        {"max_requests_per_minute": 10_001},
        {"max_requests_per_minute": "5"},
        {"max_requests_per_minute": 5, "max_requests_per_hour": 600_001},
        {"max_requests_per_minute": 5, "max_diagrams": -1},
        {"max_requests_per_minute": 5, "max_diagrams": 2**53},
        {"max_requests_per_minute": 5, "user_id": str(uuid4())},
    ],
)
async def test_a_quota_out_of_bounds_is_refused(office: Office, body: dict[str, Any]) -> None:
    answer = await office.call("PUT", f"/admin/quotas/users/{office.alice_id}", body=body)
    assert (400, "invalid_input") == (answer.status, answer.json["error"])


async def test_who_has_reached_a_quota_is_told_which_and_what_to_do(office: Office) -> None:
    for _ in range(3):
        assert 201 == (await office.call("POST", "/threat_models", office.alice, MODEL)).status
    refused = await office.call("POST", "/threat_models", office.alice, MODEL)
    assert (403, "quota_exceeded") == (refused.status, refused.json["error"])
    assert "threat models as allowed: 3" in refused.json["error_description"]
    details = refused.json["details"]
    assert ("quota_exceeded", {"quota": "threat_models", "limit": 3}) == (details["code"], details["context"])
    assert "administrator" in details["suggestion"]
    assert 201 == (await office.call("POST", "/threat_models", office.admin, MODEL)).status

    await office.quota(max_threat_models=0, max_diagrams=1)
    model = (await office.call("POST", "/threat_models", office.alice, MODEL)).json["id"]
    path = f"/threat_models/{model}/diagrams"
    assert 201 == (await office.call("POST", path, office.alice, DIAGRAM)).status
    assert 403 == (await office.call("POST", path, office.alice, DIAGRAM)).status


async def test_a_writer_uses_up_the_quota_of_who_is_charged_and_not_their_own(office: Office) -> None:
    grant = {"principal_type": "user", "provider": "tmi", "provider_id": "bob@tmi.local", "role": "writer"}
    bob = await office.rest.sign_in("bob")
    body = MODEL | {"authorization": [grant]}
    model = (await office.call("POST", "/threat_models", office.alice, body)).json["id"]
    await office.quota(max_diagrams=1)
    path = f"/threat_models/{model}/diagrams"
    assert [201, 403] == [(await office.call("POST", path, bob, DIAGRAM)).status for _ in range(2)]
    bob_id = UserId(UUID(await office.rest.user_id("bob")))
    assert 0 == (await office.rest.services.storage.usage(bob_id)).diagrams


async def test_a_threat_model_of_no_room_left_takes_no_more_diagrams(office: Office) -> None:
    model = (await office.call("POST", "/threat_models", office.alice, MODEL)).json["id"]
    path = f"/threat_models/{model}/diagrams"
    diagram = DiagramId(UUID((await office.call("POST", path, office.alice, DIAGRAM)).json["id"]))
    await filled(office, diagram)
    await office.quota(max_stored_bytes=109)
    refused = await office.call("POST", path, office.alice, DIAGRAM)
    assert (413, "quota_exceeded", "stored_bytes") == (
        refused.status, refused.json["error"], refused.json["details"]["context"]["quota"],
    )  # fmt: skip
    await office.quota(max_stored_bytes=110)
    assert 201 == (await office.call("POST", path, office.alice, DIAGRAM)).status


async def test_where_no_room_is_left_nothing_is_added_and_anything_deleted(office: Office) -> None:
    model = (await office.call("POST", "/threat_models", office.alice, MODEL)).json["id"]
    path = f"/threat_models/{model}"
    diagram = (await office.call("POST", f"{path}/diagrams", office.alice, DIAGRAM)).json["id"]
    await filled(office, DiagramId(UUID(diagram)))
    await office.quota(max_stored_bytes=109)
    room = office.rest.services.room
    assert await room.refresh()
    rename = [{"op": "replace", "path": "/name", "value": "New"}]
    refused = await office.rest.patch(office.alice, model, *rename)
    assert (413, "quota_exceeded", 109) == (
        refused.status, refused.json["error"], refused.json["details"]["context"]["limit"],
    )  # fmt: skip
    assert 200 == (await office.call("GET", path, office.alice)).status
    bob = await office.rest.sign_in("bob")
    assert 403 == (await office.rest.patch(bob, model, *rename)).status
    assert 204 == (await office.call("DELETE", f"{path}/diagrams/{diagram}", office.alice)).status


async def filled(office: Office, diagram: DiagramId) -> None:
    """Let a diagram take 110 bytes."""
    log = office.rest.services.rooms._opening._store
    fence = await log.claim(diagram, "test")
    update = LoggedUpdate(Seq(1), None, Origin.SERVER, bytes(10))
    await log.append([RoomBatch(diagram, fence, (update,))])
    await log.save_snapshot(diagram, fence, Seq(1), bytes(100))


async def test_a_users_own_rate_holds_at_once(office: Office) -> None:
    await office.call("GET", "/threat_models", office.alice)
    await office.call("PUT", f"/admin/quotas/users/{office.alice_id}", body={"max_requests_per_minute": 2})
    statuses = [(await office.call("GET", "/threat_models", office.alice)).status for _ in range(4)]
    assert 429 == statuses[-1]
    assert 200 == (await office.call("GET", "/threat_models", office.admin)).status


async def test_fifty_creations_at_once_never_pass_the_quota(office: Office) -> None:
    answers = await asyncio.gather(
        *(office.call("POST", "/threat_models", office.alice, MODEL) for _ in range(50))
    )
    assert {201: 3, 403: 47} == {
        status: sum(answer.status == status for answer in answers) for status in (201, 403)
    }
