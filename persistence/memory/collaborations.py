"""Collaboration sessions and their tickets in memory."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

from persistence.memory.access import roles_of
from persistence.memory.store import MemoryStore
from persistence.secrets import digest
from tmi.domain.errors import NotFound
from tmi.domain.ids import CollaborationId, DiagramId, ThreatModelId, UserId
from tmi.domain.model import AuditEntry, Collaboration, Ticket


class MemoryCollaborations:
    """The port `Collaborations`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def begin(
        self, model: ThreatModelId, diagram: DiagramId, host: UserId, entry: AuditEntry | None = None
    ) -> tuple[Collaboration, bool]:
        """The session of a diagram, and whether it was begun just now. Raises NotFound."""
        self._store.visit()
        present = self._of(model, diagram)
        if present is not None:
            present = replace(present, host=present.host or host)
            self._store.collaborations[diagram] = present
            return present, False
        begun = Collaboration(
            id=CollaborationId(uuid4()),
            threat_model_id=model,
            threat_model_name=self._store.threat_models[model].name,
            diagram_id=diagram,
            diagram_name=self._store.diagrams[diagram].name,
            host=host,
            started_at=self._store.clock(),
        )
        self._store.collaborations[diagram] = begun
        if entry is not None:
            self._store.write_audit(entry)
        return begun, True

    async def of_diagram(self, model: ThreatModelId, diagram: DiagramId) -> Collaboration | None:
        """The session of a diagram, if there is one. Raises NotFound."""
        self._store.visit()
        return self._of(model, diagram)

    async def get(self, collaboration: CollaborationId) -> Collaboration:
        """Raises NotFound."""
        self._store.visit()
        return _named(self._store, collaboration)

    async def visible_to(self, user: UserId, limit: int) -> Sequence[Collaboration]:
        """The newest sessions of diagrams on whose threat model a user has a role."""
        self._store.visit()
        found = [
            _named(self._store, session.id)
            for session in self._store.collaborations.values()
            if session.threat_model_id in self._store.threat_models
            and roles_of(self._store, user, self._store.threat_model(session.threat_model_id).grants)
        ]
        return sorted(found, key=lambda one: one.started_at, reverse=True)[:limit]

    async def end(self, collaboration: CollaborationId, entry: AuditEntry | None = None) -> bool:
        """End a session and forget its tickets. False if there was none."""
        self._store.visit()
        try:
            del self._store.collaborations[_named(self._store, collaboration).diagram_id]
        except NotFound:
            return False
        if entry is not None:
            self._store.write_audit(entry)
        return True

    def _of(self, model: ThreatModelId, diagram: DiagramId) -> Collaboration | None:
        found = self._store.diagrams.get(diagram)
        if found is None or found.threat_model_id != model:
            raise NotFound("There is no such diagram.")
        return self._store.collaborations.get(diagram)


class MemoryTickets:
    """The port `Tickets`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def issue(self, ticket: str, grant: Ticket, ttl: timedelta) -> None:
        """Remember a ticket. Raises NotFound when its collaboration session has ended."""
        self._store.visit()
        _named(self._store, grant.collaboration)
        self._store.tickets[digest(ticket)] = grant, self._store.clock() + ttl

    async def redeem(self, ticket: str) -> Ticket | None:
        """Take a ticket out, once."""
        self._store.visit()
        grant, expires_at = self._store.tickets.pop(digest(ticket), (None, None))
        if grant is None or expires_at is None or expires_at <= self._store.clock():
            return None
        try:
            _named(self._store, grant.collaboration)
        except NotFound:
            return None
        return grant


def _named(store: MemoryStore, collaboration: CollaborationId) -> Collaboration:
    """Raises NotFound."""
    for found in store.collaborations.values():
        if found.id == collaboration:
            return found
    raise NotFound("There is no such collaboration session.")
