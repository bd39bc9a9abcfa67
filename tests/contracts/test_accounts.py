"""The ports `Accounts`, `Challenges`, `Groups`, `Memberships` and `Audit`."""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from tests.contracts.conftest import Ports
from tests.contracts.test_access_control import grant, holders, told
from tmi.domain.errors import BadInput, Conflict, Forbidden, LastOwner, NotFound
from tmi.domain.events import HANDED_OVER, LEFT, ChangeType, Event, ObjectType
from tmi.domain.ids import AuditId, GroupId, UserId
from tmi.domain.model import ADMINISTRATORS_GROUP, EVERYONE_GROUP, AuditEntry, Group, ThreatModel, User
from tmi.domain.ports import (
    AccountChange,
    AccountFilter,
    AuditFilter,
    AuditPage,
    GroupFilter,
    Page,
    ThreatModelChange,
)
from tmi.domain.roles import Principal, Role
from tmi.domain.sign_ins import Refusal, Refused

PAGE = Page(50, 0)
NOBODY = UserId(uuid4())


def entry(
    what: str = "test", *, email: str = "root@tmi.local", path: str = "/admin/x", days: int = 0
) -> AuditEntry:
    at = datetime.now(UTC) - timedelta(days=days)
    return AuditEntry(
        AuditId(uuid4()), at, NOBODY, "tmi", email, email, "Root", "POST", path, what, None, "new", None
    )


async def recorded(ports: Ports) -> list[str]:
    """What is in the audit, newest first."""
    return [found.what for found in (await ports.audit.page(AuditFilter(), 100, None, newer=False)).entries]


# --- accounts -----------------------------------------------------------------------------------


async def test_accounts_are_listed_by_filter_and_order(ports: Ports) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")
    eve = await ports.users.sign_in("corp", "e", "Eve@corp.example", "Eve")

    async def ids(wanted: AccountFilter, page: Page = PAGE) -> list[UserId]:
        found, total = await ports.accounts.matching(wanted, page)
        assert total >= len(found)
        return [account.user.id for account in found]

    assert [eve.id, bob.id, alice.id] == await ids(AccountFilter())
    assert [alice.id, bob.id, eve.id] == await ids(AccountFilter(sort_by="name", descending=False))
    assert [bob.id] == await ids(AccountFilter(sort_by="name", descending=False), Page(1, 1))
    assert [] == await ids(AccountFilter(), Page(0, 0))
    assert [eve.id] == await ids(AccountFilter(provider="corp"))
    assert [eve.id] == await ids(AccountFilter(email="eve@CORP"))
    assert [bob.id] == await ids(AccountFilter(name="BO"))
    assert [] == await ids(AccountFilter(email="%"))
    now = datetime.now(UTC)
    assert [] == await ids(AccountFilter(created_after=now + timedelta(hours=1)))
    assert 3 == len(await ids(AccountFilter(created_before=now + timedelta(hours=1))))
    assert 3 == len(await ids(AccountFilter(last_login_after=now - timedelta(hours=1))))
    assert [] == await ids(AccountFilter(last_login_before=now - timedelta(hours=1)))


async def test_an_account_tells_its_groups_and_what_it_owns(ports: Ports) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")
    await ports.model(alice, grant("user", "tmi", "bob@tmi.local", Role.WRITER))
    ops = await ports.groups.create("ops", "Ops", None, entry())
    await ports.memberships.add(ops.id, alice.id, bob.id, None, entry())

    shown = await ports.accounts.get(alice.id)
    assert (alice, ("ops",), False, 1, True) == (
        shown.user,
        shown.groups,
        shown.is_administrator,
        shown.owned,
        shown.user.email_verified,
    )
    await ports.memberships.add(ADMINISTRATORS_GROUP, alice.id, bob.id, None, entry())
    assert (await ports.accounts.get(alice.id)).is_administrator
    assert 0 == (await ports.accounts.get(bob.id)).owned
    with pytest.raises(NotFound):
        await ports.accounts.get(NOBODY)


async def test_an_account_changes_together_with_its_audit_entry(ports: Ports) -> None:
    alice = await ports.user("alice")
    changed = await ports.accounts.change(
        alice.id, AccountChange(name="Alicia", email_verified=False), entry("changed")
    )

    assert ("Alicia", alice.email, False) == (
        changed.user.name,
        changed.user.email,
        changed.user.email_verified,
    )
    assert changed == await ports.accounts.get(alice.id)
    assert ["changed"] == await recorded(ports)
    with pytest.raises(NotFound):
        await ports.accounts.change(NOBODY, AccountChange(name="x"), entry("not done"))
    assert ["changed"] == await recorded(ports)


async def test_an_account_whose_address_was_changed_has_none_that_is_verified(ports: Ports) -> None:
    alice = await ports.user("alice")

    same = await ports.accounts.change(alice.id, AccountChange(email=alice.email), entry())
    other = await ports.accounts.change(alice.id, AccountChange(email="bob@tmi.local"), entry())
    said = await ports.accounts.change(alice.id, AccountChange(email="b@c.org", email_verified=True), entry())

    assert [True, False, True] == [account.user.email_verified for account in (same, other, said)]


@pytest.mark.parametrize("change", [AccountChange(email="BOB@tmi.local", email_verified=True)])
async def test_an_address_that_an_administrator_calls_verified_has_one_holder(
    ports: Ports, change: AccountChange
) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")
    model = await ports.model(await ports.user("carol"), grant("user", "tmi", "bob@TMI.local", Role.WRITER))

    changed = await ports.accounts.change(alice.id, change, entry())

    assert changed.user.email_verified
    assert not (await ports.users.get(bob.id)).email_verified
    roles = [await ports.access.to_threat_model(user.id, model.id) for user in (alice, bob)]
    assert [Role.WRITER, None] == roles


async def test_who_loses_an_address_by_what_an_administrator_says_is_told_of(ports: Ports) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")

    def says(user: User, change: AccountChange) -> Awaitable[object]:
        return ports.accounts.change(user.id, change, entry())

    taken = AccountChange(email="BOB@tmi.local", email_verified=True)
    assert {alice.id, bob.id} == await told(ports, says(alice, taken))
    assert set() == await told(ports, says(alice, taken))
    assert {bob.id} == await told(ports, says(bob, AccountChange(name="Robert")))
    assert {alice.id, bob.id} == await told(ports, says(bob, AccountChange(email_verified=True)))
    assert {bob.id} == await told(ports, says(bob, AccountChange(email_verified=False)))


async def test_administrators_who_change_addresses_meanwhile_wait_for_nobody_in_a_circle(
    ports: Ports,
) -> None:
    addresses = [f"{name}@example.com" for name in ("ann", "ben", "cat", "dan")]
    users = [await ports.users.sign_in("corp", str(person), "x@example.com", "X") for person in range(4)]
    for turn in range(9):
        brought = [addresses[(person + turn) % 4] for person in range(4)]
        await asyncio.gather(
            *(
                ports.accounts.change(user.id, AccountChange(email=address, email_verified=True), entry())
                for user, address in zip(users, brought, strict=True)
            ),
            *(
                ports.users.sign_in("corp", user.provider_id, address, "X", email_verified=True)
                for user, address in zip(users, brought, strict=True)
            ),
        )

        for user, address in zip(users, brought, strict=True):
            assert [user.id] == await holders(ports, address, *users)


async def test_a_reviewer_whose_account_goes_reviews_nothing(ports: Ports) -> None:
    alice, bob, carol = [await ports.user(name) for name in ("alice", "bob", "carol")]
    models = []
    for reviewer in (bob, carol):
        principal = Principal("user", reviewer.provider, reviewer.provider_id, reviewer.email, reviewer.name)
        model = await ports.model(alice)
        change = ThreatModelChange(security_reviewer=principal)
        models.append(await ports.threat_models.update(model.id, model.version, change))

    await ports.accounts.delete(bob.id, entry())

    after = [await ports.threat_models.get(model.id) for model in models]
    assert [1, 0] == [now.version - before.version for now, before in zip(after, models, strict=True)]
    reviewed = [model.security_reviewer for model in after]
    assert [None, carol.provider_id] == [one and one.provider_id for one in reviewed]


async def newest(ports: Ports, model: ThreatModel) -> Event:
    """The last event of a threat model itself, with its state."""
    found, _ = await ports.trail.of_object(model.id, ObjectType.THREAT_MODEL, model.id, Page(1, 0))
    return (await ports.trail.get(found[0].event.id)).event


async def test_trails_tell_of_transfers_and_of_accounts_that_go(ports: Ports) -> None:
    alice, bob, carol = [await ports.user(name) for name in ("alice", "bob", "carol")]
    model = await ports.model(alice, grant("user", "tmi", "bob@tmi.local", Role.READER))
    other = await ports.model(bob)

    made = entry("transfer")
    await ports.accounts.transfer(alice.id, carol.id, made)
    after = await ports.threat_models.get(model.id)
    told = await newest(ports, model)
    assert (ChangeType.UPDATED, HANDED_OVER, after.version) == (told.change, told.summary, told.version)
    assert (made.email, made.actor) == (told.actor.email, told.actor.user)
    assert told.state is not None
    roles = {grant["provider_id"]: grant["role"] for grant in told.state["authorization"]}
    assert {"alice@tmi.local": "writer", "bob@tmi.local": "reader", "carol@tmi.local": "owner"} == roles
    assert ChangeType.CREATED is (await newest(ports, other)).change

    await ports.accounts.delete(alice.id, entry("gone"))
    after = await ports.threat_models.get(model.id)
    told = await newest(ports, model)
    assert (ChangeType.UPDATED, LEFT, after.version) == (told.change, told.summary, told.version)
    assert told.state is not None
    left = sorted(grant["provider_id"] for grant in told.state["authorization"])
    assert ["bob@tmi.local", "carol@tmi.local"] == left


async def test_what_an_unverified_address_owns_is_neither_counted_nor_handed_over_nor_deleted(
    ports: Ports,
) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")
    dave = grant("user", "corp", "dave@example.com", Role.OWNER)
    model = await ports.model(alice, dave)
    mallory = await ports.users.sign_in("corp", "666", "dave@example.com", "Mallory")

    assert 0 == (await ports.accounts.get(mallory.id)).owned
    assert [] == list(await ports.accounts.transfer(mallory.id, bob.id, entry()))
    assert [] == list(await ports.accounts.delete(mallory.id, entry()))
    assert dave in (await ports.threat_models.get(model.id)).grants


async def test_an_account_goes_with_all_that_it_alone_owns_and_with_its_roles(ports: Ports) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")
    alone = await ports.model(alice, grant("user", "tmi", "bob@tmi.local", Role.WRITER))
    diagram = await ports.diagrams.create(alone.id, "Flow", "DFD-1.0.0", None)
    shared = await ports.model(alice, grant("user", "tmi", "bob@tmi.local", Role.OWNER))
    of_group = await ports.model(alice, grant("group", "tmi", "ops", Role.OWNER))
    others = await ports.model(bob, grant("user", "tmi", "ALICE@tmi.local", Role.READER))
    token = uuid4().hex
    sign_in = await ports.sign_ins.start(alice.id, token, timedelta(hours=1))

    assert [diagram.id] == list(await ports.accounts.delete(alice.id, entry("gone")))
    with pytest.raises(NotFound):
        await ports.users.get(alice.id)
    with pytest.raises(NotFound):
        await ports.threat_models.get(alone.id)
    assert (bob, None) == (
        (await ports.threat_models.get(shared.id)).owner,
        (await ports.threat_models.get(shared.id)).created_by,
    )
    assert shared.version + 1 == (await ports.threat_models.get(shared.id)).version
    assert ["ops"] == [
        g.principal.provider_id for g in (await ports.threat_models.get(of_group.id)).grants
    ]
    assert 1 == len((await ports.threat_models.get(others.id)).grants)
    assert None is await ports.sign_ins.get(sign_in.id)
    assert Refused(Refusal.UNKNOWN) == await ports.refresh_tokens.rotate(token, "next", timedelta(hours=1))
    assert ["gone"] == await recorded(ports)
    again = await ports.user("alice")
    assert None is await ports.access.to_threat_model(again.id, others.id)
    with pytest.raises(NotFound):
        await ports.accounts.delete(alice.id, entry())


async def test_ownership_is_handed_over_and_the_old_owner_stays_a_writer(ports: Ports) -> None:
    alice, bob, carol = [await ports.user(name) for name in ("alice", "bob", "carol")]
    plain = await ports.model(alice)
    as_reader = await ports.model(alice, grant("user", "tmi", "BOB@tmi.local", Role.READER))
    of_carol = await ports.model(carol, grant("user", "tmi", "alice@tmi.local", Role.WRITER))

    moved = await ports.accounts.transfer(alice.id, bob.id, entry("moved"))
    assert {plain.id, as_reader.id} == set(moved)
    for model in moved:
        assert Role.OWNER is await ports.access.to_threat_model(bob.id, model)
        assert Role.WRITER is await ports.access.to_threat_model(alice.id, model)
    assert 2 == len((await ports.threat_models.get(as_reader.id)).grants)
    assert None is await ports.access.to_threat_model(bob.id, of_carol.id)
    assert ["moved"] == await recorded(ports)
    assert [] == list(await ports.accounts.transfer(alice.id, bob.id, entry()))
    with pytest.raises(BadInput):
        await ports.accounts.transfer(bob.id, bob.id, entry())
    for pair in ((bob.id, NOBODY), (NOBODY, bob.id)):
        with pytest.raises(NotFound):
            await ports.accounts.transfer(*pair, entry())


async def test_a_challenge_is_met_once_in_time_by_its_own_user(ports: Ports) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")
    await ports.challenges.issue(alice.id, "first", timedelta(minutes=3))
    await ports.challenges.issue(alice.id, "second", timedelta(minutes=3))

    assert not await ports.challenges.redeem(alice.id, "first")
    assert not await ports.challenges.redeem(bob.id, "second")
    assert await ports.challenges.redeem(alice.id, "second")
    assert not await ports.challenges.redeem(alice.id, "second")
    await ports.challenges.issue(alice.id, "late", timedelta(seconds=-1))
    assert not await ports.challenges.redeem(alice.id, "late")


# --- groups -------------------------------------------------------------------------------------


async def test_the_built_in_groups_are_there_and_stay(ports: Ports) -> None:
    found, total = await ports.groups.matching(GroupFilter(is_builtin=True, by_name=True), PAGE)
    assert ([EVERYONE_GROUP, ADMINISTRATORS_GROUP], 2) == ([group.id for group in found], total)
    for group in (EVERYONE_GROUP, ADMINISTRATORS_GROUP):
        with pytest.raises(Forbidden):
            await ports.groups.delete(group, entry())
    alice = await ports.user()
    with pytest.raises(Forbidden):
        await ports.memberships.add(EVERYONE_GROUP, alice.id, alice.id, None, entry())
    with pytest.raises(Forbidden):
        await ports.memberships.remove(EVERYONE_GROUP, alice.id, entry())
    assert [] == await recorded(ports)


async def test_groups_are_created_changed_and_listed(ports: Ports) -> None:
    ops = await ports.groups.create("ops", "Ops", None, entry("created"))
    assert ("tmi", "ops", "Ops", None, False, 0, 0) == (
        ops.provider,
        ops.name,
        ops.title,
        ops.description,
        ops.is_builtin,
        ops.grants,
        ops.members,
    )
    with pytest.raises(Conflict):
        await ports.groups.create("ops", "Others", None, entry("not created"))
    changed = await ports.groups.change(ops.id, None, "Runs it", entry("changed"))
    assert ("Ops", "Runs it") == (changed.title, changed.description)
    assert changed == await ports.groups.get(ops.id)
    await ports.model(await ports.user(), grant("group", "tmi", "ops", Role.READER))

    async def names(wanted: GroupFilter) -> list[str]:
        return [group.name for group in (await ports.groups.matching(wanted, PAGE))[0]]

    assert ["ops"] == await names(GroupFilter(is_used=True))
    assert ["ops"] == await names(GroupFilter(name="OP"))
    assert [] == await names(GroupFilter(provider="corp"))
    assert ["administrators", "everyone", "ops"] == await names(GroupFilter(by_name=True, descending=False))
    assert ["changed", "created"] == await recorded(ports)
    with pytest.raises(NotFound):
        await ports.groups.change(GroupId(uuid4()), "x", None, entry())


async def in_group(ports: Ports) -> tuple[Group, User, ThreatModel]:
    """A group with bob in it, which may write on a threat model of alice's."""
    alice, bob = await ports.user("alice"), await ports.user("bob")
    ops = await ports.groups.create("ops", "Ops", None, entry("created"))
    model = await ports.model(alice, grant("group", "tmi", "ops", Role.WRITER))
    await ports.memberships.add(ops.id, bob.id, alice.id, "since May", entry("added"))
    return ops, bob, model


async def test_members_have_the_roles_of_their_group(ports: Ports) -> None:
    ops, bob, model = await in_group(ports)

    assert Role.WRITER is await ports.access.to_threat_model(bob.id, model.id)
    assert [(ops.id, "ops", "Ops")] == list(await ports.memberships.of_user(bob.id))
    members, total = await ports.memberships.of_group(ops.id, PAGE)
    assert (1, bob, "alice@tmi.local", "since May") == (
        total,
        members[0].user,
        members[0].added_by_email,
        members[0].notes,
    )
    assert ([], 1) == await ports.memberships.of_group(ops.id, Page(1, 1))
    with pytest.raises(Conflict):
        await ports.memberships.add(ops.id, bob.id, bob.id, None, entry())
    await ports.memberships.remove(ops.id, bob.id, entry("removed"))
    assert None is await ports.access.to_threat_model(bob.id, model.id)
    assert ["removed", "added", "created"] == await recorded(ports)
    with pytest.raises(NotFound):
        await ports.memberships.remove(ops.id, bob.id, entry())
    for group, user in ((GroupId(uuid4()), bob.id), (ops.id, NOBODY)):
        with pytest.raises(NotFound):
            await ports.memberships.add(group, user, bob.id, None, entry())
    with pytest.raises(NotFound):
        await ports.memberships.of_group(GroupId(uuid4()), PAGE)


async def test_a_group_goes_from_authorization_lists_too(ports: Ports) -> None:
    ops, bob, model = await in_group(ports)

    assert [bob.id] == list(await ports.groups.delete(ops.id, entry("deleted")))
    assert 1 == len((await ports.threat_models.get(model.id)).grants)
    assert "deleted" == (await recorded(ports))[0]
    again = await ports.groups.create("ops", "Ops", None, entry())
    assert 0 == again.grants
    with pytest.raises(NotFound):
        await ports.groups.delete(ops.id, entry())


async def test_a_group_that_is_the_only_owner_stays(ports: Ports) -> None:
    alice = await ports.user()
    ops = await ports.groups.create("ops", "Ops", None, entry("created"))
    model = await ports.model(alice, grant("group", "tmi", "ops", Role.OWNER))
    await ports.accounts.delete(alice.id, entry("gone"))

    with pytest.raises(LastOwner):
        await ports.groups.delete(ops.id, entry("not deleted"))
    assert 1 == len((await ports.threat_models.get(model.id)).grants)
    assert ["gone", "created"] == await recorded(ports)


# --- the audit ----------------------------------------------------------------------------------


async def test_the_audit_is_paged_both_ways(ports: Ports) -> None:
    made = [entry(f"e{n}") for n in range(7)]
    for one in made:
        await ports.audit.record(one)

    async def page(cursor: int | None, *, newer: bool = False) -> AuditPage:
        return await ports.audit.page(AuditFilter(), 3, cursor, newer=newer)

    def names(page: AuditPage) -> list[str]:
        return [found.what for found in page.entries]

    first = await page(None)
    assert (["e6", "e5", "e4"], 7, None) == (names(first), first.total, first.newer)
    second = await page(first.older)
    assert ["e3", "e2", "e1"] == names(second)
    last = await page(second.older)
    assert (["e0"], None) == (names(last), last.older)
    back = await page(second.newer, newer=True)
    assert (["e6", "e5", "e4"], None) == (names(back), back.newer)
    around = await page(await ports.audit.place_of(made[2].id))
    assert ["e2", "e1", "e0"] == names(around)
    assert [] == names(await page(0))


async def test_the_audit_is_filtered(ports: Ports) -> None:
    for one in (entry("a"), entry("b", email="Eve@tmi.local"), entry("c", path="/me"), entry("d", days=2)):
        await ports.audit.record(one)

    async def names(wanted: AuditFilter) -> list[str]:
        return [e.what for e in (await ports.audit.page(wanted, 10, None, newer=False)).entries]

    yesterday = datetime.now(UTC) - timedelta(days=1)
    assert ["b"] == await names(AuditFilter(email="eve@tmi.local"))
    assert ["c"] == await names(AuditFilter(path_prefix="/me"))
    assert ["a"] == await names(AuditFilter(what="a"))
    assert ["d"] == await names(AuditFilter(before=yesterday))
    assert ["c", "b", "a"] == await names(AuditFilter(after=yesterday))
    assert [] == await names(AuditFilter(method="PUT"))
    assert [] == await names(AuditFilter(provider="corp"))


async def test_an_entry_is_read_back_as_it_was_and_goes_after_its_time(ports: Ports) -> None:
    old, new = entry("old", days=2), entry("new")
    for one in (old, new):
        await ports.audit.record(one)

    assert new == await ports.audit.get(new.id)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    assert (1, 0) == (await ports.audit.purge(yesterday, 10), await ports.audit.purge(yesterday, 10))
    assert ["new"] == await recorded(ports)
    with pytest.raises(NotFound):
        await ports.audit.get(old.id)
    with pytest.raises(NotFound):
        await ports.audit.place_of(old.id)


async def test_a_change_of_roles_is_written_with_its_entry_or_not_at_all(ports: Ports) -> None:
    model = await ports.model(await ports.user())
    change = ThreatModelChange(
        grants=(*model.grants, grant("user", "tmi", "bob@tmi.local", Role.READER))
    )
    await ports.threat_models.update(model.id, model.version, change, entry("roles"))
    with pytest.raises(Conflict):
        await ports.threat_models.update(model.id, model.version, change, entry("stale"))

    assert ["roles"] == await recorded(ports)
