"""Webhooks over REST: what is taken, what is shown, and how much somebody may have."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import pytest

from persistence.memory.outbox import MemoryOutbox
from persistence.memory.store import MemoryStore
from tests.rest import ADMINISTRATOR, OPTIONS, Answer, RestClient, over_memory
from tmi.domain.webhooks import EVENT_TYPES, Outcome, WebhookLimits

SUBSCRIPTIONS = "/admin/webhooks/subscriptions"
DELIVERIES = "/admin/webhooks/deliveries"
HOOK = {"name": "Ours", "url": "https://hooks.example.org/tmi", "events": ["threat_model.created"]}
LIMITS = WebhookLimits(subscriptions=2, events_per_min=9, requests_per_min=6, requests_per_day=8)


@dataclass(slots=True)
class Office:
    """An administrator."""

    rest: RestClient
    store: MemoryStore
    admin: str

    async def call(self, method: str, path: str, body: Any = ...) -> Answer:
        return await self.rest.call(method, path, self.admin, json_body=body)

    async def subscribe(self, **fields: Any) -> Answer:
        return await self.call("POST", SUBSCRIPTIONS, HOOK | fields)

    async def active(self, **fields: Any) -> str:
        made = await self.subscribe(**fields)
        outbox = MemoryOutbox(self.store)
        for challenge in await outbox.take_challenges(9, 60):
            await outbox.settle_challenge(challenge, Outcome())
        return str(made.json["id"])


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    store = MemoryStore()
    async with over_memory(replace(OPTIONS, webhook_limits=LIMITS), store) as rest:
        yield Office(rest, store, await rest.sign_in(ADMINISTRATOR))


async def test_what_is_subscribed_to_is_shown_without_its_secret(office: Office) -> None:
    made = await office.subscribe(events=["note.deleted", "asset.created", "note.deleted"], secret="s" * 16)
    assert 201 == made.status
    shown = made.json
    assert "s" * 16 == shown.pop("secret")
    assert {
        "owner_id": await office.rest.user_id(ADMINISTRATOR),
        "name": "Ours",
        "url": HOOK["url"],
        "events": ["asset.created", "note.deleted"],
        "status": "pending_verification",
        "challenges_sent": 0,
        "publication_failures": 0,
    } == {name: value for name, value in shown.items() if name not in ("id", "created_at", "modified_at")}
    assert shown == (await office.call("GET", f"{SUBSCRIPTIONS}/{shown['id']}")).json
    listed = (await office.call("GET", SUBSCRIPTIONS)).json
    assert {"subscriptions": [shown], "total": 1, "limit": 20, "offset": 0} == listed
    assert [204, 404] == [
        (await office.call("DELETE", f"{SUBSCRIPTIONS}/{shown['id']}")).status for _ in range(2)
    ]


async def test_every_event_type_of_the_contract_may_be_subscribed_to(office: Office) -> None:
    made = await office.subscribe(events=sorted(EVENT_TYPES))
    assert sorted(EVENT_TYPES) == made.json["events"]
    assert 34 == len(EVENT_TYPES)


REFUSED: tuple[dict[str, Any], ...] = (
    {"name": ""},
    {"name": "n" * 256},
    {"name": "a\nb"},
    {"url": ""},
    {"url": "https://" + "a" * 1020 + ".org"},
    {"events": []},
    {"events": ["threat_model.created"] * 51},
    {"events": ["threat_model.*"]},
    {"events": ["nothing.happened"]},
    {"secret": "short"},
    {"secret": "s" * 129},
    {"threat_model_id": "1"},
    {"threat_model_id": str(uuid4())},
    {"owner_id": str(uuid4())},
)


async def test_what_is_no_subscription_is_refused() -> None:
    patient = WebhookLimits(requests_per_min=1000, requests_per_day=1000)
    store = MemoryStore()
    async with over_memory(replace(OPTIONS, webhook_limits=patient), store) as rest:
        office = Office(rest, store, await rest.sign_in(ADMINISTRATOR))
        for fields in REFUSED:
            answer = await office.subscribe(**fields)
            assert (400, "invalid_input", fields) == (answer.status, answer.json["error"], fields)
        assert {} == store.hooks.webhooks


async def test_subscriptions_are_listed_by_threat_model(office: Office) -> None:
    model = await office.rest.create_model(office.admin)
    one = (await office.subscribe(threat_model_id=model["id"])).json
    await office.subscribe(threat_model_id="")
    listed = (await office.call("GET", f"{SUBSCRIPTIONS}?threat_model_id={model['id']}")).json
    assert ([one["id"]], 1, model["id"]) == (
        [hook["id"] for hook in listed["subscriptions"]], listed["total"], one["threat_model_id"],
    )  # fmt: skip
    assert 2 == (await office.call("GET", f"{SUBSCRIPTIONS}?limit=1")).json["total"]


async def test_who_has_as_many_as_allowed_gets_no_more(office: Office) -> None:
    answers = [await office.subscribe() for _ in range(3)]
    assert [201, 201, 403] == [answer.status for answer in answers]
    assert ("quota_exceeded", {"quota": "max_subscriptions", "limit": 2}) == (
        answers[2].json["error"], answers[2].json["details"]["context"],
    )  # fmt: skip


async def test_who_makes_and_tests_too_often_has_to_wait(office: Office) -> None:
    hook = await office.active()
    statuses = [(await office.call("POST", f"{SUBSCRIPTIONS}/{hook}/test", {})).status for _ in range(5)]
    refused = await office.call("POST", f"{SUBSCRIPTIONS}/{hook}/test", {})
    if 429 != refused.status:  # a minute ended
        assert 429 in [
            (await office.call("POST", f"{SUBSCRIPTIONS}/{hook}/test", {})).status for _ in range(5)
        ]
    assert [202] * 5 == statuses
    assert 200 == (await office.call("GET", SUBSCRIPTIONS)).status


async def test_a_test_of_what_is_no_event_is_refused(office: Office) -> None:
    hook = await office.active()
    bodies: list[Any] = [{"event_type": "nothing"}, {"event_type": "addon.invoked"}, {"more": 1}, []]
    for body in bodies:
        assert 400 == (await office.call("POST", f"{SUBSCRIPTIONS}/{hook}/test", body)).status
    assert {} == office.store.hooks.deliveries


async def test_a_delivery_is_shown_with_what_is_sent(office: Office) -> None:
    hook = await office.active()
    model = await office.rest.create_model(office.admin)
    listed = (await office.call("GET", DELIVERIES)).json
    (shown,) = listed["deliveries"]
    assert (1, hook, "threat_model.created", "pending", 0, 0, model["id"]) == (
        listed["total"], shown["subscription_id"], shown["event_type"], shown["status"], shown["attempts"],
        shown["status_percent"], shown["payload"]["resource_id"],
    )  # fmt: skip
    assert shown == (await office.call("GET", f"{DELIVERIES}/{shown['id']}")).json
    assert 404 == (await office.call("GET", f"{DELIVERIES}/{uuid4()}")).status
    assert 0 == (await office.call("GET", f"{DELIVERIES}?subscription_id={uuid4()}")).json["total"]


async def test_what_is_done_is_in_the_audit(office: Office) -> None:
    hook = await office.active()
    await office.call("POST", f"{SUBSCRIPTIONS}/{hook}/test", {})
    await office.call("DELETE", f"{SUBSCRIPTIONS}/{hook}")
    user = await office.rest.user_id(ADMINISTRATOR)
    await office.call("PUT", f"/admin/quotas/webhooks/{user}", QUOTA)
    await office.call("DELETE", f"/admin/quotas/webhooks/{user}")
    entries = (await office.call("GET", "/admin/audit/system?limit=9")).json["entries"]
    told = [entry["field_path"] for entry in entries]
    assert {"webhook.created", "webhook.tested", "webhook.deleted"} <= {*told}
    assert {"webhook_quota.changed", "webhook_quota.removed"} <= {*told}


QUOTA = {
    "max_subscriptions": 1,
    "max_events_per_minute": 60,
    "max_subscription_requests_per_minute": 5,
    "max_subscription_requests_per_day": 50,
}
DEFAULTS = {
    "max_subscriptions": 2,
    "max_events_per_minute": 9,
    "max_subscription_requests_per_minute": 6,
    "max_subscription_requests_per_day": 8,
}


async def test_a_quota_is_created_changed_listed_and_taken_back(office: Office) -> None:
    user = await office.rest.user_id(ADMINISTRATOR)
    path = f"/admin/quotas/webhooks/{user}"
    assert {"owner_id": user, **DEFAULTS} == (await office.call("GET", path)).json
    made = await office.call("PUT", path, QUOTA)
    assert (201, QUOTA) == (made.status, {name: made.json[name] for name in QUOTA})
    changed = await office.call("PUT", path, QUOTA | {"max_events_per_minute": 61})
    assert (200, 61) == (changed.status, changed.json["max_events_per_minute"])
    listed = (await office.call("GET", "/admin/quotas/webhooks?limit=5")).json
    assert ([changed.json], 1, DEFAULTS) == (listed["quotas"], listed["total"], listed["defaults"])
    assert [201, 403] == [(await office.subscribe()).status for _ in range(2)]
    assert [204, 404] == [(await office.call("DELETE", path)).status for _ in range(2)]
    assert 201 == (await office.subscribe()).status


OUT_OF_BOUNDS: tuple[dict[str, Any], ...] = (
    {"max_subscriptions": 0},
    {"max_subscriptions": 101},
    {"max_events_per_minute": 1001},
    {"max_subscription_requests_per_minute": 101},
    {"max_subscription_requests_per_day": 10_001},
    {"max_subscriptions": None},
    {"max_subscriptions": "1"},
    {"owner_id": str(uuid4())},
)


async def test_a_quota_out_of_bounds_is_refused(office: Office) -> None:
    user = await office.rest.user_id(ADMINISTRATOR)
    for changed in OUT_OF_BOUNDS:
        answer = await office.call("PUT", f"/admin/quotas/webhooks/{user}", QUOTA | changed)
        assert (400, "invalid_input", changed) == (answer.status, answer.json["error"], changed)
    assert {} == office.store.hooks.quotas


async def test_the_document_tells_receivers_what_they_are_sent_and_that_a_test_needs_no_body(
    office: Office,
) -> None:
    document = (await office.rest.call("GET", "/openapi.json")).json
    assert {"event", "challenge"} == document["webhooks"].keys()
    sent = document["webhooks"]["event"]["post"]
    assert {"webhook-id", "webhook-timestamp", "webhook-signature"} <= {
        one["name"] for one in sent["parameters"]
    }
    named = sent["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert EVENT_TYPES == {*document["components"]["schemas"][named]["properties"]["event_type"]["enum"]}
    paths = document["paths"]
    assert not paths["/admin/webhooks/subscriptions/{webhook_id}/test"]["post"]["requestBody"]["required"]
    assert paths["/admin/webhooks/subscriptions"]["post"]["requestBody"]["required"]
