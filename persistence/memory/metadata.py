"""Metadata in memory."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from persistence.memory.events import write as write_event
from persistence.memory.store import MemoryStore
from tmi.domain.children import Child, Entity, event_of
from tmi.domain.errors import NotFound
from tmi.domain.events import Deed, Event
from tmi.domain.ids import DiagramId
from tmi.domain.kinds import DIAGRAM_KIND
from tmi.domain.model import Diagram, ThreatModel

CHANGED = ("metadata",)


class MemoryMetadata:
    """The port `Metadata`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def of(self, entity: Entity) -> Mapping[str, str]:
        """Raises NotFound."""
        self._store.visit()
        return self._found(entity).metadata

    async def change(
        self, entity: Entity, make: Callable[[Mapping[str, str]], Mapping[str, str]], deed: Deed
    ) -> Mapping[str, str]:
        """Change metadata. Raises NotFound and what `make` raises."""
        self._store.visit()
        before = self._found(entity)
        after = dict(make(before.metadata))
        changed = replace(
            before, metadata=after, version=before.version + 1, modified_at=self._store.clock()
        )
        if isinstance(changed, ThreatModel):
            self._store.threat_models[changed.id] = changed
            write_event(self._store, Event.of_model(deed, changed, CHANGED))
        elif isinstance(changed, Diagram):
            self._store.diagrams[changed.id] = changed
            write_event(self._store, Event.of_diagram(deed, changed, CHANGED))
        else:
            assert isinstance(before, Child)
            self._store.children[changed.id] = changed
            write_event(self._store, event_of(deed, changed, before))
        return after

    def _found(self, entity: Entity) -> ThreatModel | Diagram | Child:
        if entity.kind is None:
            return self._store.threat_model(entity.threat_model)
        assert entity.id is not None
        found: Diagram | Child | None
        if entity.kind == DIAGRAM_KIND:
            found = self._store.diagrams.get(DiagramId(entity.id))
        else:
            found = self._store.children.get(entity.id)
            if found is not None and found.kind != entity.kind:
                found = None
        if found is None or found.threat_model_id != entity.threat_model or found.deleted_at is not None:
            raise NotFound(f"There is no such {entity.words}.")
        return found
