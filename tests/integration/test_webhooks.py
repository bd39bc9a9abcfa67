"""Webhooks end to end: a change over REST, the outbox, a call over real sockets, on both stores."""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import shutil
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from api.hooks import signing
from api.hooks.dispatcher import Dispatcher, DispatchOptions
from api.hooks.owners import Owners
from api.hooks.sender import sending
from api.schemas import WebhookEvent
from persistence.memory.outbox import MemoryOutbox
from persistence.memory.store import MemoryStore
from persistence.postgres.database import PostgresDatabase
from persistence.postgres.outbox import PostgresOutbox
from persistence.sealing import Seal
from tests.harness.endpoint import Answer, Call, Endpoint, Reply, agreeable, echoing, endpoint, until
from tests.rest import ADMINISTRATOR, OPTIONS, RestClient, over_memory, over_postgres
from tmi.domain.ports import Outbox
from tmi.domain.targets import TargetRules
from tmi.domain.webhooks import Slots, WebhookLimits

RULES = TargetRules(allow_http=True, ports=frozenset(), networks=(ip_network("127.0.0.0/8"),))
QUICK = DispatchOptions(attempts_max=3, backoff_s=0.02, timeout_s=10, poll_s=0.01, backlog_every_s=0.05)
HASTY = replace(QUICK, timeout_s=0.3)
NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Endpoints speak http here, and to load the authorities takes longer than most of these tests."""
SUBSCRIPTIONS = "/admin/webhooks/subscriptions"
SECRET = "a secret of the receiver's own"
REPLACE_NAME = {"op": "replace", "path": "/name", "value": "Other shop"}


@dataclass(slots=True)
class House:
    """An application and its outbox, an administrator, and a threat model."""

    rest: RestClient
    outbox: Outbox
    admin: str
    store: MemoryStore | None
    model: str = ""
    dispatchers: list[Dispatcher] = field(default_factory=list)

    async def call(self, method: str, path: str, body: Any = ..., status: int = 200) -> Any:
        answer = await self.rest.call(method, path, self.admin, json_body=body)
        assert status == answer.status, answer.data
        return answer.json if answer.data else None

    @asynccontextmanager
    async def dispatching(self, options: DispatchOptions = QUICK) -> AsyncIterator[Dispatcher]:
        services = self.rest.services
        owners = Owners(services.users, services.memberships, services.options.administrators)
        async with (
            sending(RULES, options.timeout_s, context=NO_AUTHORITIES) as sender,
            Dispatcher(self.outbox, sender, owners.may_own, options).running() as dispatcher,
        ):
            self.dispatchers.append(dispatcher)
            yield dispatcher

    async def subscribe(self, to: Endpoint, *events: str, **more: Any) -> Any:
        body = {"name": "Ours", "url": to.url, "events": list(events or ("threat_model.updated",)), **more}
        return await self.call("POST", SUBSCRIPTIONS, body, 201)

    async def active(self, to: Endpoint, *events: str, **more: Any) -> Any:
        """A subscription whose endpoint has answered the challenge."""
        made = await self.subscribe(to, *events, **more)
        await self.until_status(made["id"], "active")
        return made

    async def until_status(self, webhook: str, status: str) -> Any:
        return await self.until_shown(f"{SUBSCRIPTIONS}/{webhook}", status)

    async def until_shown(self, path: str, status: str, timeout_s: float = 10) -> Any:
        ends_at = time.monotonic() + timeout_s
        while (shown := await self.call("GET", path))["status"] != status:
            assert time.monotonic() < ends_at, shown
            await asyncio.sleep(0.01)
        return shown

    async def rename(self) -> None:
        answer = await self.rest.patch(self.admin, self.model, REPLACE_NAME)
        assert 200 == answer.status, answer.data

    async def log(self, webhook: str | None = None) -> Any:
        query = "" if webhook is None else f"?subscription_id={webhook}"
        return (await self.call("GET", f"/admin/webhooks/deliveries{query}"))["deliveries"]

    async def the_delivery(self, status: str) -> Any:
        (one,) = await self.log()
        return await self.until_shown(f"/admin/webhooks/deliveries/{one['id']}", status)


@asynccontextmanager
async def housed(
    over: Callable[..., Any], source: Any, outbox: Outbox, store: MemoryStore | None
) -> AsyncIterator[House]:
    options = replace(OPTIONS, webhook_targets=RULES)
    async with over(**source, options=options) as rest:
        house = House(rest, outbox, await rest.sign_in(ADMINISTRATOR), store)
        house.model = (await house.call("POST", "/threat_models", {"name": "Shop"}, 201))["id"]
        yield house


@pytest.fixture
async def house() -> AsyncIterator[House]:
    """Over memory: for what the store has no part in."""
    store = MemoryStore()
    async with housed(over_memory, {"store": store}, MemoryOutbox(store), store) as house:
        yield house


@pytest.fixture
async def postgres_house(database: PostgresDatabase) -> AsyncIterator[House]:
    async with housed(over_postgres, {"database": database}, PostgresOutbox(database, Seal()), None) as house:
        yield house


@pytest.fixture(params=["memory", "postgres"])
def each_house(request: pytest.FixtureRequest) -> House:
    made: House = request.getfixturevalue("house" if request.param == "memory" else "postgres_house")
    return made


def assert_signed(call: Call, secret: str) -> None:
    """By the words of docs/webhooks.md, apart from the program."""
    sent = call.headers
    assert abs(time.time() - int(sent["webhook-timestamp"])) < 60
    signed = f"{sent['webhook-id']}.{sent['webhook-timestamp']}.".encode() + call.body
    expected = base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()
    assert f"v1,{expected}" == sent["webhook-signature"]
    assert (
        f"sha256={hmac.new(secret.encode(), call.body, hashlib.sha256).hexdigest()}"
        == sent["x-webhook-signature"]
    )


def refusing(reply: Reply) -> Answer:
    """Answers challenges, and all else with `reply`."""
    return lambda call: agreeable(call) if call.is_challenge else reply


async def test_a_change_is_told_signed_and_without_what_is_in_it(each_house: House) -> None:
    house = each_house
    async with endpoint() as hook, house.dispatching():
        made = await house.active(hook, "threat_model.updated", secret=SECRET)
        await house.rename()
        (call,) = await hook.delivered(1)
        assert "/hook?of=test" == call.target
        assert_signed(call, SECRET)
        assert_signed(hook.calls[0], SECRET)
        assert (made["id"], "threat_model.updated", "application/json", f"127.0.0.1:{hook.port}") == tuple(
            call.headers[name]
            for name in ("x-webhook-subscription-id", "x-webhook-event", "content-type", "host")
        )
        told = call.json
        assert ("threat_model.updated", house.model, "threat_model", house.model) == tuple(
            told[name] for name in ("event_type", "threat_model_id", "resource_type", "resource_id")
        )
        assert ("patched", "name", "admin@tmi.local") == (
            told["data"]["change_type"], told["data"]["summary"], told["data"]["actor"]["email"],
        )  # fmt: skip
        assert "Other shop" not in call.body.decode()
        delivery = await house.the_delivery("delivered")
        assert call.headers["x-webhook-delivery-id"] == call.headers["webhook-id"] == delivery["id"]
        assert (told, 1, 100) == (delivery["payload"], delivery["attempts"], delivery["status_percent"])
        assert "7" == delivery["id"][14]
        assert "last_successful_use" in await house.until_status(made["id"], "active")


async def test_each_change_is_told_by_its_type_and_to_who_asked_for_it(each_house: House) -> None:
    house = each_house
    of_all = [
        f"{what}.{done}"
        for what in ("threat_model", "diagram", "note", "metadata")
        for done in ("created", "updated", "deleted")
    ]
    async with endpoint() as everything, endpoint() as one, endpoint() as notes, house.dispatching():
        await house.active(everything, *of_all)
        await house.active(one, *of_all, threat_model_id=house.model)
        await house.active(notes, "note.deleted")
        path = f"/threat_models/{house.model}"
        other = await house.call("POST", "/threat_models", {"name": "Another"}, 201)
        await house.rest.create_diagram(house.admin, house.model)
        note = (await house.call("POST", f"{path}/notes", {"name": "N", "content": "text"}, 201))["id"]
        await house.call("POST", f"{path}/metadata", {"key": "a", "value": "1"}, 201)
        await house.call("PUT", f"{path}/metadata/a", {"value": "2"})
        await house.call("DELETE", f"{path}/metadata/a", status=204)
        await house.call("DELETE", f"{path}/notes/{note}", status=204)
        await house.call("POST", f"{path}/notes/{note}/restore")
        await house.call("DELETE", f"/threat_models/{other['id']}", status=204)
        ours = sorted(
            [
                "diagram.created", "note.created", "note.deleted", "note.created",
                "metadata.created", "metadata.updated", "metadata.deleted",
                *["threat_model.updated"] * 3,
            ]
        )  # fmt: skip
        calls = await one.delivered(len(ours))
        assert ours == sorted(call.headers["x-webhook-event"] for call in calls)
        both = sorted([*ours, "threat_model.created", "threat_model.deleted"])
        calls = await everything.delivered(len(both))
        assert both == sorted(call.json["event_type"] for call in calls)
        for call in calls:
            WebhookEvent.model_validate(call.json)
        assert ["note.deleted"] == [call.json["event_type"] for call in await notes.delivered(1)]
        assert len(both) == len({call.headers["webhook-id"] for call in calls})


async def test_what_administrators_write_is_told_and_what_they_are_refused_is_not(house: House) -> None:
    async with endpoint() as hook, house.dispatching():
        await house.active(hook, "system_audit.admin_write")
        await house.call("POST", "/admin/groups", {"group_name": "ops", "name": "Ops"}, 201)
        alice = await house.rest.sign_in("alice")
        refused = await house.rest.call("POST", "/admin/groups", alice, json_body={})
        assert 403 == refused.status
        await house.call("POST", "/admin/groups", {"group_name": "dev", "name": "Dev"}, 201)
        told = [WebhookEvent.model_validate(call.json).data.path for call in await hook.delivered(2)]
        assert ["/admin/groups"] * 2 == told


async def test_what_fails_is_tried_again_with_the_same_id_and_a_signature_of_its_own(
    house: House,
) -> None:
    left = [500, 503]

    def answer(call: Call) -> Reply:
        return agreeable(call) if call.is_challenge or not left else Reply(left.pop(), b"not now")

    async with endpoint(answer) as hook, house.dispatching():
        made = await house.active(hook, secret=SECRET)
        await house.rename()
        calls = await hook.delivered(3)
        assert 1 == len({call.headers["webhook-id"] for call in calls}) == len({call.body for call in calls})
        for call in calls:
            assert_signed(call, SECRET)
        delivery = await house.the_delivery("delivered")
        assert (3, None) == (delivery["attempts"], delivery.get("last_error"))
        assert 0 == (await house.until_status(made["id"], "active"))["publication_failures"]


@pytest.mark.parametrize(
    ("reply", "attempts", "error"),
    [
        (Reply(500, b"what the endpoint says"), 3, "the endpoint answered 500"),
        (Reply(302, headers=(("Location", "/elsewhere"),)), 3, "the endpoint answered 302"),
        (Reply(410), 1, "the endpoint answered 410"),
        (Reply(never=True), 3, "no answer within 0.3 s"),
    ],
)
async def test_what_fails_for_good_is_counted_and_told(
    house: House, reply: Reply, attempts: int, error: str
) -> None:
    async with (
        endpoint(refusing(reply)) as hook,
        house.dispatching(HASTY if reply.never else QUICK),
    ):
        made = await house.active(hook)
        await house.rename()
        delivery = await house.the_delivery("failed")
        assert (attempts, error) == (delivery["attempts"], delivery["last_error"])
        assert attempts == len(hook.deliveries)
        assert {"/hook?of=test"} == {call.target for call in hook.calls}
        assert 1 == (await house.until_status(made["id"], "active"))["publication_failures"]
        assert {"failed": 1} | ({"retried": attempts - 1} if attempts > 1 else {}) == house.dispatchers[
            0
        ].counts


async def test_a_pause_that_the_endpoint_asks_for_is_kept(house: House) -> None:
    asked = Reply(429, headers=(("Retry-After", "7"),))
    async with (
        endpoint(refusing(asked)) as hook,
        house.dispatching(),
    ):
        await house.active(hook)
        await house.rename()
        await hook.delivered(1)
        delivery = await house.the_delivery("pending")
        assert delivery["next_retry_at"] > delivery["last_activity_at"]
        assert house.store is not None
        (stored,) = house.store.hooks.deliveries.values()
        assert stored.due_at is not None
        assert stored.active_at is not None
        assert 6.9 < (stored.due_at - stored.active_at).total_seconds() <= 7


@pytest.mark.parametrize("answer", [agreeable, echoing])
async def test_an_endpoint_is_verified_by_its_answer_to_the_challenge(house: House, answer: Answer) -> None:
    async with endpoint(answer) as hook, house.dispatching():
        made = await house.subscribe(hook, secret=SECRET)
        assert ("pending_verification", 0) == (made["status"], made["challenges_sent"])
        shown = await house.until_status(made["id"], "active")
        assert 1 == shown["challenges_sent"] == len(hook.calls)
        assert {"type": "webhook.challenge", "challenge": hook.calls[0].headers["x-webhook-challenge"]} == (
            hook.calls[0].json
        )


@pytest.mark.parametrize(
    "reply",
    [
        Reply(),
        Reply(204),
        Reply(body=b"0" * 64),
        Reply(body=b'{"challenge": "wrong"}'),
        Reply(body=b'{"challenge": ["a"]}'),
        Reply(body=b"[1]"),
        Reply(500),
    ],
)
async def test_an_endpoint_that_does_not_answer_the_challenge_is_told_nothing(
    house: House, reply: Reply
) -> None:
    async with endpoint(lambda _: reply) as hook, house.dispatching():
        made = await house.subscribe(hook)
        await house.rename()
        shown = await house.until_status(made["id"], "pending_delete")
        assert 3 == shown["challenges_sent"] == len(hook.calls)
        assert 3 == len({call.headers["x-webhook-challenge"] for call in hook.calls})
        assert [] == hook.deliveries == await house.log()
        path = f"{SUBSCRIPTIONS}/{made['id']}/test"
        answer = await house.rest.call("POST", path, house.admin, json_body={})
        assert 400 == answer.status


async def test_an_endpoint_that_repeats_the_challenge_with_an_error_is_not_verified(house: House) -> None:
    async with (
        endpoint(lambda call: replace(agreeable(call), status=500)) as hook,
        house.dispatching(),
    ):
        made = await house.subscribe(hook)
        await house.until_status(made["id"], "pending_delete")


async def test_a_secret_is_shown_once_and_signs(house: House) -> None:
    async with endpoint() as hook, house.dispatching():
        made = await house.active(hook)
        assert len(made["secret"]) >= 43
        await house.rename()
        assert_signed((await hook.delivered(1))[0], made["secret"])
        for path in ("", f"/{made['id']}"):
            shown = await house.rest.call("GET", f"{SUBSCRIPTIONS}{path}", house.admin)
            assert 200 == shown.status
            assert made["secret"] not in shown.data.decode()
        audit = await house.rest.call("GET", "/admin/audit/system", house.admin)
        assert "webhook.created" in audit.data.decode()
        assert made["secret"] not in audit.data.decode()


async def test_a_test_is_delivered_like_an_event(house: House) -> None:
    async with endpoint() as hook, house.dispatching():
        made = await house.active(hook, secret=SECRET)
        path = f"{SUBSCRIPTIONS}/{made['id']}/test"
        started = await house.call("POST", path, {"event_type": "note.deleted"}, 202)
        (call,) = await hook.delivered(1)
        assert_signed(call, SECRET)
        assert ("note.deleted", started["delivery_id"]) == (
            call.json["event_type"],
            call.headers["webhook-id"],
        )
        assert {"test": True, "subscription_id": made["id"]} == call.json["data"]
        WebhookEvent.model_validate(call.json)
        answer = await house.rest.call("POST", path, house.admin)
        assert 202 == answer.status
        assert "threat_model.updated" == (await hook.delivered(2))[1].json["event_type"]
        listed = await house.call("GET", f"/admin/webhooks/deliveries?subscription_id={made['id']}&limit=1")
        assert (2, 1, 0, answer.json["delivery_id"]) == (
            listed["total"], listed["limit"], listed["offset"], listed["deliveries"][0]["id"],
        )  # fmt: skip


async def test_a_slow_endpoint_holds_up_its_own_deliveries_alone(each_house: House) -> None:
    house, free = each_house, asyncio.Event()

    def slow(call: Call) -> Reply:
        return agreeable(call) if call.is_challenge else Reply(after=free)

    patient = replace(QUICK, timeout_s=20, at_once=8)
    async with endpoint(slow) as stuck, endpoint() as quick, house.dispatching(patient):
        await house.active(stuck)
        await house.active(quick)
        for _ in range(20):
            await house.rename()
        await quick.delivered(20)
        assert 4 == len(stuck.deliveries) == stuck.busiest
        assert quick.busiest <= 4
        free.set()
        await stuck.delivered(20)
        assert stuck.busiest <= 4


async def test_an_endpoint_that_failed_is_called_once_at_a_time_until_it_is_well(house: House) -> None:
    well = False

    def answer(call: Call) -> Reply:
        return agreeable(call) if call.is_challenge or well else Reply(410)

    async with endpoint(answer) as hook, house.dispatching():
        made = await house.active(hook)
        await house.rename()
        await until(lambda: house.dispatchers[0].counts["failed"] == 1, "failure")
        hook.busiest = 0
        for _ in range(8):
            await house.rename()
        await until(lambda: house.dispatchers[0].counts["failed"] == 9, "failures")
        assert 1 == hook.busiest
        assert 9 == (await house.until_status(made["id"], "active"))["publication_failures"]
        well = True
        await house.rename()
        await until(lambda: house.dispatchers[0].counts["delivered"] == 1, "success")
        assert 0 == (await house.until_status(made["id"], "active"))["publication_failures"]


async def test_two_nodes_make_each_delivery_once(postgres_house: House) -> None:
    house = postgres_house
    async with endpoint() as hook, house.dispatching(), house.dispatching():
        await house.active(hook)
        for _ in range(30):
            await house.rename()
        await hook.delivered(30)
        await until(lambda: sum(one.counts["delivered"] for one in house.dispatchers) == 30, "thirty")
        assert 30 == len({call.headers["webhook-id"] for call in hook.deliveries}) == len(hook.deliveries)


async def test_what_a_node_took_with_it_is_delivered_by_another_after_the_lease(each_house: House) -> None:
    house = each_house
    async with endpoint() as hook:
        async with house.dispatching():
            await house.active(hook)
        await house.rename()
        (lost,) = await house.outbox.take(Slots(1, 1, 0.2), WebhookLimits())
        assert 1 == lost.number
        assert [] == await house.outbox.take(Slots(1, 1, 60), WebhookLimits())
        async with house.dispatching():
            (call,) = await hook.delivered(1)
            assert str(lost.delivery) == call.headers["webhook-id"]
            assert 2 == (await house.the_delivery("delivered"))["attempts"]


async def test_nothing_is_told_of_a_change_that_was_rolled_back(postgres_house: House) -> None:
    house = postgres_house
    async with endpoint() as hook:
        async with house.dispatching():
            await house.active(hook)
        stale = await house.rest.patch(house.admin, house.model, REPLACE_NAME, headers={"If-Match": '"99"'})
        assert 409 == stale.status
        assert [] == await house.log()


async def test_who_is_no_administrator_any_more_is_told_nothing(house: House) -> None:
    bob, user = await house.rest.sign_in("bob"), await house.rest.user_id("bob")
    members = f"/admin/groups/{UUID(int=2)}/members"
    await house.call("POST", members, {"user_internal_uuid": user}, 201)
    async with endpoint() as hook:
        async with house.dispatching():
            body = {"name": "Bob's", "url": hook.url, "events": ["threat_model.updated"]}
            made = await house.rest.call("POST", SUBSCRIPTIONS, bob, json_body=body)
            assert 201 == made.status
            await house.until_status(made.json["id"], "active")
        await house.call("DELETE", f"{members}/{user}", status=204)
        await house.rename()
        async with house.dispatching():
            delivery = await house.the_delivery("failed")
        assert "no administrator" in delivery["last_error"]
        assert [] == hook.deliveries


async def test_a_deleted_subscription_takes_what_waits_with_it(house: House) -> None:
    async with endpoint() as hook:
        async with house.dispatching():
            made = await house.active(hook)
        await house.rename()
        assert 1 == len(await house.log())
        await house.call("DELETE", f"{SUBSCRIPTIONS}/{made['id']}", status=204)
        assert [] == await house.log()
        await house.rename()
        assert [] == await house.log()


async def test_an_owners_minute_holds_back_what_is_beyond_it(house: House) -> None:
    user = await house.rest.user_id(ADMINISTRATOR)
    quota = {
        "max_subscriptions": 2,
        "max_events_per_minute": 3,
        "max_subscription_requests_per_minute": 50,
        "max_subscription_requests_per_day": 50,
    }
    await house.call("PUT", f"/admin/quotas/webhooks/{user}", quota, 201)
    assert house.store is not None
    async with endpoint() as hook, house.dispatching():
        await house.active(hook)
        now = datetime.now(UTC)
        house.store.clock = lambda: now
        for _ in range(5):
            await house.rename()
        await hook.delivered(3)
        await until(lambda: house.dispatchers[0].backlog.pending == 2, "two that wait")
        assert 3 == len(hook.deliveries)
        now += timedelta(minutes=1)
        await hook.delivered(5)


async def test_while_the_database_is_away_nothing_is_sent_and_afterwards_all(house: House) -> None:
    assert house.store is not None
    brief = replace(QUICK, away_s=0.01)
    async with endpoint() as hook:
        async with house.dispatching():
            await house.active(hook)
        await house.rename()
        house.store.unavailable = True
        async with house.dispatching(brief):
            await asyncio.sleep(0.05)
            assert [] == hook.deliveries
            house.store.unavailable = False
            await hook.delivered(1)
            house.store.fail_next = RuntimeError("a bug")
            await until(lambda: house.store is not None and house.store.fail_next is None, "failure")
            await house.rename()
            await hook.delivered(2)


async def test_a_secret_whose_key_is_not_there_signs_nothing_and_the_operator_hears_of_it(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    assert house.store is not None
    async with endpoint() as hook, house.dispatching():
        made = await house.active(hook)
        (stored,) = house.store.hooks.webhooks.values()
        stored.secret = None
        await house.rename()
        delivery = await house.the_delivery("failed")
        assert "cannot be opened" in delivery["last_error"]
        assert [] == hook.deliveries
        warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert any(made["id"] in line and "cannot be opened" in line for line in warned)


async def test_an_endless_answer_is_read_to_its_bound(house: House) -> None:
    def answer(call: Call) -> Reply:
        return agreeable(call) if call.is_challenge else Reply(200, b"x" * 300_000)

    async with endpoint(answer) as hook, house.dispatching():
        await house.active(hook)
        await house.rename()
        await hook.delivered(1)
        await house.the_delivery("delivered")


async def test_no_secret_and_no_url_is_logged(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with endpoint(refusing(Reply(500))) as hook, house.dispatching():
        await house.active(hook, secret=SECRET)
        await house.rename()
        await house.the_delivery("failed")
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("api.")]
    assert any("attempt 3: the endpoint answered 500" in line for line in ours)
    assert not any(SECRET in line or "/hook" in line for line in ours)


async def test_a_payload_is_json_of_at_most_some_kilobytes(house: House) -> None:
    async with endpoint() as hook, house.dispatching():
        await house.active(hook, "note.created")
        body = {"name": "n" * 256, "content": "c" * 200_000}
        await house.call("POST", f"/threat_models/{house.model}/notes", body, 201)
        (call,) = await hook.delivered(1)
        assert len(call.body) < 4096
        assert json.loads(call.body)["event_type"] == "note.created"


def snippet(name: str) -> str:
    """A program of docs/webhooks.md."""
    page = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
    found = re.search(rf"<!-- test: {name} -->\n```\w+\n(.*?)```", page, re.DOTALL)
    assert found is not None
    return found[1]


TRIES: dict[str, Callable[[Call], tuple[dict[str, str], bytes, str]]] = {
    "as it came": lambda call: (call.headers, call.body, SECRET),
    "another body": lambda call: (call.headers, call.body + b" ", SECRET),
    "another secret": lambda call: (call.headers, call.body, SECRET + "x"),
    "another id": lambda call: (call.headers | {"webhook-id": "x"}, call.body, SECRET),
    "another time": lambda call: (
        call.headers | {"webhook-timestamp": str(int(call.headers["webhook-timestamp"]) + 1)},
        call.body,
        SECRET,
    ),
    "an old call": lambda call: (
        signing.headers(SECRET, "x", call.body, int(time.time()) - 301),
        call.body,
        SECRET,
    ),
    "of two keys": lambda call: (
        call.headers | {"webhook-signature": f"v1,eA== {call.headers['webhook-signature']}"},
        call.body,
        SECRET,
    ),
}


async def test_receivers_verify_calls_as_the_page_says(house: House, tmp_path: Path) -> None:
    async with endpoint() as hook, house.dispatching():
        await house.active(hook, secret=SECRET)
        await house.rename()
        (call,) = await hook.delivered(1)
    tries = {name: made(call) for name, made in TRIES.items()}
    expected = {name: name in ("as it came", "of two keys") for name in TRIES}
    program: dict[str, Any] = {}
    exec(snippet("python"), program)
    assert expected == {name: program["is_genuine"](*given) for name, given in tries.items()}
    (tmp_path / "verify.mjs").write_text(
        snippet("node")
        + "const tries = JSON.parse(process.argv[2])\n"
        + "for (const one of Object.values(tries)) one[1] = Buffer.from(one[1])\n"
        + "console.log(JSON.stringify(Object.fromEntries(Object.entries(tries)"
        + ".map(([name, given]) => [name, isGenuine(...given)]))))\n"
    )
    texts = {name: (sent, body.decode(), secret) for name, (sent, body, secret) in tries.items()}
    node = shutil.which("node")
    assert node is not None
    run = await asyncio.create_subprocess_exec(
        node, str(tmp_path / "verify.mjs"), json.dumps(texts), stdout=asyncio.subprocess.PIPE
    )
    told, _ = await asyncio.wait_for(run.communicate(), 30)
    assert expected == json.loads(told)
