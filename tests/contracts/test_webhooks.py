"""Webhooks: the contract of their ports, in memory and on PostgreSQL."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from persistence.postgres.database import PostgresDatabase
from persistence.postgres.outbox import PostgresOutbox
from persistence.postgres.webhooks import PostgresWebhooks
from persistence.sealing import Seal
from tests.contracts.conftest import SEAL, Ports, postgres_ports
from tests.contracts.test_accounts import entry
from tmi.domain.children import Entity
from tmi.domain.errors import BadInput, NotFound, QuotaReached
from tmi.domain.events import Actor, ChangeType, Deed
from tmi.domain.ids import DeliveryId, ThreatModelId, UserId, WebhookId
from tmi.domain.model import User
from tmi.domain.ports import Page
from tmi.domain.webhooks import (
    Attempt,
    Delivery,
    DeliveryStatus,
    NewWebhook,
    Outcome,
    Slots,
    Webhook,
    WebhookLimits,
    WebhookStatus,
)

MANY = WebhookLimits(subscriptions=50, events_per_min=10_000)
SLOTS = Slots(free=100, per_webhook=100, lease_s=60)
URL = "https://hooks.example.org/"
PAGE = Page(100, 0)


def new(owner: User, *events: str, model: ThreatModelId | None = None, name: str = "Ours") -> NewWebhook:
    wanted = frozenset(events or ("threat_model.created",))
    return NewWebhook(owner.id, name, URL, wanted, model, "secret " + name)


async def active(ports: Ports, given: NewWebhook) -> Webhook:
    made = await ports.webhooks.create(given, MANY, entry())
    for challenge in await ports.outbox.take_challenges(100, 60):
        await ports.outbox.settle_challenge(challenge, Outcome())
    return await ports.webhooks.get(made.id)


async def log(ports: Ports) -> list[Delivery]:
    found, total = await ports.deliveries.page(None, PAGE)
    assert total == len(found)
    return list(found)


async def taken(ports: Ports, slots: Slots = SLOTS, limits: WebhookLimits = MANY) -> list[Attempt]:
    return list(await ports.outbox.take(slots, limits))


async def test_a_subscription_is_stored_shown_and_removed(ports: Ports) -> None:
    alice = await ports.user()
    made = await ports.webhooks.create(new(alice, "note.created", "threat.deleted"), MANY, entry())
    assert (alice.id, "Ours", URL, ["note.created", "threat.deleted"], 0, 0) == (
        made.owner, made.name, made.url, sorted(made.events), made.challenges_sent, made.failures,
    )  # fmt: skip
    assert made.threat_model is None
    assert WebhookStatus.PENDING_VERIFICATION is made.status
    assert made == await ports.webhooks.get(made.id)
    assert ([made], 1) == await ports.webhooks.page(None, PAGE)
    assert ([], 1) == await ports.webhooks.page(None, Page(10, 1))
    await ports.webhooks.remove(made.id, entry())
    for call in (ports.webhooks.get(made.id), ports.webhooks.remove(made.id, entry())):
        with pytest.raises(NotFound):
            await call
    assert ([], 0) == await ports.webhooks.page(None, PAGE)


async def test_a_subscription_to_one_threat_model_needs_one(ports: Ports) -> None:
    alice = await ports.user()
    model = await ports.model(alice)
    made = await ports.webhooks.create(new(alice, model=model.id), MANY, entry())
    other = await ports.webhooks.create(new(alice), MANY, entry())
    assert ([made], 1) == await ports.webhooks.page(model.id, PAGE)
    assert ([made, other], 2) == await ports.webhooks.page(None, PAGE)
    with pytest.raises(NotFound):
        await ports.webhooks.create(new(alice, model=ThreatModelId(uuid4())), MANY, entry())


async def test_however_many_are_made_at_once_an_owner_gets_no_more_than_allowed(ports: Ports) -> None:
    alice, bob = await ports.user(), await ports.user("bob")
    three = WebhookLimits(subscriptions=3)
    work = [ports.webhooks.create(new(alice), three, entry()) for _ in range(8)]
    made = await asyncio.gather(*work, return_exceptions=True)
    assert 3 == sum(isinstance(one, Webhook) for one in made)
    assert 5 == sum(isinstance(one, QuotaReached) for one in made)
    await ports.webhooks.create(new(bob), three, entry())
    await ports.webhook_quotas.put(alice.id, WebhookLimits(subscriptions=4), entry())
    await ports.webhooks.create(new(alice), three, entry())
    with pytest.raises(QuotaReached):
        await ports.webhooks.create(new(alice), three, entry())


async def test_only_what_is_verified_and_wanted_is_told(ports: Ports) -> None:
    alice = await ports.user()
    model = await ports.model(alice)
    all_ = await active(ports, new(alice))
    one = await active(ports, new(alice, "threat_model.created", "threat_model.deleted", model=model.id))
    await ports.webhooks.create(new(alice, name="Unverified"), MANY, entry())
    await ports.model(alice)
    await ports.threat_models.delete(model.id, Actor.of(alice))
    assert {(all_.id, "threat_model.created"), (one.id, "threat_model.deleted")} == {
        (delivery.webhook, delivery.event_type) for delivery in await log(ports)
    }


async def test_what_is_taken_is_nobody_elses_until_it_is_settled(ports: Ports) -> None:
    alice = await ports.user()
    hook = await active(ports, new(alice))
    await ports.model(alice)
    (attempt,) = await taken(ports)
    assert (hook.id, alice.id, URL, "secret Ours", "threat_model.created", 1) == (
        attempt.webhook, attempt.owner, attempt.url, attempt.secret, attempt.event_type, attempt.number,
    )  # fmt: skip
    assert [] == await taken(ports)
    shown = await ports.deliveries.get(attempt.delivery)
    assert (DeliveryStatus.IN_PROGRESS, attempt.payload, 1) == (shown.status, shown.payload, shown.attempts)
    assert 1 == (await ports.outbox.backlog()).pending

    await ports.outbox.settle(attempt, Outcome("no luck", retry_s=0))
    again = await ports.deliveries.get(attempt.delivery)
    assert (DeliveryStatus.PENDING, "no luck") == (again.status, again.last_error)
    (second,) = await taken(ports)
    assert (attempt.delivery, 2) == (second.delivery, second.number)

    await ports.outbox.settle(attempt, Outcome())  # it is not this one's any more
    assert DeliveryStatus.IN_PROGRESS is (await ports.deliveries.get(attempt.delivery)).status
    await ports.outbox.settle(second, Outcome())
    done = await ports.deliveries.get(attempt.delivery)
    assert (DeliveryStatus.DELIVERED, None, None) == (done.status, done.last_error, done.due_at)
    assert done.delivered_at is not None
    assert (await ports.webhooks.get(hook.id)).last_success_at is not None
    await ports.outbox.settle(second, Outcome("too late"))
    assert done == await ports.deliveries.get(attempt.delivery)
    assert 0 == (await ports.outbox.backlog()).pending


async def test_a_lease_that_ends_gives_a_delivery_to_others(ports: Ports) -> None:
    alice = await ports.user()
    await active(ports, new(alice))
    await ports.model(alice)
    (lost,) = await taken(ports, replace(SLOTS, lease_s=0))
    (found,) = await taken(ports)
    assert (lost.delivery, 2) == (found.delivery, found.number)
    await ports.outbox.settle(lost, Outcome("late"))
    assert DeliveryStatus.IN_PROGRESS is (await ports.deliveries.get(lost.delivery)).status


async def test_failures_are_counted_until_there_is_a_success(ports: Ports) -> None:
    alice = await ports.user()
    hook = await active(ports, new(alice))
    for _ in range(5):
        await ports.model(alice)
    first, second, third, *_ = await taken(ports, replace(SLOTS, free=3))
    for attempt in (first, second):
        await ports.outbox.settle(attempt, Outcome("x" * 2000))
    assert 2 == (await ports.webhooks.get(hook.id)).failures
    failed = await ports.deliveries.get(first.delivery)
    assert (DeliveryStatus.FAILED, 500) == (failed.status, len(failed.last_error or ""))
    assert [] == await taken(ports), "one is under way, and who fails gets no more at once"
    await ports.outbox.settle(third, Outcome())
    assert 0 == (await ports.webhooks.get(hook.id)).failures
    assert 2 == len(await taken(ports))


async def test_who_has_fewer_under_way_comes_first(ports: Ports) -> None:
    alice = await ports.user()
    busy = await active(ports, new(alice, name="Busy"))
    for _ in range(5):
        await ports.model(alice)
    assert 2 == len(await taken(ports, replace(SLOTS, free=2)))
    other = await active(ports, new(alice, name="Other"))
    for _ in range(3):
        await ports.model(alice)
    # Of Busy there are older ones, and of both the third has its turn.
    found = await taken(ports, replace(SLOTS, free=4))
    assert {other.id: 3, busy.id: 1} == {hook.id: of(found, hook) for hook in (other, busy)}
    assert [] == await taken(ports, replace(SLOTS, per_webhook=3))


def of(attempts: list[Attempt], webhook: Webhook) -> int:
    return sum(attempt.webhook == webhook.id for attempt in attempts)


async def test_an_owners_minute_is_shared_by_what_they_own(ports: Ports) -> None:
    alice, bob = await ports.user(), await ports.user("bob")
    for owner in (alice, alice, bob):
        await active(ports, new(owner))
    for _ in range(4):
        await ports.model(alice)
    few = replace(MANY, events_per_min=3)
    began = datetime.now(UTC).minute
    first = await taken(ports, limits=few)
    second = await taken(ports, limits=few)
    if datetime.now(UTC).minute == began:
        assert {alice.id: 3, bob.id: 3} == {user: owned(first, user) for user in (alice.id, bob.id)}
        assert [] == second
        await ports.webhook_quotas.put(alice.id, replace(few, events_per_min=5), entry())
        assert [alice.id] * 2 == [one.owner for one in await taken(ports, limits=few)]


def owned(attempts: list[Attempt], user: UserId) -> int:
    return sum(attempt.owner == user for attempt in attempts)


async def test_challenges_are_counted_and_given_up(ports: Ports) -> None:
    alice = await ports.user()
    made = await ports.webhooks.create(new(alice), MANY, entry())
    for number in (1, 2, 3):
        (challenge,) = await ports.outbox.take_challenges(10, 60)
        assert (made.id, URL, "secret Ours", number) == (
            challenge.webhook, challenge.url, challenge.secret, challenge.number,
        )  # fmt: skip
        assert [] == await ports.outbox.take_challenges(10, 60)
        assert WebhookStatus.PENDING_VERIFICATION is (await ports.webhooks.get(made.id)).status
        await ports.outbox.settle_challenge(challenge, Outcome("no answer", retry_s=0))
    given_up = await ports.webhooks.get(made.id)
    assert (WebhookStatus.PENDING_DELETE, 3) == (given_up.status, given_up.challenges_sent)
    await ports.outbox.settle_challenge(challenge, Outcome())
    assert WebhookStatus.PENDING_DELETE is (await ports.webhooks.get(made.id)).status
    assert 0 == await ports.webhooks.purge(given_up.modified_at, 10)
    assert 1 == await ports.webhooks.purge(given_up.modified_at + timedelta(seconds=1), 10)
    with pytest.raises(NotFound):
        await ports.webhooks.get(made.id)


async def test_challenges_of_a_node_that_was_killed_are_counted_too(ports: Ports) -> None:
    made = await ports.webhooks.create(new(await ports.user()), MANY, entry())
    numbers = [(await ports.outbox.take_challenges(10, 0))[0].number for _ in range(3)]
    assert [1, 2, 3] == numbers
    assert [] == await ports.outbox.take_challenges(10, 0)
    assert WebhookStatus.PENDING_DELETE is (await ports.webhooks.get(made.id)).status


async def test_a_test_needs_a_verified_endpoint(ports: Ports) -> None:
    alice = await ports.user()
    made = await ports.webhooks.create(new(alice), MANY, entry())
    with pytest.raises(BadInput):
        await ports.deliveries.test(made.id, "note.created", entry())
    with pytest.raises(NotFound):
        await ports.deliveries.test(WebhookId(uuid4()), "note.created", entry())
    hook = await active(ports, new(alice))
    started = await ports.deliveries.test(hook.id, "note.created", entry())
    assert [started] == await log(ports)
    (attempt,) = await taken(ports)
    assert (started.id, started.payload) == (attempt.delivery, attempt.payload)


async def test_the_log_is_paged_and_purged(ports: Ports) -> None:
    alice = await ports.user()
    hook = await active(ports, new(alice))
    await active(ports, new(alice, name="Other"))
    for _ in range(3):
        await ports.model(alice)
    found, total = await ports.deliveries.page(hook.id, Page(2, 1))
    assert (2, 3, {hook.id}) == (len(found), total, {one.webhook for one in found})
    assert found[0].created_at >= found[1].created_at
    assert ([], 0) == await ports.deliveries.page(WebhookId(uuid4()), PAGE)
    with pytest.raises(NotFound):
        await ports.deliveries.get(DeliveryId(uuid4()))
    newest = (await log(ports))[0].created_at
    assert 0 == await ports.deliveries.purge(newest - timedelta(days=1), 10)
    assert [4, 2, 0] == [await ports.deliveries.purge(newest + timedelta(days=1), 4) for _ in range(3)]


async def test_an_account_takes_its_subscriptions_with_it(ports: Ports) -> None:
    alice, bob = await ports.user(), await ports.user("bob")
    await active(ports, new(bob))
    await ports.model(alice)
    await ports.accounts.delete(bob.id, entry())
    assert ([], 0) == await ports.webhooks.page(None, PAGE)
    assert [] == await taken(ports)
    await ports.model(alice)


async def test_quotas_are_set_listed_and_taken_back(ports: Ports) -> None:
    alice, limits = await ports.user(), WebhookLimits(1, 2, 3, 4)
    assert await ports.webhook_quotas.of(alice.id) is None
    made, is_new = await ports.webhook_quotas.put(alice.id, limits, entry())
    assert (True, limits) == (is_new, made.limits)
    changed, is_new = await ports.webhook_quotas.put(alice.id, replace(limits, subscriptions=9), entry())
    assert (False, 9, made.created_at) == (is_new, changed.limits.subscriptions, changed.created_at)
    assert ([changed], 1) == await ports.webhook_quotas.page(PAGE)
    assert changed == await ports.webhook_quotas.of(alice.id)
    await ports.webhook_quotas.remove(alice.id, entry())
    with pytest.raises(NotFound):
        await ports.webhook_quotas.remove(alice.id, entry())
    with pytest.raises(NotFound):
        await ports.webhook_quotas.put(UserId(uuid4()), limits, entry())


async def test_metadata_are_told_of_as_what_they_are_and_as_a_change(ports: Ports) -> None:
    alice = await ports.user()
    await active(ports, new(alice, "metadata.created", "threat_model.updated"))
    model = await ports.model(alice)
    deed = Deed(Actor.of(alice), ChangeType.PATCHED, also="metadata.created")
    await ports.metadata.change(Entity(model.id), lambda _: {"a": "b"}, deed)
    assert ["metadata.created", "threat_model.updated"] == sorted(one.event_type for one in await log(ports))


async def test_a_secret_is_sealed_in_the_database_and_bound_to_its_subscription(
    database: PostgresDatabase,
) -> None:
    ports = postgres_ports(database)
    alice = await ports.user()
    first = await active(ports, new(alice, name="First"))
    second = await active(ports, new(alice, name="Second"))
    rows = await database.fetch("SELECT secret FROM webhook_subscriptions")
    assert not any(b"secret" in row["secret"] for row in rows)
    await database.fetch(
        "UPDATE webhook_subscriptions SET secret = (SELECT secret FROM webhook_subscriptions WHERE id = $1) "
        "WHERE id = $2",
        first.id,
        second.id,
    )
    await ports.model(alice)
    secrets = {attempt.webhook: attempt.secret for attempt in await taken(ports)}
    assert {first.id: "secret First", second.id: None} == secrets


async def test_secrets_are_sealed_anew_with_the_newest_key(database: PostgresDatabase) -> None:
    alice = await postgres_ports(database).user()
    made: dict[str, Webhook] = {}
    seals = {"plain": Seal(), "old": Seal(("o" * 32,)), "lost": Seal(("l" * 32,)), "new": Seal(("n" * 32,))}
    for name, seal in seals.items():
        given = new(alice, name=name)
        made[name] = await PostgresWebhooks(database, seal).create(given, MANY, entry())
    assert 0 == await PostgresWebhooks(database, Seal()).seal_anew(10)
    webhooks = PostgresWebhooks(database, Seal(("n" * 32, "o" * 32)))
    assert [2, 0] == [await webhooks.seal_anew(10) for _ in range(2)]
    outbox = PostgresOutbox(database, seals["new"])
    found = {one.webhook: one.secret for one in await outbox.take_challenges(10, 60)}
    assert {"plain": "secret plain", "old": "secret old", "lost": None, "new": "secret new"} == {
        name: found[webhook.id] for name, webhook in made.items()
    }


def test_a_key_is_replaced_by_one_before_it() -> None:
    old, both, fresh = Seal(("a" * 32,)), Seal(("b" * 32, "a" * 32)), Seal(("b" * 32,))
    sealed = old.close("secret", b"about")
    assert ("secret", None, None) == (
        both.open(sealed, b"about"),
        fresh.open(sealed, b"about"),
        both.open(sealed, b"x"),
    )
    assert "secret" == fresh.open(both.close("secret", b"about"), b"about")
    assert sealed != old.close("secret", b"about")
    plain = Seal().close("secret", b"about")
    assert "secret" == SEAL.open(plain, b"about")
    assert Seal().open(sealed, b"about") is None
    for place in range(1, len(sealed)):
        broken = bytearray(sealed)
        broken[place] ^= 1
        assert old.open(bytes(broken), b"about") is None
