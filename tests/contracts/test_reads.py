"""The port `Reads`: what it gives, and to whom."""

import random
from datetime import datetime
from uuid import uuid4

import orjson
import pytest

from tests.contracts.conftest import Ports
from tests.contracts.test_children import ALL, DELETED, RESTORED, draft, made
from tmi.domain.children import ChildFilter
from tmi.domain.ids import ChildId, ThreatModelId
from tmi.domain.kinds import ASSET, KINDS, NOTE, THREAT
from tmi.domain.model import User
from tmi.domain.ports import Page, ThreatModelChange, ThreatModelFilter
from tmi.domain.roles import Grant, Principal, PrincipalType, Role

EVERYONE = Grant(Principal("group", "*", "everyone"), Role.READER)
MOST = 10


async def test_a_threat_model_is_what_the_other_ports_say_of_it(ports: Ports) -> None:
    alice = await ports.user()
    model = await ports.model(alice, EVERYONE)
    changed = await ports.threat_models.update(
        model.id,
        model.version,
        ThreatModelChange(
            description='Ünï "quoted"',
            status="in_review",
            security_reviewer=Principal("user", "tmi", "r@x.example", "r@x.example", "R"),
            metadata={"k": "v"},
        ),
    )
    diagrams = [await ports.diagrams.create(model.id, name, "DFD-1.0.0", "of it") for name in "ab"]
    for kind in KINDS:
        await made(ports, model.id, kind, draft(kind, {"b": "2"}), draft(kind))
    (gone,) = await made(ports, model.id, NOTE)
    await ports.children.mark(model.id, NOTE, [gone.id], DELETED, deleted=True)

    read = await ports.reads.model(alice.id, model.id, MOST)

    assert read is not None
    assert changed == read[0]
    assert diagrams == list(read[1].diagrams)
    assert await ports.reads.contents(model.id, MOST) == read[1]
    for kind in KINDS:
        page = await ports.reads.page(alice.id, model.id, kind, ChildFilter(), ALL)
        assert page is not None
        children, total = await ports.children.page(model.id, kind, ChildFilter(), ALL)
        assert [c for c in read[1].children if c.kind == kind.name] == list(page[0])
        assert (2, 2) == (total, page[1])
        for child, stored in zip(children, page[0], strict=True):
            assert (str(child.id), child.alias, child.version) == (stored.id, stored.alias, stored.version)
            assert (child.fields, child.metadata) == (
                orjson.loads(stored.fields),
                orjson.loads(stored.metadata),
            )
            assert (child.created_at, child.modified_at, child.auto_generated) == (
                datetime.fromisoformat(stored.created_at),
                datetime.fromisoformat(stored.modified_at),
                stored.auto_generated,
            )
            assert stored.created_at.endswith("+00")
            whole = await ports.reads.child(alice.id, model.id, kind, child.id)
            assert await ports.children.get(model.id, kind, child.id) == whole


async def test_nobody_without_a_role_is_told_anything(ports: Ports) -> None:
    alice, bob = await ports.user(), await ports.user("bob")
    model = await ports.model(alice)
    (threat,) = await made(ports, model.id, THREAT)

    async def told(user: User, of: ThreatModelId) -> list[bool]:
        return [
            await ports.reads.model(user.id, of, MOST) is not None,
            await ports.reads.page(user.id, of, THREAT, ChildFilter(), ALL) is not None,
            await ports.reads.page(user.id, of, THREAT, ChildFilter({"name": "S"}), ALL) is not None,
            await ports.reads.child(user.id, of, THREAT, threat.id) is not None,
        ]

    assert [True] * 4 == await told(alice, model.id)
    assert [False] * 4 == await told(bob, model.id)
    other = await ports.model(bob)
    # The threat is not in it.
    assert [True, True, True, False] == await told(bob, other.id)
    assert [False] * 4 == await told(alice, ThreatModelId(uuid4()))
    await ports.threat_models.update(model.id, 1, ThreatModelChange(grants=(*model.grants, EVERYONE)))
    assert [True] * 4 == await told(bob, model.id)
    await ports.threat_models.update(model.id, 2, ThreatModelChange(grants=model.grants))
    assert [False] * 4 == await told(bob, model.id)
    await ports.threat_models.delete(model.id)
    assert [False] * 4 == await told(alice, model.id)


async def test_what_is_deleted_or_of_another_kind_is_not_found(ports: Ports) -> None:
    alice = await ports.user()
    model = await ports.model(alice)
    gone, kept = await made(ports, model.id, THREAT, draft(THREAT), draft(THREAT))
    await ports.children.mark(model.id, THREAT, [gone.id], DELETED, deleted=True)

    assert await ports.reads.child(alice.id, model.id, THREAT, gone.id) is None
    assert await ports.reads.child(alice.id, model.id, ASSET, kept.id) is None
    assert await ports.reads.child(alice.id, model.id, THREAT, ChildId(uuid4())) is None
    named = await ports.reads.named(model.id, THREAT, [kept.id, gone.id, ChildId(uuid4())])
    assert [kept.id] == [child.id for child in named]
    assert [] == list(await ports.reads.named((await ports.model(alice)).id, THREAT, [kept.id]))


async def test_a_page_past_the_end_has_its_total(ports: Ports) -> None:
    alice = await ports.user()
    model = await ports.model(alice)
    empty = await ports.reads.page(alice.id, model.id, THREAT, ChildFilter(), ALL)
    await made(
        ports, model.id, THREAT, draft(THREAT, name="a"), draft(THREAT, name="b"), draft(THREAT, name="a")
    )
    past = await ports.reads.page(alice.id, model.id, THREAT, ChildFilter(), Page(2, 3))
    filtered = await ports.reads.page(alice.id, model.id, THREAT, ChildFilter({"name": "A"}), Page(1, 1))

    assert ([], 0) == empty
    assert ([], 3) == past
    assert filtered is not None
    assert ([3], 2) == ([child.alias for child in filtered[0]], filtered[1])


# --- lists of threat models ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_a_list_has_each_threat_model_once_whatever_names_a_user_has_a_role_by(
    ports: Ports, seed: int
) -> None:
    chance = random.Random(seed)
    alice = await ports.user()
    dave = await ports.users.sign_in("corp", "dAve", "Dave@Example.com", "Dave", email_verified=seed != 1)
    await ports.add_to_group("corp", "ops", dave.id)
    names: list[tuple[PrincipalType, str, str]] = [
        ("user", "corp", "dAve"), ("user", "corp", "DAVE"), ("user", "corp", "dave@example.com"),
        ("user", "corp", "DAVE@example.com"), ("user", "other", "dAve"), ("group", "corp", "ops"),
        ("group", "corp", "OPS"), ("group", "other", "ops"), ("group", "*", "everyone"),
        ("group", "tmi", "everyone"), ("user", "corp", "everyone"),
    ]  # fmt: skip
    made_models = []
    for number in range(16):
        grants = [
            Grant(Principal(*name), Role.READER) for name in chance.sample(names, chance.choice([0, 1, 3]))
        ]
        model = await ports.model(alice, *grants)
        if number % 5 == 1:
            await ports.threat_models.delete(model.id)
        if number % 5 == 2:
            await ports.threat_models.delete(model.id)
            await ports.bin.restore_model(model.id, RESTORED)
        made_models.append(model)
    expected = [
        model.id
        for number, model in reversed(list(enumerate(made_models)))
        if number % 5 != 1 and await ports.access.to_threat_model(dave.id, model.id) is not None
    ]

    for page in (Page(100, 0), Page(3, 0), Page(3, 2), Page(5, len(expected) - 1), Page(5, 50)):
        found, total = await ports.threat_models.visible_to(dave.id, page)
        listed = [summary.model.id for summary in found]
        assert expected[page.offset : page.offset + page.limit] == listed
        assert len(expected) == total
        filtered, _ = await ports.threat_models.visible_to(dave.id, page, ThreatModelFilter(name="o"))
        assert listed == [summary.model.id for summary in filtered]


async def test_a_user_whom_nobody_has_named_sees_an_empty_list(ports: Ports) -> None:
    await ports.model(await ports.user())
    bob = await ports.user("bob")
    assert ([], 0) == await ports.threat_models.visible_to(bob.id, ALL)
    assert ([], 0) == await ports.threat_models.visible_to(bob.id, ALL, ThreatModelFilter(name="o"))


async def test_a_list_tells_who_owns_a_threat_model_named_by_id_before_e_mail(ports: Ports) -> None:
    alice = await ports.user()
    by_mail = await ports.users.sign_in("corp", "1", "two", "By mail", email_verified=True)
    by_id = await ports.users.sign_in("corp", "two", "x@example.com", "By id", email_verified=True)
    model = await ports.model(alice)
    owners = (Grant(Principal("user", "corp", "two"), Role.OWNER),)
    changed = await ports.threat_models.update(model.id, 1, ThreatModelChange(grants=owners))

    assert by_id == changed.owner
    for user in (by_mail, by_id):
        read = await ports.reads.model(user.id, model.id, MOST)
        assert read is not None
        assert by_id == read[0].owner
        (summary,), _ = await ports.threat_models.visible_to(user.id, ALL)
        assert by_id == summary.model.owner
