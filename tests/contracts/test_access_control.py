"""The port `AccessControl`: whom a grant means."""

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from tests.contracts.conftest import Ports
from tmi.domain.errors import NotFound
from tmi.domain.ids import DiagramId, SignInId, ThreatModelId, UserId
from tmi.domain.model import User
from tmi.domain.ports import (
    Access,
    Entrant,
    Happened,
    Page,
    Signal,
    Standing,
    ThreatModelChange,
    ThreatModelFilter,
)
from tmi.domain.roles import Grant, Principal, PrincipalType, Role


def grant(type_: PrincipalType, provider: str, provider_id: str, role: Role) -> Grant:
    return Grant(Principal(type_, provider, provider_id), role)


async def role_of(ports: Ports, user: User, *grants: Grant) -> Role | None:
    model = await ports.model(await ports.user("creator"), *grants)
    return await ports.access.to_threat_model(user.id, model.id)


@pytest.mark.parametrize("role", list(Role))
async def test_a_user_has_the_role_that_was_given(ports: Ports, role: Role) -> None:
    bob = await ports.user("bob")

    assert role is await role_of(ports, bob, grant("user", "tmi", "bob@tmi.local", role))


async def test_who_is_not_named_has_no_role(ports: Ports) -> None:
    bob = await ports.user("bob")

    assert None is await role_of(ports, bob, grant("user", "tmi", "carol@tmi.local", Role.OWNER))


async def test_the_highest_role_wins(ports: Ports) -> None:
    bob = await ports.user("bob")
    await ports.add_to_group("tmi", "ops", bob.id)
    grants = [
        grant("group", "tmi", "everyone", Role.READER),
        grant("group", "tmi", "ops", Role.OWNER),
        grant("user", "tmi", "bob@tmi.local", Role.WRITER),
    ]

    assert Role.WRITER is await role_of(ports, bob, grants[0], grants[2])
    assert Role.OWNER is await role_of(ports, bob, *grants)


async def test_the_roles_of_many_on_threat_models_are_told_in_their_order(ports: Ports) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")
    shared = await ports.model(alice, grant("user", "tmi", "bob@tmi.local", Role.READER))
    own, gone = await ports.model(alice), await ports.model(alice)
    await ports.threat_models.delete(gone.id)
    asked = [
        (bob.id, shared.id),
        (alice.id, own.id),
        (bob.id, own.id),
        (alice.id, gone.id),
        (alice.id, ThreatModelId(uuid4())),
        (UserId(uuid4()), shared.id),
        (alice.id, shared.id),
    ]
    assert [Role.READER, Role.OWNER, None, None, None, None, Role.OWNER] == list(
        await ports.access.to_threat_models(asked)
    )
    assert [] == list(await ports.access.to_threat_models([]))


async def test_a_user_may_be_named_before_the_first_sign_in(ports: Ports) -> None:
    model = await ports.model(await ports.user(), grant("user", "corp", "dave@example.com", Role.WRITER))

    dave = await ports.users.sign_in("corp", "00u1dAve", "Dave@Example.com", "Dave", email_verified=True)

    assert Role.WRITER is await ports.access.to_threat_model(dave.id, model.id)


@pytest.mark.parametrize(
    ("provider", "provider_id", "expected"),
    [
        ("corp", "00u1dAve", Role.READER),
        ("corp", "00U1DAVE", None),
        ("corp", "DAVE@example.com", Role.READER),
        ("corp", "dave@example.org", None),
        ("corp", "00u1", None),
        ("other", "00u1dAve", None),
        ("other", "dave@example.com", None),
        ("*", "dave@example.com", None),
    ],
)
async def test_a_user_is_known_by_the_providers_id_or_by_the_email_there(
    ports: Ports, provider: str, provider_id: str, expected: Role | None
) -> None:
    dave = await ports.users.sign_in("corp", "00u1dAve", "dave@example.com", "Dave", email_verified=True)

    assert expected is await role_of(ports, dave, grant("user", provider, provider_id, Role.READER))


async def test_an_email_that_only_unicode_folds_to_another_is_somebody_else(ports: Ports) -> None:
    kelvin = await ports.users.sign_in(
        "corp", "1", "mi\N{KELVIN SIGN}e@example.com", "Kelvin", email_verified=True
    )

    assert None is await role_of(ports, kelvin, grant("user", "corp", "mike@example.com", Role.READER))


async def test_an_address_that_the_provider_does_not_vouch_for_means_nobody(ports: Ports) -> None:
    alice, named = await ports.user(), grant("user", "corp", "dave@example.com", Role.WRITER)
    model = await ports.model(alice, named)
    diagram = await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None)

    mallory = await ports.users.sign_in("corp", "666", "dave@example.com", "Mallory")
    session = await ports.sign_ins.start(mallory.id, "token", timedelta(hours=1))

    assert None is await ports.access.to_threat_model(mallory.id, model.id)
    assert None is (await ports.access.to_diagram(mallory.id, diagram.id)).role
    assert {mallory.id: None} == await ports.access.to_diagram_of_all([mallory.id], diagram.id)
    standing = await ports.access.standings([Entrant(mallory.id, session.id, diagram.id)])
    assert [Standing(True, model.id, None, "corp")] == list(standing)
    assert ([], 0) == await ports.threat_models.visible_to(mallory.id, Page(10, 0))
    assert Role.READER is await role_of(ports, mallory, grant("user", "corp", "666", Role.READER))


async def test_a_vouched_address_that_is_taken_back_means_nobody_any_more(ports: Ports) -> None:
    named = grant("user", "corp", "dave@example.com", Role.WRITER)
    dave = await ports.users.sign_in("corp", "1", "dave@example.com", "Dave", email_verified=True)
    assert Role.WRITER is await role_of(ports, dave, named)

    await ports.users.sign_in("corp", "1", "dave@example.com", "Dave")

    assert None is await role_of(ports, dave, named)


async def test_an_address_means_the_last_who_had_it_verified_there(ports: Ports) -> None:
    named = grant("user", "corp", "dave@example.com", Role.WRITER)
    before = await ports.users.sign_in("corp", "1", "dave@example.com", "Dave", email_verified=True)
    elsewhere = await ports.users.sign_in("other", "1", "dave@example.com", "Dave", email_verified=True)
    unverified = await ports.users.sign_in("corp", "3", "dave@example.com", "Dave")
    assert [before.id] == await holders(ports, "Dave@example.com", before, unverified)

    after = await ports.users.sign_in("corp", "2", "DAVE@example.com", "Dave", email_verified=True)

    assert [None, None, Role.WRITER] == [await role_of(ports, u, named) for u in (before, unverified, after)]
    assert [after.id, elsewhere.id] == await holders(ports, "dave@example.com", before, after, elsewhere)


async def holders(ports: Ports, address: str, *people: User) -> list[UserId]:
    """Which of them the address means."""
    now = [await ports.users.get(user.id) for user in people]
    return [user.id for user in now if user.is_called(address)]


async def test_of_many_who_bring_one_address_at_once_one_has_it(ports: Ports) -> None:
    people = await asyncio.gather(
        *(
            ports.users.sign_in("corp", str(n % 4), "dave@example.com", "Dave", email_verified=True)
            for n in range(16)
        )
    )

    assert 1 == len(await holders(ports, "dave@example.com", *people[:4]))


async def test_people_who_change_addresses_with_each_other_at_once_wait_for_nobody_in_a_circle(
    ports: Ports,
) -> None:
    people, addresses = range(4), [f"{name}@example.com" for name in ("ann", "ben", "cat", "dan")]
    for turn in range(9):
        brought = [(person, addresses[(person + turn) % 4]) for person in people]
        users = await asyncio.gather(
            *(
                ports.users.sign_in("corp", str(person), address, "X", email_verified=True)
                for person, address in brought * 2
            )
        )

        for person, address in brought:
            assert [users[person].id] == await holders(ports, address, *users[:4])


async def told(ports: Ports, *changes: Awaitable[object]) -> set[UUID]:
    """Whose roles the changes may have changed, by what every node hears."""
    mark, heard = Signal(Happened.SETTINGS_CHANGED, (uuid4(),)), asyncio.Queue[Signal | None]()
    people: set[UUID] = set()
    async with ports.signals.hearing(heard.put_nowait), asyncio.timeout(5):
        await asyncio.gather(*changes)
        await ports.signals.publish(mark)
        while (signal := await heard.get()) != mark:
            assert signal is not None
            assert signal.happened is Happened.PEOPLE_CHANGED
            people.update(signal.ids)
    return people


async def test_who_loses_an_address_to_another_or_brings_a_new_one_is_told_of(ports: Ports) -> None:
    def brings(number: int, address: str, *, verified: bool = True) -> Awaitable[User]:
        return ports.users.sign_in("corp", str(number), address, "X", email_verified=verified)

    people = [await brings(number, f"{number}@example.com") for number in range(4)]
    ids = [user.id for user in people]

    assert set() == await told(ports, brings(0, "0@example.com"), brings(9, "9@example.com"))
    assert {ids[0]} == await told(ports, brings(0, "new@example.com"))
    assert {ids[0], ids[1]} == await told(ports, brings(1, "NEW@example.com"))
    assert {ids[0]} == await told(ports, brings(0, "other@example.com", verified=False))
    assert set(ids) <= await told(ports, *(brings(number, "dave@example.com") for number in range(8)))


async def test_the_first_owner_shown_is_none_whose_address_is_unverified(ports: Ports) -> None:
    alice = await ports.user()
    model = await ports.model(alice)
    mallory = await ports.users.sign_in("corp", "666", "dave@example.com", "Mallory")
    grants = (grant("user", "corp", "dave@example.com", Role.OWNER), *model.grants)

    changed = await ports.threat_models.update(model.id, model.version, ThreatModelChange(grants=grants))

    assert mallory.id != alice.id
    assert alice == changed.owner


async def test_owners_are_not_found_by_the_name_of_somebody_with_their_unverified_address(
    ports: Ports,
) -> None:
    alice = await ports.user()
    await ports.model(alice, grant("user", "corp", "dave@example.com", Role.OWNER))
    await ports.users.sign_in("corp", "666", "dave@example.com", "Mallory")

    async def total(part: str) -> int:
        return (await ports.threat_models.visible_to(alice.id, Page(10, 0), ThreatModelFilter(owner=part)))[1]

    assert (0, 1) == (await total("Mallory"), await total("dave@"))


async def test_the_members_of_a_group_have_its_role(ports: Ports) -> None:
    bob, carol = await ports.user("bob"), await ports.user("carol")
    await ports.add_to_group("corp", "ops", bob.id)
    given = grant("group", "corp", "ops", Role.WRITER)

    assert [Role.WRITER, None] == [await role_of(ports, user, given) for user in (bob, carol)]


@pytest.mark.parametrize(("provider", "name"), [("other", "ops"), ("corp", "OPS"), ("corp", "op")])
async def test_a_group_is_known_by_provider_and_id(ports: Ports, provider: str, name: str) -> None:
    bob = await ports.user("bob")
    await ports.add_to_group("corp", "ops", bob.id)

    assert None is await role_of(ports, bob, grant("group", provider, name, Role.WRITER))


async def test_a_user_named_as_a_group_and_a_group_named_as_a_user_mean_nobody(ports: Ports) -> None:
    bob = await ports.user("bob")
    await ports.add_to_group("tmi", "ops", bob.id)

    assert None is await role_of(ports, bob, grant("group", "tmi", "bob@tmi.local", Role.OWNER))
    assert None is await role_of(ports, bob, grant("user", "tmi", "ops", Role.OWNER))
    assert None is await role_of(ports, bob, grant("user", "tmi", "everyone", Role.OWNER))


@pytest.mark.parametrize(("provider", "expected"), [("tmi", Role.READER), ("*", Role.READER), ("corp", None)])
async def test_everyone_means_every_user_of_any_provider(
    ports: Ports, provider: str, expected: Role | None
) -> None:
    dave = await ports.users.sign_in("corp", "1", "dave@example.com", "Dave")

    assert expected is await role_of(ports, dave, grant("group", provider, "everyone", Role.READER))


async def test_a_user_id_that_nobody_has_has_no_role_even_where_everyone_has(ports: Ports) -> None:
    model = await ports.model(await ports.user(), grant("group", "tmi", "everyone", Role.READER))

    assert None is await ports.access.to_threat_model(UserId(uuid4()), model.id)


async def test_a_diagram_inherits_the_roles_of_its_threat_model(ports: Ports) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")
    model = await ports.model(alice)
    diagram = await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None)

    assert Access(model.id, Role.OWNER) == await ports.access.to_diagram(alice.id, diagram.id)
    assert Access(model.id, None) == await ports.access.to_diagram(bob.id, diagram.id)


async def test_a_change_of_grants_counts_at_once(ports: Ports) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")
    model = await ports.model(alice, grant("user", "tmi", "bob@tmi.local", Role.WRITER))
    diagram = await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None)

    await ports.threat_models.update(model.id, 1, ThreatModelChange(grants=model.grants[:1]))

    assert Access(model.id, None) == await ports.access.to_diagram(bob.id, diagram.id)


async def test_the_roles_of_many_come_at_once(ports: Ports) -> None:
    alice, bob, carol = [await ports.user(name) for name in ("alice", "bob", "carol")]
    model = await ports.model(alice, grant("user", "tmi", "bob@tmi.local", Role.READER))
    diagram = await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None)
    stranger = UserId(uuid4())

    roles = await ports.access.to_diagram_of_all([alice.id, bob.id, carol.id, stranger], diagram.id)

    assert {alice.id: Role.OWNER, bob.id: Role.READER, carol.id: None, stranger: None} == roles
    assert {} == await ports.access.to_diagram_of_all([], diagram.id)
    assert {carol.id: None} == await ports.access.to_diagram_of_all([carol.id], diagram.id)


async def test_what_does_not_exist_is_not_found(ports: Ports) -> None:
    alice = await ports.user()

    with pytest.raises(NotFound):
        await ports.access.to_diagram(alice.id, DiagramId(uuid4()))
    with pytest.raises(NotFound):
        await ports.access.to_threat_model(alice.id, ThreatModelId(uuid4()))
    with pytest.raises(NotFound):
        await ports.access.to_diagram_of_all([alice.id], DiagramId(uuid4()))


async def test_many_entrants_are_told_how_they_stand_in_their_order(ports: Ports) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")
    diagram = await ports.diagram()
    of_alice = await ports.sign_ins.start(alice.id, "a", timedelta(hours=1))
    of_bob = await ports.sign_ins.start(bob.id, "b", timedelta(hours=1))
    gone = await ports.sign_ins.start(alice.id, "c", timedelta(microseconds=1))
    nowhere, nobody = DiagramId(uuid4()), SignInId(uuid4())
    asked = [
        Entrant(alice.id, of_alice.id, diagram.id),
        Entrant(bob.id, of_bob.id, diagram.id),
        Entrant(bob.id, of_alice.id, diagram.id),
        Entrant(alice.id, gone.id, diagram.id),
        Entrant(alice.id, of_alice.id, nowhere),
        Entrant(alice.id, nobody, nowhere),
        Entrant(alice.id, of_alice.id, diagram.id),
    ]
    model = diagram.threat_model_id
    assert [
        Standing(True, model, Role.OWNER, "tmi"),
        Standing(True, model, None, "tmi"),
        Standing(False, model, None, None),
        Standing(False, model, Role.OWNER, None),
        Standing(True, None, None, "tmi"),
        Standing(False, None, None, None),
        Standing(True, model, Role.OWNER, "tmi"),
    ] == list(await ports.access.standings(asked))
    assert [] == list(await ports.access.standings([]))
