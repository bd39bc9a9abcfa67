"""Diagrams' metadata in memory."""

from collections.abc import Sequence
from uuid import uuid4

from persistence.memory.quotas import hold_to_it
from persistence.memory.store import MemoryStore
from tmi.domain.errors import NotFound
from tmi.domain.ids import DiagramId, ThreatModelId
from tmi.domain.model import Diagram
from tmi.domain.ports import Page
from tmi.domain.quotas import NO_LIMITS, Limits


class MemoryDiagrams:
    """The port `Diagrams`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def create(
        self,
        model: ThreatModelId,
        name: str,
        type_: str,
        description: str | None,
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
        return diagram

    async def of_threat_model(self, model: ThreatModelId, page: Page) -> tuple[Sequence[Diagram], int]:
        """A page, oldest first, and the total. Raises NotFound."""
        self._store.visit()
        self._store.threat_model(model)
        diagrams = self._store.diagrams_of(model)
        return diagrams[page.offset : page.offset + page.limit], len(diagrams)

    async def get(self, model: ThreatModelId, diagram: DiagramId) -> Diagram:
        """Raises NotFound, also when the diagram belongs to another threat model."""
        self._store.visit()
        found = self._store.diagrams.get(diagram)
        if found is None or found.threat_model_id != model:
            raise NotFound("There is no such diagram.")
        return found

    async def delete(self, model: ThreatModelId, diagram: DiagramId) -> None:
        """Delete a diagram with its log and snapshots. Raises NotFound."""
        await self.get(model, diagram)
        self._store.remove_diagram(diagram)

    async def ids_of(self, model: ThreatModelId) -> Sequence[DiagramId]:
        """Every diagram of a threat model, oldest first (at most 10,000)."""
        self._store.visit()
        return [d.id for d in self._store.diagrams_of(model)][:10_000]
