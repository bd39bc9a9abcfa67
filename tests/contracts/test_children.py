"""The ports `Children`, `Contents`, `Metadata` and `Bin`."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.contracts.conftest import Ports
from tmi.domain.children import Child, ChildChange, ChildFilter, Draft, Entity
from tmi.domain.errors import BadInput, Conflict, NotFound, Unauthenticated, VersionMismatch
from tmi.domain.events import SYSTEM, ChangeType, Deed, ObjectType
from tmi.domain.ids import ChildId, DiagramId, ThreatModelId
from tmi.domain.kinds import ASSET, DOCUMENT, KINDS, NOTE, THREAT, Kind
from tmi.domain.model import ThreatModel
from tmi.domain.ports import EventFilter, LoggedUpdate, Origin, Page, RoomBatch, ThreatModelFilter
from tmi.domain.roles import Grant, Principal, Role

CREATED = Deed(SYSTEM, ChangeType.CREATED)
UPDATED = Deed(SYSTEM, ChangeType.UPDATED)
DELETED = Deed(SYSTEM, ChangeType.DELETED)
RESTORED = Deed(SYSTEM, ChangeType.RESTORED)
ALL = Page(100, 0)

FIELDS: dict[str, dict[str, Any]] = {
    "threat": {"name": "Spoofing", "threat_type": ["Spoofing"], "score": 7.3, "mitigated": False},
    "asset": {"name": "Cards", "type": "data", "classification": ["pci"]},
    "document": {"name": "Plan", "uri": "https://docs.example/plan"},
    "note": {"name": "Minutes", "content": "# Title\n\nline"},
    "repository": {"uri": "https://git.example/shop", "parameters": {"refType": "tag", "refValue": "v1"}},
}


def draft(kind: Kind, metadata: Any = None, **fields: Any) -> Draft:
    return Draft({**FIELDS[kind.name], **fields}, metadata or {})


async def a_model(ports: Ports) -> ThreatModel:
    return await ports.model(await ports.user())


async def made(ports: Ports, model: ThreatModelId, kind: Kind, *drafts: Draft) -> list[Child]:
    return list(await ports.children.create(model, kind, drafts or [draft(kind)], CREATED))


def to(wanted: Draft) -> Any:
    return lambda before: wanted


def names(children: Any) -> list[Any]:
    return [child.fields.get("name") for child in children]


# --- children -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_a_child_is_kept_as_it_was_given(ports: Ports, kind: Kind) -> None:
    model = await a_model(ports)

    (child,) = await made(ports, model.id, kind, draft(kind, {"b": "2", "a": "1"}))

    assert (FIELDS[kind.name], {"b": "2", "a": "1"}) == (child.fields, child.metadata)
    assert (1, 1, model.id, kind.name, None) == (
        child.alias,
        child.version,
        child.threat_model_id,
        child.kind,
        child.deleted_at,
    )
    assert child == await ports.children.get(model.id, kind, child.id)


async def test_aliases_count_each_kind_and_have_no_gaps_when_a_write_failed(ports: Ports) -> None:
    model, other = await a_model(ports), await a_model(ports)
    threats = await made(ports, model.id, THREAT, draft(THREAT), draft(THREAT, name="Second"))
    with pytest.raises(BadInput):
        await made(ports, model.id, THREAT, draft(THREAT, asset_id=str(uuid4())))
    await ports.children.mark(model.id, THREAT, [threats[1].id], DELETED, deleted=True)

    threats += await made(ports, model.id, THREAT)

    assert [1, 2, 3] == [child.alias for child in threats]
    assert [1, 1] == [
        (await made(ports, model.id, ASSET))[0].alias,
        (await made(ports, other.id, THREAT))[0].alias,
    ]


async def test_many_creators_at_once_get_different_aliases(ports: Ports) -> None:
    model = await a_model(ports)

    children = await asyncio.gather(*(made(ports, model.id, NOTE) for _ in range(20)))

    assert list(range(1, 21)) == sorted(child.alias for (child,) in children)
    assert 20 == (await ports.children.page(model.id, NOTE, ChildFilter(), ALL))[1]


async def test_a_child_of_another_model_or_kind_is_not_found(ports: Ports) -> None:
    model, other = await a_model(ports), await a_model(ports)
    (child,) = await made(ports, model.id, ASSET)

    for place in ((other.id, ASSET), (model.id, THREAT)):
        with pytest.raises(NotFound):
            await ports.children.get(*place, child.id)
        with pytest.raises(NotFound):
            await ports.children.change(*place, [ChildChange(child.id, to(draft(ASSET)))], UPDATED)
        with pytest.raises(NotFound):
            await ports.children.mark(*place, [child.id], DELETED, deleted=True)
    with pytest.raises(NotFound):
        await made(ports, ThreatModelId(uuid4()), ASSET)


async def test_a_change_sees_the_child_and_raises_its_version(ports: Ports) -> None:
    model = await a_model(ports)
    (child,) = await made(ports, model.id, NOTE)
    seen = []

    def renamed(before: Child) -> Draft:
        seen.append(before)
        return Draft({**before.fields, "name": "New"}, {"k": "v"})

    (after,) = await ports.children.change(model.id, NOTE, [ChildChange(child.id, renamed)], UPDATED)

    assert [child] == seen
    assert ("New", FIELDS["note"]["content"], {"k": "v"}, 2) == (
        after.fields["name"],
        after.fields["content"],
        after.metadata,
        after.version,
    )
    assert after.modified_at > child.modified_at
    assert after == await ports.children.get(model.id, NOTE, child.id)


async def test_several_changes_happen_all_or_none(ports: Ports) -> None:
    model = await a_model(ports)
    first, second = await made(ports, model.id, THREAT, draft(THREAT), draft(THREAT))
    renamed = ChildChange(second.id, to(draft(THREAT, name="New")))

    def refused(before: Child) -> Draft:
        raise Unauthenticated

    with pytest.raises(Unauthenticated):
        await ports.children.change(
            model.id, THREAT, [renamed, ChildChange(first.id, refused)], UPDATED
        )
    with pytest.raises(NotFound):
        await ports.children.change(
            model.id, THREAT, [renamed, ChildChange(ChildId(uuid4()), to(draft(THREAT)))], UPDATED
        )
    with pytest.raises(NotFound):
        await ports.children.mark(model.id, THREAT, [first.id, ChildId(uuid4())], DELETED, deleted=True)

    assert [first, second] == list((await ports.children.page(model.id, THREAT, ChildFilter(), ALL))[0])


async def test_a_change_may_make_what_is_not_there_under_its_id(ports: Ports) -> None:
    model, other = await a_model(ports), await a_model(ports)
    (old,) = await made(ports, model.id, ASSET)
    (foreign,) = await made(ports, other.id, ASSET)
    key = ChildId(uuid4())
    named = draft(ASSET, name="New")

    after = await ports.children.change(
        model.id, ASSET, [ChildChange(key, to(named), named), ChildChange(old.id, to(named), named)], UPDATED
    )

    assert [(key, 1, 2), (old.id, 2, 1)] == [(child.id, child.version, child.alias) for child in after]
    assert after[0] == await ports.children.get(model.id, ASSET, key)
    page = await ports.trail.page(EventFilter(threat_model=model.id), 2, None, newer=False)
    assert {("created", key), ("updated", old.id)} == {
        (recorded.event.change.value, recorded.event.object_id) for recorded in page.events
    }
    with pytest.raises(Conflict):
        await ports.children.change(model.id, ASSET, [ChildChange(foreign.id, to(named), named)], UPDATED)
    await ports.children.mark(model.id, ASSET, [old.id], DELETED, deleted=True)
    with pytest.raises(NotFound):
        await ports.children.change(model.id, ASSET, [ChildChange(old.id, to(named), named)], UPDATED)


async def test_writers_of_one_child_at_once_lose_nothing(ports: Ports) -> None:
    model = await a_model(ports)
    (child,) = await made(ports, model.id, THREAT, draft(THREAT, threat_type=[]))

    async def add(n: int) -> None:
        def added(before: Child) -> Draft:
            return Draft({**before.fields, "threat_type": [*before.fields["threat_type"], str(n)]})

        await ports.children.change(model.id, THREAT, [ChildChange(child.id, added)], UPDATED)

    await asyncio.gather(*(add(n) for n in range(30)))

    after = await ports.children.get(model.id, THREAT, child.id)
    assert {str(n) for n in range(30)} == set(after.fields["threat_type"])
    assert 31 == after.version


async def test_a_reference_has_to_be_to_something_in_the_model(ports: Ports) -> None:
    model, other = await a_model(ports), await a_model(ports)
    diagram = await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None)
    foreign = await ports.diagrams.create(other.id, "Flow", "DFD-1.0.0", None)
    (asset,) = await made(ports, model.id, ASSET)
    (note,) = await made(ports, model.id, NOTE)

    good: dict[str, Any] = {"diagram_id": str(diagram.id), "asset_id": str(asset.id), "cell_id": str(uuid4())}
    (threat,) = await made(ports, model.id, THREAT, draft(THREAT, **good))

    worse: tuple[dict[str, Any], ...] = (
        {"diagram_id": str(foreign.id)}, {"asset_id": str(note.id)}, {"asset_id": str(uuid4())}
    )  # fmt: skip
    for bad in worse:
        with pytest.raises(BadInput):
            await made(ports, model.id, THREAT, draft(THREAT, **bad))
        change = ChildChange(threat.id, to(draft(THREAT, **bad)))
        with pytest.raises(BadInput):
            await ports.children.change(model.id, THREAT, [change], UPDATED)


async def test_what_a_threat_named_before_it_was_deleted_may_stay(ports: Ports) -> None:
    model = await a_model(ports)
    (asset,) = await made(ports, model.id, ASSET)
    (threat,) = await made(ports, model.id, THREAT, draft(THREAT, asset_id=str(asset.id)))
    await ports.children.mark(model.id, ASSET, [asset.id], DELETED, deleted=True)

    change = ChildChange(threat.id, to(draft(THREAT, asset_id=str(asset.id), name="New")))
    (after,) = await ports.children.change(model.id, THREAT, [change], UPDATED)

    assert str(asset.id) == after.fields["asset_id"]


async def test_a_reference_to_what_is_gone_is_left_out_where_that_is_wanted_and_told_of(ports: Ports) -> None:
    model = await a_model(ports)
    gone, kept = await made(ports, model.id, ASSET, draft(ASSET), draft(ASSET))
    (threat,) = await made(ports, model.id, THREAT)
    await ports.children.mark(model.id, ASSET, [gone.id], DELETED, deleted=True)
    diagram = await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None)

    async def become(**fields: Any) -> tuple[Child, str | None]:
        wanted = to(draft(THREAT, **fields))
        change = ChildChange(threat.id, wanted, leaves_out_lost=True)
        (after,) = await ports.children.change(model.id, THREAT, [change], UPDATED)
        found, _ = await ports.trail.of_object(model.id, ObjectType.THREAT, threat.id, ALL)
        return after, found[0].event.summary

    after, summary = await become(asset_id=str(gone.id), diagram_id=str(diagram.id), name="New")
    assert ({"diagram_id": str(diagram.id)}, "New") == (
        {name: after.fields[name] for name in ("asset_id", "diagram_id") if name in after.fields},
        after.fields["name"],
    )
    assert "diagram_id, name; left out, since it is not there any more: asset_id" == summary
    after, summary = await become(asset_id=str(kept.id))
    assert (str(kept.id), "asset_id, diagram_id, name") == (after.fields["asset_id"], summary)
    after, summary = await become(asset_id=str(uuid4()), diagram_id=str(uuid4()))
    told = "asset_id; left out, since it is not there any more: asset_id, diagram_id"
    assert (after.fields.keys(), told) == (FIELDS["threat"].keys(), summary)


async def test_what_a_program_makes_is_known_as_that_whoever_changes_it(ports: Ports) -> None:
    model = await a_model(ports)
    by_program = replace(CREATED, by_program=True)
    (robots,) = await ports.children.create(model.id, NOTE, [draft(NOTE)], by_program)
    (persons,) = await made(ports, model.id, NOTE)
    assert [True, False] == [robots.auto_generated, persons.auto_generated]
    new = ChildId(uuid4())
    changes = [ChildChange(key, to(draft(NOTE, name="New")), draft(NOTE)) for key in (persons.id, new)]
    after = await ports.children.change(model.id, NOTE, changes, replace(UPDATED, by_program=True))
    assert [False, True] == [child.auto_generated for child in after]
    (after_all,) = await ports.children.change(model.id, NOTE, [replace(changes[0], id=robots.id)], UPDATED)
    assert (True, "New") == (after_all.auto_generated, after_all.fields["name"])
    assert after_all == await ports.children.get(model.id, NOTE, robots.id)


async def test_a_deleted_child_is_gone_until_it_is_restored(ports: Ports) -> None:
    model = await a_model(ports)
    (child,) = await made(ports, model.id, DOCUMENT)

    (gone,) = await ports.children.mark(model.id, DOCUMENT, [child.id], DELETED, deleted=True)

    assert gone.deleted_at is not None
    with pytest.raises(NotFound):
        await ports.children.get(model.id, DOCUMENT, child.id)
    change = ChildChange(child.id, to(draft(DOCUMENT)))
    with pytest.raises(NotFound):
        await ports.children.change(model.id, DOCUMENT, [change], UPDATED)
    with pytest.raises(NotFound):
        await ports.children.mark(model.id, DOCUMENT, [child.id], DELETED, deleted=True)
    assert ([], 0) == await ports.children.page(model.id, DOCUMENT, ChildFilter(), ALL)
    shown, total = await ports.children.page(model.id, DOCUMENT, ChildFilter(deleted=True), ALL)
    assert ([gone], 1) == (list(shown), total)

    (back,) = await ports.children.mark(model.id, DOCUMENT, [child.id], RESTORED, deleted=False)

    assert (None, child.fields, 3) == (back.deleted_at, back.fields, back.version)
    assert back == await ports.children.get(model.id, DOCUMENT, child.id)
    with pytest.raises(Conflict):
        await ports.children.mark(model.id, DOCUMENT, [child.id], RESTORED, deleted=False)


async def test_a_child_of_another_version_than_expected_is_not_deleted(ports: Ports) -> None:
    model = await a_model(ports)
    (child,) = await made(ports, model.id, DOCUMENT)
    await ports.children.change(model.id, DOCUMENT, [ChildChange(child.id, to(draft(DOCUMENT)))], UPDATED)

    with pytest.raises(VersionMismatch):
        await ports.children.mark(model.id, DOCUMENT, [child.id], DELETED, deleted=True, expected=1)

    assert 2 == (await ports.children.get(model.id, DOCUMENT, child.id)).version
    (gone,) = await ports.children.mark(model.id, DOCUMENT, [child.id], DELETED, deleted=True, expected=2)
    assert gone.deleted_at is not None


async def test_lists_leave_out_what_is_bulky(ports: Ports) -> None:
    model = await a_model(ports)
    await made(ports, model.id, NOTE)

    (note,), _ = await ports.children.page(model.id, NOTE, ChildFilter(), ALL)

    assert {"name": "Minutes"} == note.fields


async def test_a_page_is_a_slice_and_the_total_counts_all_children(ports: Ports) -> None:
    model = await a_model(ports)
    await made(ports, model.id, ASSET, *(draft(ASSET, name=str(n)) for n in range(5)))

    pages = [await ports.children.page(model.id, ASSET, ChildFilter(), Page(2, n)) for n in (0, 2, 4, 6)]

    assert [["0", "1"], ["2", "3"], ["4"], []] == [names(shown) for shown, _ in pages]
    assert [5, 5, 5, 5] == [total for _, total in pages]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, "abcd"),
        ({"name": "A"}, "a"),
        ({"name": "%"}, ""),
        ({"description": "CARD"}, "b"),
        ({"threat_type": ["Tampering", "Spoofing"]}, "ab"),
        ({"threat_type": ["tampering"]}, ""),
        ({"severity": ["high", "low"]}, "ac"),
        ({"priority": ["P1"]}, "a"),
        ({"status": ["open", "closed"]}, "ab"),
        ({"mitigated": True}, "b"),
        ({"mitigated": False}, "acd"),
        ({"score_gt": 5.0}, "b"),
        ({"score_ge": 5.0}, "ab"),
        ({"score_lt": 5.0}, "c"),
        ({"score_le": 5.0}, "ac"),
        ({"score_eq": 9.9}, "b"),
        ({"score_ge": 1.0, "severity": ["high"]}, "a"),
    ],
    ids=str,
)
async def test_threats_are_filtered(ports: Ports, conditions: dict[str, Any], expected: str) -> None:
    model = await a_model(ports)
    await _four_threats(ports, model)

    shown, total = await ports.children.page(model.id, THREAT, ChildFilter(conditions), ALL)

    assert (list(expected), len(expected)) == (names(shown), total)


async def test_threats_are_filtered_by_what_they_name_and_by_time(ports: Ports) -> None:
    model = await a_model(ports)
    diagram = await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None)
    cell = str(uuid4())
    (plain,) = await made(ports, model.id, THREAT, draft(THREAT, name="plain"))
    (placed,) = await made(
        ports, model.id, THREAT, draft(THREAT, name="placed", diagram_id=str(diagram.id), cell_id=cell)
    )

    async def found(**conditions: Any) -> list[Any]:
        return names((await ports.children.page(model.id, THREAT, ChildFilter(conditions), ALL))[0])

    assert ["placed"] == await found(diagram_id=str(diagram.id))
    assert ["placed"] == await found(cell_id=cell)
    assert [] == await found(cell_id=str(uuid4()))
    assert ["placed"] == await found(created_after=plain.created_at)
    assert ["plain"] == await found(modified_before=placed.modified_at)


@pytest.mark.parametrize(
    ("sort", "rising"),
    [
        ("created_at", "abcd"),
        ("alias", "abcd"),
        ("modified_at", "abcd"),
        ("name", "abcd"),
        ("severity", "cabd"),
        ("score", "cabd"),
        ("mitigated", "acdb"),
        ("priority", "acbd"),
    ],
)
async def test_threats_are_sorted_and_what_has_no_value_comes_last(
    ports: Ports, sort: str, rising: str
) -> None:
    model = await a_model(ports)
    await _four_threats(ports, model)

    up, _ = await ports.children.page(model.id, THREAT, ChildFilter(sort_by=sort), ALL)
    down, _ = await ports.children.page(model.id, THREAT, ChildFilter(sort_by=sort, descending=True), ALL)

    valued = {"severity": 3, "score": 3, "priority": 2}.get(sort, 4)
    assert list(rising) == names(up)
    if sort == "mitigated":
        assert "b" == names(down)[0]
    else:
        assert list(rising[:valued])[::-1] == names(down)[:valued]


async def _four_threats(ports: Ports, model: ThreatModel) -> None:
    a = draft(
        THREAT, name="a", severity="High", priority="P1", status="open", score=5.0, threat_type=["Spoofing"]
    )
    b = draft(
        THREAT,
        name="b",
        description="Steals a card",
        severity="critical",
        status="closed",
        score=9.9,
        mitigated=True,
        threat_type=["Tampering", "x"],
    )
    c = draft(THREAT, name="c", severity="low", priority="P2", score=0.5, threat_type=[])
    d = draft(THREAT, name="d", threat_type=[])
    del d.fields["score"]  # type: ignore[attr-defined]
    await made(ports, model.id, THREAT, a, b, c, d)


async def test_every_write_of_a_child_leaves_an_event_with_its_state(ports: Ports) -> None:
    model = await a_model(ports)
    (child,) = await made(ports, model.id, ASSET)
    change = ChildChange(child.id, to(draft(ASSET, {"k": "v"}, name="New")))
    await ports.children.change(model.id, ASSET, [change], UPDATED)
    await ports.children.mark(model.id, ASSET, [child.id], DELETED, deleted=True)
    await ports.children.mark(model.id, ASSET, [child.id], RESTORED, deleted=False)
    entity = Entity(model.id, "asset", child.id)
    await ports.metadata.change(entity, lambda _: {}, UPDATED)

    page = await ports.trail.page(EventFilter(threat_model=model.id), 10, None, newer=False)

    found = [recorded.event for recorded in page.events if recorded.event.object_id == child.id]
    assert ["updated", "restored", "deleted", "updated", "created"] == [e.change.value for e in found]
    assert [5, 4, 3, 2, 1] == [e.version for e in found]
    assert ["metadata", "metadata, name"] == [found[0].summary, found[3].summary]
    whole = (await ports.trail.get(found[3].id)).event.state
    assert whole is not None
    assert draft(ASSET, {"k": "v"}, name="New") == Draft.from_state(ASSET, whole)


# --- contents and counts ------------------------------------------------------------------------


async def test_contents_are_all_living_children_but_no_more_than_asked_for(ports: Ports) -> None:
    model = await a_model(ports)
    for kind in KINDS:
        await made(ports, model.id, kind, draft(kind), draft(kind), draft(kind))
    (gone,) = await made(ports, model.id, NOTE)
    await ports.children.mark(model.id, NOTE, [gone.id], DELETED, deleted=True)

    found = (await ports.reads.contents(model.id, 2)).children

    assert [(kind.name, alias) for kind in KINDS for alias in (1, 2)] == [(c.kind, c.alias) for c in found]
    assert not any('"content"' in child.fields for child in found)


async def test_a_list_of_models_counts_living_children(ports: Ports) -> None:
    alice = await ports.user()
    model, empty = await ports.model(alice), await ports.model(alice)
    threats = await made(ports, model.id, THREAT, draft(THREAT), draft(THREAT), draft(THREAT))
    await made(ports, model.id, NOTE)
    diagrams = [await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None) for _ in range(2)]

    await ports.children.mark(model.id, THREAT, [threats[0].id, threats[1].id], DELETED, deleted=True)
    await ports.children.mark(model.id, THREAT, [threats[0].id], RESTORED, deleted=False)
    await ports.diagrams.delete(model.id, diagrams[0].id)

    summaries, _ = await ports.threat_models.visible_to(alice.id, ALL)
    counts = {s.model.id: {name: n for name, n in s.counts.items() if n} for s in summaries}
    assert {model.id: {"threat": 2, "note": 1, "diagram": 1}, empty.id: {}} == counts


# --- metadata -----------------------------------------------------------------------------------


async def _entities(ports: Ports, model: ThreatModel) -> list[Entity]:
    diagram = await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None)
    entities = [Entity(model.id), Entity(model.id, "diagram", ChildId(diagram.id))]
    for kind in KINDS:
        (child,) = await made(ports, model.id, kind)
        entities.append(Entity(model.id, kind.name, child.id))
    return entities


async def test_metadata_of_everything_change_and_raise_its_version(ports: Ports) -> None:
    model = await a_model(ports)
    entities = await _entities(ports, model)
    for entity in entities:
        assert {} == await ports.metadata.of(entity)
        assert {"b": "2", "a": "1"} == await ports.metadata.change(
            entity, lambda before: {**before, "b": "2", "a": "1"}, UPDATED
        )
        assert {"b": "2", "a": "1"} == await ports.metadata.of(entity)

    changed = await ports.threat_models.get(model.id)
    assert (2, {"b": "2", "a": "1"}) == (changed.version, changed.metadata)
    diagram = await ports.diagrams.get(model.id, DiagramId(UUID(str(entities[1].id))))
    assert (2, {"b": "2", "a": "1"}) == (diagram.version, diagram.metadata)
    for entity, kind in zip(entities[2:], KINDS, strict=True):
        assert entity.id is not None
        child = await ports.children.get(model.id, kind, entity.id)
        assert (2, {"b": "2", "a": "1"}) == (child.version, child.metadata)


async def test_metadata_of_what_is_not_there_are_not_found(ports: Ports) -> None:
    model, other = await a_model(ports), await a_model(ports)
    entities = await _entities(ports, model)
    missing = [Entity(ThreatModelId(uuid4()))]
    missing += [Entity(other.id, entity.kind, entity.id) for entity in entities[1:]]
    missing += [Entity(model.id, "threat", entities[3].id), Entity(model.id, "diagram", entities[3].id)]
    for entity in missing:
        with pytest.raises(NotFound):
            await ports.metadata.of(entity)
        with pytest.raises(NotFound):
            await ports.metadata.change(entity, lambda before: before, UPDATED)


async def test_writers_of_metadata_at_once_lose_nothing(ports: Ports) -> None:
    model = await a_model(ports)
    for entity in (await _entities(ports, model))[:3]:

        async def add(n: int, entity: Entity = entity) -> None:
            await ports.metadata.change(entity, lambda before: {**before, str(n): "x"}, UPDATED)

        await asyncio.gather(*(add(n) for n in range(20)))
        assert {str(n): "x" for n in range(20)} == await ports.metadata.of(entity)


async def test_metadata_stay_as_they_are_when_their_change_is_refused(ports: Ports) -> None:
    model = await a_model(ports)
    for entity in await _entities(ports, model):

        def refused(before: Any) -> Any:
            raise Conflict("no")

        with pytest.raises(Conflict):
            await ports.metadata.change(entity, refused, UPDATED)
        assert {} == await ports.metadata.of(entity)


# --- deleted and restored -----------------------------------------------------------------------


def update(seq: int) -> LoggedUpdate:
    return LoggedUpdate(seq, None, Origin.UPDATE, b"u%d" % seq)  # type: ignore[arg-type]


async def test_a_deleted_diagram_has_no_room_and_gets_it_back_with_its_log(ports: Ports) -> None:
    model = await a_model(ports)
    diagram = await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None)
    fence = await ports.log.claim(diagram.id, "node")
    await ports.log.append([RoomBatch(diagram.id, fence, (update(1),))])

    await ports.diagrams.delete(model.id, diagram.id)

    with pytest.raises(NotFound):
        await ports.diagrams.get(model.id, diagram.id)
    with pytest.raises(NotFound):
        await ports.log.claim(diagram.id, "node")
    with pytest.raises(NotFound):
        await ports.log.load(diagram.id)
    late = await ports.log.append([RoomBatch(diagram.id, fence, (update(2),))])
    assert {diagram.id} == late.stale
    assert [] == list(await ports.diagrams.ids_of(model.id))
    shown, total = await ports.diagrams.of_threat_model(model.id, ALL, deleted=True)
    assert ([diagram.id], 1) == ([d.id for d in shown], total)
    assert shown[0].deleted_at is not None

    restored = await ports.bin.restore_diagram(model.id, diagram.id, RESTORED)

    assert restored == await ports.diagrams.get(model.id, diagram.id)
    assert (None, diagram.alias, diagram.name) == (restored.deleted_at, restored.alias, restored.name)
    assert (b"u1",) == (await ports.log.load(diagram.id)).tail
    stale = await ports.log.append([RoomBatch(diagram.id, fence, (update(2),))])
    assert {diagram.id} == stale.stale
    new = await ports.log.claim(diagram.id, "node")
    assert {diagram.id} == (await ports.log.append([RoomBatch(diagram.id, new, (update(2),))])).committed
    with pytest.raises(Conflict):
        await ports.bin.restore_diagram(model.id, diagram.id, RESTORED)
    with pytest.raises(NotFound):
        await ports.bin.restore_diagram((await a_model(ports)).id, diagram.id, RESTORED)


async def test_nobody_has_access_to_a_deleted_diagram(ports: Ports) -> None:
    alice = await ports.user()
    model = await ports.model(alice)
    diagram = await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None)
    await ports.diagrams.delete(model.id, diagram.id)

    with pytest.raises(NotFound):
        await ports.access.to_diagram(alice.id, diagram.id)
    with pytest.raises(NotFound):
        await ports.access.to_diagram_of_all([alice.id], diagram.id)


async def test_a_deleted_model_comes_back_with_what_went_with_it(ports: Ports) -> None:
    alice = await ports.user()
    model = await ports.model(alice)
    early, kept = [await ports.diagrams.create(model.id, n, "DFD-1.0.0", None) for n in "ab"]
    threat, gone = await made(ports, model.id, THREAT, draft(THREAT), draft(THREAT))
    await ports.diagrams.delete(model.id, early.id)
    await ports.children.mark(model.id, THREAT, [gone.id], DELETED, deleted=True)

    assert [kept.id] == list(await ports.threat_models.delete(model.id))

    with pytest.raises(NotFound):
        await ports.threat_models.get(model.id)
    with pytest.raises(NotFound):
        await ports.access.to_threat_model(alice.id, model.id)
    with pytest.raises(NotFound):
        await ports.threat_models.delete(model.id)
    with pytest.raises(NotFound):
        await made(ports, model.id, THREAT)
    with pytest.raises(NotFound):
        await ports.diagrams.create(model.id, "c", "DFD-1.0.0", None)
    with pytest.raises(Conflict):
        await ports.bin.restore_diagram(model.id, early.id, RESTORED)
    assert Role.OWNER == await ports.access.to_threat_model(alice.id, model.id, deleted=True)
    assert ([], 0) == await ports.threat_models.visible_to(alice.id, ALL)

    restored = await ports.bin.restore_model(model.id, RESTORED)

    assert (None, 3) == (restored.deleted_at, restored.version)
    assert [kept.id] == list(await ports.diagrams.ids_of(model.id))
    assert [threat] == list((await ports.children.page(model.id, THREAT, ChildFilter(), ALL))[0])
    with pytest.raises(Conflict):
        await ports.bin.restore_model(model.id, RESTORED)
    with pytest.raises(NotFound):
        await ports.bin.restore_model(ThreatModelId(uuid4()), RESTORED)


async def test_owners_see_their_deleted_models_where_they_ask_for_them(ports: Ports) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")
    model = await ports.model(alice, Grant(Principal("user", "tmi", "bob@tmi.local"), Role.WRITER))
    await ports.threat_models.delete(model.id)
    wanted = ThreatModelFilter(deleted=True)

    shown, total = await ports.threat_models.visible_to(alice.id, ALL, wanted)

    assert ([model.id], 1) == ([s.model.id for s in shown], total)
    assert shown[0].model.deleted_at is not None
    assert ([], 0) == await ports.threat_models.visible_to(bob.id, ALL, wanted)


async def test_what_was_deleted_long_ago_goes_for_good_and_the_rest_stays(ports: Ports) -> None:
    model, whole = await a_model(ports), await a_model(ports)
    diagram, living = [await ports.diagrams.create(model.id, n, "DFD-1.0.0", None) for n in "ab"]
    (asset,) = await made(ports, model.id, ASSET)
    (threat,) = await made(
        ports, model.id, THREAT, draft(THREAT, asset_id=str(asset.id), diagram_id=str(diagram.id))
    )
    await made(ports, whole.id, THREAT)
    await ports.diagrams.create(whole.id, "c", "DFD-1.0.0", None)
    await ports.diagrams.delete(model.id, diagram.id)
    (gone,) = await ports.children.mark(model.id, ASSET, [asset.id], DELETED, deleted=True)
    await ports.threat_models.delete(whole.id)
    assert gone.deleted_at is not None
    day = timedelta(days=1)

    assert 0 == await ports.bin.purge(gone.deleted_at - day, 100)
    assert 3 == await ports.bin.purge(gone.deleted_at + day, 100)
    assert 0 == await ports.bin.purge(gone.deleted_at + day, 100)

    with pytest.raises(NotFound):
        await ports.bin.restore_model(whole.id, RESTORED)
    with pytest.raises(NotFound):
        await ports.bin.restore_diagram(model.id, diagram.id, RESTORED)
    with pytest.raises(NotFound):
        await ports.children.mark(model.id, ASSET, [asset.id], RESTORED, deleted=False)
    kept = await ports.children.get(model.id, THREAT, threat.id)
    assert not {"asset_id", "diagram_id"} & kept.fields.keys()
    assert (3, True) == (kept.version, kept.modified_at > threat.modified_at)
    assert [living.id] == list(await ports.diagrams.ids_of(model.id))


async def test_a_threat_that_named_what_goes_for_good_has_an_event_of_the_service(ports: Ports) -> None:
    model = await a_model(ports)
    diagram = await ports.diagrams.create(model.id, "Flow", "DFD-1.0.0", None)
    (asset,) = await made(ports, model.id, ASSET)
    named = draft(THREAT, asset_id=str(asset.id), diagram_id=str(diagram.id))
    threat, lost, _ = await made(ports, model.id, THREAT, named, named, draft(THREAT))
    await ports.diagrams.delete(model.id, diagram.id)
    await ports.children.mark(model.id, ASSET, [asset.id], DELETED, deleted=True)
    await ports.children.mark(model.id, THREAT, [lost.id], DELETED, deleted=True)
    before = (await ports.trail.page(EventFilter(model.id), 100, None, newer=False)).events

    assert 3 == await ports.bin.purge(asset.modified_at + timedelta(days=1), 100)

    after = (await ports.trail.page(EventFilter(model.id), 100, None, newer=False)).events
    told = [(r.event.object_id, r.event.summary, r.event.version) for r in after[: len(after) - len(before)]]
    gone = "what it named is gone for good"
    # One that goes itself is told of as long as it is there.
    assert (threat.id, f"asset_id: {gone}", 3) == told[0]
    assert {(threat.id, f"diagram_id: {gone}", 2), (lost.id, f"diagram_id: {gone}", 3)} == {*told[1:]}
    assert {(SYSTEM, ChangeType.PATCHED)} == {(r.event.actor, r.event.change) for r in after[:3]}
    changes = await ports.trail.changes([r.number for r in after[:3]])
    assert {"asset_id": str(asset.id)} in [change.before for change in changes.values()]
    state = (await ports.trail.get(after[0].event.id)).event.state
    assert (threat.id, {"metadata": [], **FIELDS["threat"]}) == (after[0].event.object_id, state)


# --- the list of threat models ------------------------------------------------------------------


async def test_models_are_filtered(ports: Ports) -> None:
    from tmi.domain.ports import ThreatModelChange

    alice, bob = await ports.user("alice"), await ports.user("bob")
    everyone = Grant(Principal("group", "tmi", "everyone"), Role.READER)
    shop = await ports.model(alice, everyone, name="Shop")
    bank = await ports.model(bob, everyone, name="Bank")
    reviewer = Principal("user", "tmi", "rita@tmi.local", "rita@tmi.local", "Rita")
    shop = await ports.threat_models.update(
        shop.id,
        1,
        ThreatModelChange(
            description="Sells 100% cotton",
            issue_uri="https://tracker.example/7",
            status="in_review",
            security_reviewer=reviewer,
            grants=(*shop.grants, Grant(reviewer, Role.OWNER)),
        ),
    )

    async def found(**wanted: Any) -> list[str]:
        shown, total = await ports.threat_models.visible_to(alice.id, ALL, ThreatModelFilter(**wanted))
        assert total == len(shown)
        return [s.model.name for s in shown]

    assert reviewer == shop.security_reviewer
    assert shop.status_updated is not None
    assert ["Bank", "Shop"] == await found()
    assert ["Shop"] == await found(name="sHo")
    assert [] == await found(name="%")
    assert ["Shop"] == await found(description="100%")
    assert ["Shop"] == await found(issue_uri="tracker.")
    assert ["Bank"] == await found(owner="BOB")
    assert ["Shop"] == await found(owner="rita")
    assert ["Shop"] == await found(security_reviewer="RITA@")
    assert ["Bank"] == await found(security_reviewer="is:null")
    assert ["Shop"] == await found(security_reviewer="is:notnull")
    assert ["Shop"] == await found(statuses=("in_review", "done"))
    assert ["Bank"] == await found(created_after=shop.created_at)
    assert ["Shop"] == await found(created_before=bank.created_at)
    assert ["Shop"] == await found(modified_after=bank.modified_at)
    assert ["Bank"] == await found(status_updated_before=shop.status_updated)
    assert ["Shop"] == await found(status_updated_after=bank.created_at)
    assert [] == await found(name="shop", statuses=("done",))
