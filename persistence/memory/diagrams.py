"""Diagrams' metadata in memory."""

from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

from persistence.memory.events import write as write_event
from persistence.memory.quotas import hold_to_it
from persistence.memory.store import MemoryStore
from tmi.domain.diagrams import DiagramFields
from tmi.domain.errors import Conflict, NotFound
from tmi.domain.events import SYSTEM, Actor, ChangeType, Deed, Event
from tmi.domain.ids import DiagramId, Seq, ThreatModelId
from tmi.domain.model import Diagram
from tmi.domain.ports import Page
from tmi.domain.quotas import NO_LIMITS, Limits
from tmi.domain.versions import check_version


class MemoryDiagrams:
    """The ports `Diagrams` and `DiagramWrites`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def create(
        self,
        model: ThreatModelId,
        name: str,
        type_: str,
        description: str | None,
        by: Actor = SYSTEM,
        defaults: Limits = NO_LIMITS,
    ) -> Diagram:
        """Store a diagram under the next alias of its threat model. Raises NotFound and QuotaReached."""
        self._store.visit()
        self._store.threat_model(model)
        hold_to_it(self._store, self._store.charged_to.get(model), defaults, "diagrams")
        alias = self._store.last_diagram_alias[model] = self._store.last_diagram_alias.get(model, 0) + 1
        now = self._store.clock()
        diagram = Diagram(DiagramId(uuid4()), model, alias, name, type_, description, now, now, 1)
        self._store.add_diagram(diagram)
        write_event(self._store, Event.of_diagram(Deed(by, ChangeType.CREATED), diagram, seq=Seq(0)))
        return diagram

    async def of_threat_model(
        self, model: ThreatModelId, page: Page, *, deleted: bool = False
    ) -> tuple[Sequence[Diagram], int]:
        """A page, oldest first, and the total. Raises NotFound."""
        self._store.visit()
        self._store.threat_model(model)
        diagrams = self._store.diagrams_of(model)
        if deleted:
            diagrams += [d for d, _ in self._store.deleted_diagrams.values() if d.threat_model_id == model]
            diagrams.sort(key=lambda d: d.alias)
        return diagrams[page.offset : page.offset + page.limit], len(diagrams)

    async def get(self, model: ThreatModelId, diagram: DiagramId) -> Diagram:
        """Raises NotFound, also when the diagram belongs to another threat model."""
        self._store.visit()
        found = self._store.diagrams.get(diagram)
        if found is None or found.threat_model_id != model:
            raise NotFound("There is no such diagram.")
        return found

    async def write(
        self,
        model: ThreatModelId,
        diagram: DiagramId,
        fields: DiagramFields,
        deed: Deed,
        *,
        expected: int | None = None,
        read: DiagramFields | None = None,
        seq: Seq | None = None,
    ) -> Diagram:
        """Raises NotFound, and Conflict when `expected` is not the present version."""
        present = await self.get(model, diagram)
        if expected is not None and present.version != expected:
            raise Conflict(f"Version {expected} is not the present one, {present.version}.")
        if read is not None:
            fields = fields.on_top_of(read, present.fields)
        written = replace(
            present,
            name=fields.name,
            description=fields.description,
            image=fields.image,
            include_in_report=fields.include_in_report,
            timmy_enabled=fields.timmy_enabled,
            metadata=fields.metadata,
            version=present.version + 1,
            modified_at=self._store.clock(),
        )
        self._store.diagrams[diagram] = written
        write_event(self._store, Event.of_diagram_write(deed, present, written, seq))
        return written

    async def delete(
        self,
        model: ThreatModelId,
        diagram: DiagramId,
        by: Actor = SYSTEM,
        *,
        expected: int | None = None,
    ) -> None:
        """Delete a diagram, so that it can be restored. Raises NotFound and VersionMismatch."""
        check_version(expected, (await self.get(model, diagram)).version, "diagram")
        self._store.mark_diagram(diagram, self._store.clock())
        deleted, _ = self._store.deleted_diagrams[diagram]
        write_event(self._store, Event.of_diagram(Deed(by, ChangeType.DELETED), deleted))

    async def ids_of(self, model: ThreatModelId) -> Sequence[DiagramId]:
        """Every diagram of a threat model, oldest first (at most 10,000)."""
        self._store.visit()
        return [d.id for d in self._store.diagrams_of(model)][:10_000]
