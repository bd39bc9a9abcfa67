"""What is deleted and can be restored, in memory."""

from dataclasses import replace
from datetime import datetime

from persistence.memory.events import write as write_event
from persistence.memory.store import MemoryStore
from tmi.domain.children import event_of
from tmi.domain.errors import Conflict, NotFound
from tmi.domain.events import Deed, Event, forgotten
from tmi.domain.ids import DiagramId, ThreatModelId
from tmi.domain.model import Diagram, ThreatModel


class MemoryBin:
    """The port `Bin`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def restore_model(self, model: ThreatModelId, deed: Deed) -> ThreatModel:
        """Raises NotFound, and Conflict if it is not deleted."""
        self._store.visit()
        gone = self._store.deleted_models.get(model)
        if gone is None:
            self._store.threat_model(model)
            raise Conflict("the threat model is not deleted")
        restored = replace(gone, deleted_at=None, version=gone.version + 1, modified_at=self._store.clock())
        del self._store.deleted_models[model]
        self._store.threat_models[model] = restored
        for diagram in list(self._store.deleted_diagrams):
            found, _ = self._store.deleted_diagrams[diagram]
            if found.threat_model_id == model and found.deleted_at == gone.deleted_at:
                self._store.restore_diagram(diagram)
        write_event(self._store, Event.of_model(deed, restored))
        return restored

    async def restore_diagram(self, model: ThreatModelId, diagram: DiagramId, deed: Deed) -> Diagram:
        """Raises NotFound, and Conflict if it is not deleted."""
        self._store.visit()
        living = self._store.diagrams.get(diagram)
        if living is not None and living.threat_model_id == model:
            raise Conflict("the diagram is not deleted")
        gone = self._store.deleted_diagrams.get(diagram)
        if gone is None or gone[0].threat_model_id != model:
            raise NotFound("There is no such diagram.")
        if model in self._store.deleted_models:
            raise Conflict("the diagram's threat model is deleted")
        restored = self._store.restore_diagram(diagram)
        write_event(self._store, Event.of_diagram(deed, restored))
        return restored

    async def purge(self, before: datetime, rows: int) -> int:
        """Delete for good what was deleted before then; returns how many went."""
        self._store.visit()
        models = [
            key for key, model in self._store.deleted_models.items() if _is_old(model.deleted_at, before)
        ][:rows]
        for model in models:
            self._store.remove_model(model)
        diagrams = [
            key for key, (d, _) in self._store.deleted_diagrams.items() if _is_old(d.deleted_at, before)
        ][:rows]
        for diagram in diagrams:
            del self._store.deleted_diagrams[diagram]
            self._forget("diagram_id", str(diagram))
        children = [
            child for child in self._store.children.values() if _is_old(child.deleted_at, before)
        ][:rows]
        for child in children:
            del self._store.children[child.id]
        for child in children:
            if child.kind == "asset":
                self._forget("asset_id", str(child.id))
        return len(models) + len(diagrams) + len(children)

    def _forget(self, field: str, key: str) -> None:
        for child in list(self._store.children.values()):
            if child.fields.get(field) == key:
                fields = {name: value for name, value in child.fields.items() if name != field}
                after = replace(
                    child, fields=fields, version=child.version + 1, modified_at=self._store.clock()
                )
                self._store.children[child.id] = after
                write_event(self._store, event_of(forgotten(field), after))


def _is_old(deleted_at: datetime | None, before: datetime) -> bool:
    return deleted_at is not None and deleted_at < before
