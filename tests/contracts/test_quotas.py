"""The ports `Quotas` and `Storage`, and the creations that they bound."""

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from tests.contracts.conftest import Ports
from tests.contracts.test_accounts import entry
from tests.contracts.test_children import DELETED, UPDATED, draft, made, to
from tmi.domain.children import ChildChange
from tmi.domain.errors import NotFound, QuotaReached, StorageFull
from tmi.domain.ids import DiagramId, Seq, ThreatModelId, UserId
from tmi.domain.kinds import NOTE, THREAT
from tmi.domain.model import NewThreatModel, ThreatModel, User
from tmi.domain.ports import LoggedUpdate, Origin, Page, RoomBatch
from tmi.domain.quotas import Allowance, Limits, Usage

AT_ONCE = 50


async def create(ports: Ports, user: User, defaults: Limits) -> ThreatModel:
    new = NewThreatModel("Shop", None, "STRIDE", None, False, ())
    return await ports.threat_models.create(user, new, defaults)


async def refused(work: Sequence[Awaitable[object]]) -> int:
    """How many of these the quota refused; nothing else may go wrong."""
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert {QuotaReached} >= {type(error) for error in errors}, errors
    return len(errors)


async def saved(ports: Ports, diagram: DiagramId, *updates: bytes) -> None:
    """A document of these updates, and a snapshot of 100 bytes."""
    fence = await ports.log.claim(diagram, "test")
    last = (await ports.log.load(diagram)).seq
    numbered = tuple(
        LoggedUpdate(Seq(last + n), None, Origin.SERVER, data) for n, data in enumerate(updates, 1)
    )
    await ports.log.append([RoomBatch(diagram, fence, numbered)])
    assert await ports.log.save_snapshot(diagram, fence, numbered[-1].seq, bytes(100))


async def test_fifty_threat_models_at_once_never_pass_the_quota(ports: Ports) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")
    limits = Limits(threat_models=7)

    assert AT_ONCE - 7 == await refused([create(ports, alice, limits) for _ in range(AT_ONCE)])

    assert 7 == (await ports.storage.usage(alice.id)).threat_models
    assert 7 == (await ports.threat_models.visible_to(alice.id, Page(1, 0)))[1]
    await create(ports, bob, limits)


async def test_fifty_diagrams_at_once_in_two_threat_models_never_pass_the_quota(ports: Ports) -> None:
    alice = await ports.user("alice")
    models, limits = [await ports.model(alice), await ports.model(alice)], Limits(diagrams=7)

    work = [
        ports.diagrams.create(models[n % 2].id, "Flow", "DFD-1.0.0", None, defaults=limits)
        for n in range(AT_ONCE)
    ]

    assert AT_ONCE - 7 == await refused(work)
    assert Usage(2, 7) == await ports.storage.usage(alice.id)


async def test_a_refused_creation_leaves_no_trace_and_no_gap_in_the_aliases(ports: Ports) -> None:
    alice, limits = await ports.user("alice"), Limits(threat_models=1)
    first = await create(ports, alice, limits)
    with pytest.raises(QuotaReached) as error:
        await create(ports, alice, limits)

    assert ("threat_models", 1) == (error.value.quota, error.value.limit)
    assert first.alias + 1 == (await create(ports, alice, Limits())).alias


async def purge(ports: Ports) -> None:
    """Let everything go for good that is deleted."""
    await ports.bin.purge(datetime.now(UTC) + timedelta(hours=1), 100)


async def test_what_is_deleted_makes_room_once_it_cannot_be_restored(ports: Ports) -> None:
    alice, limits = await ports.user("alice"), Limits(threat_models=1, diagrams=1)
    model = await create(ports, alice, limits)
    diagram = await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None, defaults=limits)
    await saved(ports, diagram.id, b"x")
    await ports.diagrams.delete(model.id, diagram.id)
    assert Usage(1, 1, 101) == await ports.storage.usage(alice.id)
    with pytest.raises(QuotaReached):
        await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None, defaults=limits)
    await purge(ports)
    assert Usage(1, 0, 0) == await ports.storage.usage(alice.id)
    diagram = await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None, defaults=limits)
    await saved(ports, diagram.id, b"x")

    await ports.threat_models.delete(model.id)
    with pytest.raises(QuotaReached):
        await create(ports, alice, limits)
    await purge(ports)

    assert Usage() == await ports.storage.usage(alice.id)
    await create(ports, alice, limits)


async def test_an_allowance_goes_before_the_limits_of_everybody(ports: Ports) -> None:
    alice, limits = await ports.user("alice"), Limits(threat_models=1, diagrams=1)
    quota, is_new = await ports.quotas.put(alice.id, Allowance(100, threat_models=0), entry())
    assert is_new
    assert quota == await ports.quotas.of(alice.id)

    models = [await create(ports, alice, limits) for _ in range(2)]
    await ports.diagrams.create(models[0].id, "Flow", "DFD-1.0.0", None, defaults=limits)
    with pytest.raises(QuotaReached):
        await ports.diagrams.create(models[1].id, "Flow", "DFD-1.0.0", None, defaults=limits)

    later, is_new = await ports.quotas.put(alice.id, Allowance(7, 8, 9, 10, 11, 12), entry())
    assert (False, quota.created_at) == (is_new, later.created_at)
    assert Limits(7, 8, 9, 10, 11, 12) == later.allowance.instead_of(limits)
    await ports.diagrams.create(models[1].id, "Flow", "DFD-1.0.0", None, defaults=limits)


async def test_quotas_are_listed_oldest_first_and_go_with_a_word_of_audit(ports: Ports) -> None:
    users = [await ports.user(name) for name in ("alice", "bob", "carol")]
    quotas = [(await ports.quotas.put(user.id, Allowance(5), entry()))[0] for user in users]

    assert (quotas[1:2], 3) == await ports.quotas.page(Page(1, 1))
    await ports.quotas.remove(users[0].id, entry())
    assert await ports.quotas.of(users[0].id) is None
    with pytest.raises(NotFound):
        await ports.quotas.remove(users[0].id, entry())
    with pytest.raises(NotFound):
        await ports.quotas.put(UserId(uuid4()), Allowance(5), entry())
    await ports.accounts.delete(users[1].id, entry())
    assert (quotas[2:], 1) == await ports.quotas.page(Page(5, 0))


async def test_bytes_are_counted_with_each_snapshot_once(ports: Ports) -> None:
    alice = await ports.user("alice")
    model = await ports.model(alice)
    diagram = await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None)

    await saved(ports, diagram.id, bytes(10), bytes(20))
    assert 130 == (await ports.storage.usage(alice.id)).stored_bytes
    await saved(ports, diagram.id, bytes(5))
    assert 235 == (await ports.storage.usage(alice.id)).stored_bytes

    fence = await ports.log.claim(diagram.id, "test")
    assert await ports.log.save_snapshot(diagram.id, fence, Seq(3), bytes(100))
    assert 235 == (await ports.storage.usage(alice.id)).stored_bytes


async def test_who_has_more_bytes_than_allowed_is_known_with_the_diagrams(ports: Ports) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")
    diagrams = [
        await ports.diagrams.create((await ports.model(user)).id, "Flow", "DFD-1.0.0", None)
        for user in (alice, bob)
    ]
    for diagram in diagrams:
        await saved(ports, diagram.id, bytes(10))
    ids = [diagram.id for diagram in diagrams]

    assert frozenset() == await ports.storage.payers_over(0)
    assert frozenset() == await ports.storage.payers_over(110)
    assert {alice.id, bob.id} == await ports.storage.payers_over(109)
    await ports.quotas.put(alice.id, Allowance(5, stored_bytes=0), entry())
    assert {bob.id} == await ports.storage.payers_over(109)
    await ports.quotas.put(bob.id, Allowance(5, stored_bytes=50), entry())
    assert {bob.id} == await ports.storage.payers_over(0)
    assert 50 == await ports.storage.limit_passed(diagrams[1].threat_model_id, 0)
    assert await ports.storage.limit_passed(diagrams[0].threat_model_id, 0) is None
    assert await ports.storage.limit_passed(ThreatModelId(uuid4()), 1) is None
    assert {ids[1]} == await ports.storage.paid_by([*ids, DiagramId(uuid4())], frozenset({bob.id}))
    assert frozenset() == await ports.storage.paid_by(ids, frozenset())

    with pytest.raises(StorageFull):
        await create(ports, bob, Limits())
    with pytest.raises(StorageFull):
        await ports.diagrams.create(diagrams[1].threat_model_id, "Flow", "DFD-1.0.0", None)


async def test_a_transfer_that_nobody_but_the_giver_decides_leaves_the_charge(ports: Ports) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")
    await ports.model(alice)

    await ports.accounts.transfer(alice.id, bob.id, entry())

    assert (Usage(1), Usage()) == (await ports.storage.usage(alice.id), await ports.storage.usage(bob.id))


async def test_a_transfer_by_an_administrator_moves_the_charge(ports: Ports) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")
    model = await ports.model(alice)
    diagram = await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None)
    await saved(ports, diagram.id, bytes(10))

    await ports.accounts.transfer(alice.id, bob.id, entry(), with_charge=True)

    assert Usage() == await ports.storage.usage(alice.id)
    assert Usage(1, 1, 110) == await ports.storage.usage(bob.id)
    await saved(ports, diagram.id, bytes(10))
    assert Usage(1, 1, 220) == await ports.storage.usage(bob.id)


async def test_an_account_that_goes_is_charged_for_nothing_and_nobody_else_is(ports: Ports) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")
    model = await ports.model(alice)
    await ports.model(bob)

    await ports.accounts.delete(alice.id, entry())

    with pytest.raises(NotFound):
        await ports.threat_models.get(model.id)
    assert (Usage(), Usage(1)) == (await ports.storage.usage(alice.id), await ports.storage.usage(bob.id))


async def test_who_is_gone_makes_nothing(ports: Ports) -> None:
    alice = await ports.user("alice")
    await ports.accounts.delete(alice.id, entry())

    with pytest.raises(NotFound):
        await ports.model(alice)


async def test_what_is_in_a_threat_model_weighs_and_no_more_once_it_is_purged(ports: Ports) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")
    model, other = await ports.model(alice), await ports.model(alice)

    async def weight(user: User) -> int:
        return (await ports.storage.usage(user.id)).stored_bytes

    note, later = await made(ports, model.id, NOTE, draft(NOTE, content="x" * 100), draft(NOTE, content="x"))
    (threat,) = await made(ports, other.id, THREAT, draft(THREAT, {"key": "value"}))
    assert 3 * 1024 + 101 + 2 * len("{}") + len('{"key": "value"}') == await weight(alice)
    assert 0 == await weight(bob)

    longer = [ChildChange(note.id, to(draft(NOTE, content="y" * 300)))]
    await ports.children.change(model.id, NOTE, longer, UPDATED)
    renamed = [ChildChange(threat.id, to(draft(THREAT, name="z" * 200, metadata={"key": "value"})))]
    await ports.children.change(other.id, THREAT, renamed, UPDATED)
    before = 3 * 1024 + 301 + 2 * len("{}") + len('{"key": "value"}')
    assert before == await weight(alice)

    await ports.accounts.transfer(alice.id, bob.id, entry(), with_charge=True)
    assert (0, before) == (await weight(alice), await weight(bob))
    await ports.children.mark(model.id, NOTE, [later.id], DELETED, deleted=True)
    await ports.threat_models.delete(other.id)
    assert before == await weight(bob)
    await purge(ports)
    assert 1024 + 300 + len("{}") == await weight(bob)
    assert Usage(1, 0, 1024 + 300 + len("{}")) == await ports.storage.usage(bob.id)
