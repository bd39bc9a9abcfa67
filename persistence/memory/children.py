"""Children of threat models in memory."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

from persistence.memory.events import write as write_event
from persistence.memory.store import MemoryStore
from tmi.domain.children import Child, ChildChange, ChildFilter, Draft, event_of, left_out, refuse
from tmi.domain.errors import Conflict, NotFound
from tmi.domain.events import ChangeType, Deed
from tmi.domain.ids import ChildId, DiagramId, ThreatModelId
from tmi.domain.kinds import BY_NAME, SEVERITIES, Kind, Reference
from tmi.domain.ports import Page
from tmi.domain.versions import check_version

Test = Callable[[Child, Any], bool]


def _part(name: str) -> Test:
    return lambda child, value: value.lower() in (child.fields.get(name) or "").lower()


def _one_of(name: str) -> Test:
    return lambda child, value: child.fields.get(name) in value


def _score(holds: Callable[[float, float], bool]) -> Test:
    return lambda child, value: "score" in child.fields and holds(child.fields["score"], value)


CONDITIONS: Mapping[str, Test] = {
    "name": _part("name"),
    "description": _part("description"),
    "threat_type": lambda child, value: bool(set(value) & set(child.fields["threat_type"])),
    "severity": lambda child, value: str(child.fields.get("severity", "")).lower() in value,
    "priority": _one_of("priority"),
    "status": _one_of("status"),
    "mitigated": lambda child, value: child.fields.get("mitigated", False) == value,
    "diagram_id": lambda child, value: child.fields.get("diagram_id") == value,
    "cell_id": lambda child, value: child.fields.get("cell_id") == value,
    "score_gt": _score(lambda score, value: score > value),
    "score_ge": _score(lambda score, value: score >= value),
    "score_lt": _score(lambda score, value: score < value),
    "score_le": _score(lambda score, value: score <= value),
    "score_eq": _score(lambda score, value: score == value),
    "created_after": lambda child, value: child.created_at > value,
    "created_before": lambda child, value: child.created_at < value,
    "modified_after": lambda child, value: child.modified_at > value,
    "modified_before": lambda child, value: child.modified_at < value,
}


def _severity(child: Child) -> int | None:
    severity = str(child.fields.get("severity", "")).lower()
    return SEVERITIES.index(severity) if severity in SEVERITIES else None


SORTS: Mapping[str, Callable[[Child], Any]] = {
    "created_at": lambda child: child.alias,
    "alias": lambda child: child.alias,
    "modified_at": lambda child: child.modified_at,
    "name": lambda child: child.fields["name"].lower().encode() if "name" in child.fields else None,
    "severity": _severity,
    "score": lambda child: child.fields.get("score"),
    "priority": lambda child: child.fields.get("priority"),
    "status": lambda child: child.fields.get("status"),
    "mitigated": lambda child: child.fields.get("mitigated", False),
}


class MemoryChildren:
    """The port `Children`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def create(
        self, model: ThreatModelId, kind: Kind, drafts: Sequence[Draft], deed: Deed
    ) -> Sequence[Child]:
        """Store new children under the next aliases. Raises NotFound and BadInput."""
        self._store.visit()
        made = self._create(model, kind, {ChildId(uuid4()): draft for draft in drafts}, deed)
        write_event(self._store, *(event_of(deed, child) for child in made))
        return made

    def _create(
        self, model: ThreatModelId, kind: Kind, drafts: Mapping[ChildId, Draft], deed: Deed
    ) -> list[Child]:
        self._store.threat_model(model)
        refuse(kind, self._lost(model, kind, [draft.references(kind) for draft in drafts.values()]))
        if drafts.keys() & self._store.children.keys():
            raise Conflict("an id is taken by something else")
        made = []
        for key, draft in drafts.items():
            now = self._store.clock()
            alias = self._store.last_alias_of.get((model, kind.name), 0) + 1
            self._store.last_alias_of[model, kind.name] = alias
            child = Child(
                key,
                model,
                kind.name,
                alias,
                dict(draft.fields),
                dict(draft.metadata),
                deed.by_program,
                now,
                now,
                None,
                1,
            )
            self._store.children[child.id] = child
            made.append(child)
        return made

    async def page(
        self, model: ThreatModelId, kind: Kind, wanted: ChildFilter, page: Page
    ) -> tuple[Sequence[Child], int]:
        """A page and the total."""
        self._store.visit()
        found = [
            child
            for child in self._store.children.values()
            if (child.threat_model_id, child.kind) == (model, kind.name)
            and (wanted.deleted or child.deleted_at is None)
            and all(CONDITIONS[name](child, value) for name, value in wanted.conditions.items())
        ]
        found.sort(key=lambda child: child.alias, reverse=wanted.descending)
        key = SORTS[wanted.sort_by]
        valued = [child for child in found if key(child) is not None]
        valued.sort(key=key, reverse=wanted.descending)
        ordered = valued + [child for child in found if key(child) is None]
        shown = ordered[page.offset : page.offset + page.limit]
        return [listed(child) for child in shown], len(found)

    async def get(self, model: ThreatModelId, kind: Kind, child: ChildId) -> Child:
        """Raises NotFound."""
        self._store.visit()
        found = self._found(model, kind, child)
        if found.deleted_at is not None:
            raise NotFound(f"There is no such {kind.name}.")
        return found

    async def change(
        self, model: ThreatModelId, kind: Kind, changes: Sequence[ChildChange], deed: Deed
    ) -> Sequence[Child]:
        """Change children. Raises NotFound, BadInput and what a change raises."""
        self._store.visit()
        before = {
            change.id: self._found(model, kind, change.id)
            for change in changes
            if change.new is None or self._is_of(model, kind, change.id)
        }
        if any(child.deleted_at is not None for child in before.values()):
            raise NotFound(f"There is no such {kind.name}.")
        drafts = {change.id: change.make(before[change.id]) for change in changes if change.id in before}
        named = {key: draft.references(kind, before[key].draft) for key, draft in drafts.items()}
        lost = self._lost(model, kind, named.values())
        without = {c.id: left_out(kind, c, named[c.id], lost) for c in changes if c.id in named}
        drafts = {key: draft.without(without[key]) for key, draft in drafts.items()}
        new = {c.id: c.new for c in changes if c.new is not None and c.id not in before}
        after = {child.id: child for child in self._create(model, kind, new, deed)}
        for key, draft in drafts.items():
            child = replace(
                before[key],
                fields=dict(draft.fields),
                metadata=dict(draft.metadata),
                version=before[key].version + 1,
                modified_at=self._store.clock(),
            )
            self._store.children[key] = after[key] = child
        write_event(self._store, *(event_of(deed, after[key], before[key], without[key]) for key in drafts))
        created = replace(deed, change=ChangeType.CREATED)
        write_event(self._store, *(event_of(created, after[key]) for key in new))
        return [after[change.id] for change in changes]

    async def mark(
        self,
        model: ThreatModelId,
        kind: Kind,
        children: Sequence[ChildId],
        deed: Deed,
        *,
        deleted: bool,
        expected: int | None = None,
    ) -> Sequence[Child]:
        """Delete or restore. Raises NotFound, Conflict for one that is not deleted, and VersionMismatch."""
        self._store.visit()
        before = [self._found(model, kind, key) for key in children]
        for child in before:
            if deleted and child.deleted_at is not None:
                raise NotFound(f"There is no such {kind.name}.")
            if not deleted and child.deleted_at is None:
                raise Conflict(f"the {kind.name} is not deleted")
            check_version(expected, child.version, kind.name)
        now = self._store.clock()
        after = [
            replace(child, deleted_at=now if deleted else None, version=child.version + 1, modified_at=now)
            for child in before
        ]
        self._store.children |= {child.id: child for child in after}
        write_event(self._store, *(event_of(deed, child) for child in after))
        return after

    def _is_of(self, model: ThreatModelId, kind: Kind, child: ChildId) -> bool:
        found = self._store.children.get(child)
        return found is not None and (found.threat_model_id, found.kind) == (model, kind.name)

    def _found(self, model: ThreatModelId, kind: Kind, child: ChildId) -> Child:
        found = self._store.children.get(child)
        if found is None or (found.threat_model_id, found.kind) != (model, kind.name):
            raise NotFound(f"There is no such {kind.name}.")
        return found

    def _lost(
        self, model: ThreatModelId, kind: Kind, references: Iterable[Mapping[str, str]]
    ) -> dict[str, set[str]]:
        lost: dict[str, set[str]] = {}
        for one in references:
            for name, key in one.items():
                shape = kind.field(name).shape
                assert isinstance(shape, Reference)
                if not self._is_there(model, shape.to, UUID(key)):
                    lost.setdefault(name, set()).add(key)
        return lost

    def _is_there(self, model: ThreatModelId, kind: str, key: UUID) -> bool:
        if kind == "diagram":
            diagram = self._store.diagrams.get(DiagramId(key))
            return diagram is not None and diagram.threat_model_id == model
        child = self._store.children.get(ChildId(key))
        return (
            child is not None
            and (child.threat_model_id, child.kind) == (model, kind)
            and child.deleted_at is None
        )


def listed(child: Child) -> Child:
    apart = BY_NAME[child.kind].apart
    return replace(child, fields={k: v for k, v in child.fields.items() if k != apart})
