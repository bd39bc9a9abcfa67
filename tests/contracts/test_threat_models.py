"""The port `ThreatModels`."""

from dataclasses import replace
from uuid import uuid4

import pytest

from tests.contracts.conftest import Ports
from tmi.domain.errors import BadInput, Conflict, LastOwner, NotFound, VersionMismatch
from tmi.domain.ids import ThreatModelId
from tmi.domain.model import NewThreatModel, User
from tmi.domain.ports import Page, ThreatModelChange
from tmi.domain.roles import Grant, Principal, PrincipalType, Role


def grant(provider_id: str, role: Role = Role.READER, type_: PrincipalType = "user") -> Grant:
    return Grant(Principal(type_, "tmi", provider_id, provider_id, provider_id.title()), role)


def owner(user: User) -> Grant:
    return Grant(Principal("user", user.provider, user.provider_id, user.email, user.name), Role.OWNER)


async def test_a_new_model_has_what_was_given_and_its_creator_as_owner(ports: Ports) -> None:
    alice = await ports.user()
    bob = grant("bob@tmi.local", Role.WRITER)

    model = await ports.threat_models.create(
        alice, NewThreatModel("Shop", "An online shop", "LINDDUN", "https://issues.example/1", True, (bob,))
    )

    assert (1, 1, "Shop", "An online shop") == (model.alias, model.version, model.name, model.description)
    assert ("LINDDUN", "https://issues.example/1", True) == (
        model.threat_model_framework,
        model.issue_uri,
        model.is_confidential,
    )
    assert (owner(alice), bob) == model.grants
    assert (alice, alice) == (model.owner, model.created_by)
    assert model == await ports.threat_models.get(model.id)


async def test_a_creator_who_names_herself_a_reader_is_an_owner_once(ports: Ports) -> None:
    alice = await ports.user()
    bob = grant("bob@tmi.local", Role.OWNER)

    model = await ports.model(alice, bob, grant("alice@tmi.local", Role.READER))

    assert (owner(alice), bob) == model.grants


async def test_a_principal_named_twice_is_refused(ports: Ports) -> None:
    alice = await ports.user()
    twice = (grant("bob@tmi.local", Role.READER), grant("bob@tmi.local", Role.WRITER))
    model = await ports.model(alice)

    with pytest.raises(BadInput):
        await ports.model(alice, *twice)
    with pytest.raises(BadInput):
        await ports.threat_models.update(model.id, 1, ThreatModelChange(grants=(owner(alice), *twice)))


async def test_a_user_and_a_group_of_one_name_are_two_principals(ports: Ports) -> None:
    grants = (grant("ops"), grant("ops", type_="group"))

    model = await ports.model(await ports.user(), *grants)

    assert grants == model.grants[1:]


async def test_aliases_count_from_one_and_are_never_given_twice(ports: Ports) -> None:
    alice = await ports.user()
    models = [await ports.model(alice) for _ in range(3)]
    await ports.threat_models.delete(models[2].id)

    models.append(await ports.model(alice))

    assert [1, 2, 3, 4] == [m.alias for m in models]


async def test_a_model_that_could_not_be_stored_leaves_no_gap_in_the_aliases(ports: Ports) -> None:
    alice = await ports.user()
    with pytest.raises(BadInput):
        await ports.model(alice, grant("bob"), grant("bob"))

    assert 1 == (await ports.model(alice)).alias


async def test_an_unknown_model_is_not_found(ports: Ports) -> None:
    unknown = ThreatModelId(uuid4())

    with pytest.raises(NotFound):
        await ports.threat_models.get(unknown)
    with pytest.raises(NotFound):
        await ports.threat_models.update(unknown, 1, ThreatModelChange(name="x"))
    with pytest.raises(NotFound):
        await ports.threat_models.delete(unknown)


async def test_one_sees_the_models_one_has_a_role_on_newest_first(ports: Ports) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")
    own = await ports.model(bob, name="own")
    await ports.model(alice, name="foreign")
    shared = await ports.model(alice, grant("bob@tmi.local"), name="shared")
    public = await ports.model(alice, grant("everyone", type_="group"), name="public")
    await ports.diagrams.create(shared.id, "Flow", "DFD-1.0.0", None)
    await ports.diagrams.create(shared.id, "Flow 2", "DFD-1.0.0", None)

    shown, total = await ports.threat_models.visible_to(bob.id, Page(20, 0))

    assert [replace(model, grants=()) for model in (public, shared, own)] == [s.model for s in shown]
    assert [0, 2, 0] == [s.diagram_count for s in shown]
    assert 3 == total


async def test_a_page_is_a_slice_and_the_total_counts_all(ports: Ports) -> None:
    alice = await ports.user()
    for _ in range(5):
        await ports.model(alice, grant("alice@tmi.local"), grant("everyone", type_="group"))

    pages = [await ports.threat_models.visible_to(alice.id, Page(2, offset)) for offset in (0, 2, 4, 6)]

    assert [[5, 4], [3, 2], [1], []] == [[s.model.alias for s in shown] for shown, _ in pages]
    assert [5, 5, 5, 5] == [total for _, total in pages]


async def test_a_change_raises_the_version_and_leaves_the_rest(ports: Ports) -> None:
    model = await ports.model(await ports.user(), grant("bob@tmi.local"))

    changed = await ports.threat_models.update(model.id, 1, ThreatModelChange(name="New", description="Text"))

    assert ("New", "Text", 2, model.grants) == (
        changed.name,
        changed.description,
        changed.version,
        changed.grants,
    )
    assert changed.modified_at > model.modified_at
    assert changed == await ports.threat_models.get(model.id)


async def test_a_description_can_be_emptied(ports: Ports) -> None:
    model = await ports.model(await ports.user())
    await ports.threat_models.update(model.id, 1, ThreatModelChange(description="Text"))

    kept = await ports.threat_models.update(model.id, 2, ThreatModelChange(name="New"))
    cleared = await ports.threat_models.update(model.id, 3, ThreatModelChange(clear_description=True))

    assert ["Text", None] == [kept.description, cleared.description]


async def test_a_change_of_a_former_version_is_a_conflict_and_changes_nothing(ports: Ports) -> None:
    model = await ports.model(await ports.user())
    changed = await ports.threat_models.update(model.id, 1, ThreatModelChange(name="First"))

    with pytest.raises(Conflict):
        await ports.threat_models.update(model.id, 1, ThreatModelChange(name="Second"))

    assert changed == await ports.threat_models.get(model.id)


async def test_the_last_user_who_owns_a_model_cannot_be_removed(ports: Ports) -> None:
    alice = await ports.user()
    model = await ports.model(alice)
    group = grant("ops", Role.OWNER, "group")

    for grants in ((), (group,), (grant("alice@tmi.local", Role.WRITER), group)):
        with pytest.raises(LastOwner):
            await ports.threat_models.update(model.id, 1, ThreatModelChange(grants=grants))

    assert model == await ports.threat_models.get(model.id)


async def test_new_grants_replace_the_old_ones_in_their_order(ports: Ports) -> None:
    model = await ports.model(await ports.user(), grant("bob@tmi.local"))
    grants = (
        grant("zoe@tmi.local", Role.WRITER),
        grant("carol@tmi.local", Role.OWNER),
        grant("ops", type_="group"),
    )

    changed = await ports.threat_models.update(model.id, 1, ThreatModelChange(grants=grants))

    assert grants == changed.grants


async def test_the_owner_is_the_first_of_the_owners_who_has_signed_in(ports: Ports) -> None:
    alice = await ports.user("alice")
    model = await ports.model(alice)
    grants = (grant("Bob@tmi.local", Role.OWNER), grant("carol@tmi.local", Role.OWNER))

    before = await ports.threat_models.update(model.id, 1, ThreatModelChange(grants=grants))
    carol = await ports.user("carol")
    between = await ports.threat_models.get(model.id)
    bob = await ports.user("bob")
    after = await ports.threat_models.get(model.id)

    assert [None, carol, bob] == [before.owner, between.owner, after.owner]
    assert alice == after.created_by


async def test_a_model_of_another_version_than_expected_is_not_deleted(ports: Ports) -> None:
    alice = await ports.user()
    model = await ports.model(alice)
    diagram = await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None)

    with pytest.raises(VersionMismatch):
        await ports.threat_models.delete(model.id, expected=2)

    assert [diagram.id] == list(await ports.diagrams.ids_of(model.id))
    assert [diagram.id] == list(await ports.threat_models.delete(model.id, expected=1))


async def test_a_model_goes_with_everything_in_it(ports: Ports) -> None:
    alice = await ports.user()
    model, other = await ports.model(alice), await ports.model(alice)
    diagrams = [(await ports.diagrams.create(model.id, name, "DFD-1.0.0", None)).id for name in ("a", "b")]
    kept = await ports.diagrams.create(other.id, "kept", "DFD-1.0.0", None)

    assert diagrams == list(await ports.threat_models.delete(model.id))

    assert [kept.id] == list(await ports.diagrams.ids_of(other.id))
    assert 1 == (await ports.threat_models.visible_to(alice.id, Page(20, 0)))[1]
    for diagram in diagrams:
        with pytest.raises(NotFound):
            await ports.log.load(diagram)
