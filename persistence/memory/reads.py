"""What is read most, in memory."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

import orjson

from persistence.memory.access import roles_of
from persistence.memory.children import MemoryChildren, listed
from persistence.memory.store import MemoryStore
from persistence.memory.threat_models import MemoryThreatModels
from tmi.domain.children import Child, ChildFilter, StoredChild
from tmi.domain.errors import NotFound
from tmi.domain.ids import ChildId, ThreatModelId, UserId
from tmi.domain.kinds import BY_NAME, KINDS, Kind
from tmi.domain.model import ThreatModel
from tmi.domain.ports import Contents, Page


class MemoryReads:
    """The port `Reads`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._models = MemoryThreatModels(store)
        self._children = MemoryChildren(store)

    async def model(
        self, user: UserId, model: ThreatModelId, most: int
    ) -> tuple[ThreatModel, Contents] | None:
        """A threat model with what is in it; None: not for this user."""
        if not self._may(user, model):
            return None
        return await self._models.get(model), await self.contents(model, most)

    async def page(
        self, user: UserId, model: ThreatModelId, kind: Kind, wanted: ChildFilter, page: Page
    ) -> tuple[Sequence[StoredChild], int] | None:
        """A page and the total; None: not for this user."""
        if not self._may(user, model):
            return None
        found, total = await self._children.page(model, kind, wanted, page)
        return [_stored(child) for child in found], total

    async def child(self, user: UserId, model: ThreatModelId, kind: Kind, child: ChildId) -> Child | None:
        """A child; None: not for this user."""
        if not self._may(user, model):
            return None
        try:
            return await self._children.get(model, kind, child)
        except NotFound:
            return None

    async def contents(self, model: ThreatModelId, most: int) -> Contents:
        """What is in a threat model, whoever asks."""
        self._store.visit()
        diagrams = [d for d in self._store.diagrams.values() if d.threat_model_id == model]
        diagrams.sort(key=lambda diagram: diagram.alias)
        children = [_stored(child) for kind in KINDS for child in self._of(model, kind)[:most]]
        return Contents(diagrams[:most], children)

    async def named(self, model: ThreatModelId, kind: Kind, children: Collection[ChildId]) -> Sequence[Child]:
        """Those of these children that there are, whoever asks."""
        self._store.visit()
        return [listed(child) for child in self._of(model, kind) if child.id in children]

    def _of(self, model: ThreatModelId, kind: Kind) -> list[Child]:
        found = [
            child
            for child in self._store.children.values()
            if (child.threat_model_id, child.kind) == (model, kind.name) and child.deleted_at is None
        ]
        return sorted(found, key=lambda child: child.alias)

    def _may(self, user: UserId, model: ThreatModelId) -> bool:
        self._store.visit()
        known = self._store.threat_models.get(model)
        return known is not None and bool(roles_of(self._store, user, known.grants))


def _stored(child: Child) -> StoredChild:
    kind = BY_NAME[child.kind]
    fields = {name: value for name, value in child.fields.items() if name != kind.apart}
    return StoredChild(
        child.kind,
        str(child.id),
        child.alias,
        orjson.dumps(fields).decode(),
        orjson.dumps(dict(child.metadata)).decode(),
        child.auto_generated,
        _text(child.created_at),
        _text(child.modified_at),
        child.version,
    )


def _text(at: datetime) -> str:
    """As PostgreSQL writes it."""
    text = at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f").rstrip("0").rstrip(".")
    return f"{text}+00"
