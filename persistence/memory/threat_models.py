"""Threat models in memory."""

from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

from persistence.grants import unique, with_creator
from persistence.memory.access import roles_of
from persistence.memory.quotas import hold_to_it
from persistence.memory.store import MemoryStore
from tmi.domain.errors import Conflict, LastOwner
from tmi.domain.ids import DiagramId, ThreatModelId, UserId
from tmi.domain.model import AuditEntry, NewThreatModel, ThreatModel, ThreatModelSummary, User
from tmi.domain.ports import Page, ThreatModelChange
from tmi.domain.quotas import NO_LIMITS, Limits
from tmi.domain.roles import Grant, Role, has_owner


class MemoryThreatModels:
    """The port `ThreatModels`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def create(
        self, creator: User, new: NewThreatModel, defaults: Limits = NO_LIMITS
    ) -> ThreatModel:
        """Store a threat model under the next alias, its creator the first owner. Raises BadInput and
        QuotaReached.
        """
        self._store.visit()
        grants = with_creator(creator, new.grants)
        hold_to_it(self._store, creator.id, defaults, "threat_models")
        self._store.last_alias += 1
        now = self._store.clock()
        model = ThreatModel(
            id=ThreatModelId(uuid4()),
            alias=self._store.last_alias,
            name=new.name,
            description=new.description,
            threat_model_framework=new.threat_model_framework,
            issue_uri=new.issue_uri,
            is_confidential=new.is_confidential,
            owner=creator,
            created_by=creator,
            grants=grants,
            created_at=now,
            modified_at=now,
            version=1,
        )
        self._store.threat_models[model.id] = model
        self._store.charged_to[model.id] = creator.id
        return self._shown(model)

    async def visible_to(self, user: UserId, page: Page) -> tuple[Sequence[ThreatModelSummary], int]:
        """A page, newest first, and the total."""
        self._store.visit()
        visible = [m for m in self._store.threat_models.values() if roles_of(self._store, user, m.grants)]
        visible.sort(key=lambda m: m.alias, reverse=True)
        shown = visible[page.offset : page.offset + page.limit]
        return [ThreatModelSummary(self._shown(m), len(self._store.diagrams_of(m.id))) for m in shown], len(
            visible
        )

    async def get(self, model: ThreatModelId) -> ThreatModel:
        """Raises NotFound."""
        self._store.visit()
        return self._shown(self._store.threat_model(model))

    async def update(
        self,
        model: ThreatModelId,
        expected_version: int,
        change: ThreatModelChange,
        entry: AuditEntry | None = None,
    ) -> ThreatModel:
        """Raises NotFound, Conflict, LastOwner, and BadInput for a principal named twice."""
        self._store.visit()
        if change.grants is not None and not has_owner(unique(change.grants)):
            raise LastOwner
        present = self._store.threat_model(model)
        if present.version != expected_version:
            raise Conflict(f"Version {expected_version} is not the present one, {present.version}.")
        kept = present.description if change.description is None else change.description
        changed = replace(
            present,
            name=present.name if change.name is None else change.name,
            description=None if change.clear_description else kept,
            grants=present.grants if change.grants is None else change.grants,
            modified_at=self._store.clock(),
            version=present.version + 1,
        )
        self._store.threat_models[model] = changed
        if entry is not None:
            self._store.write_audit(entry)
        return self._shown(changed)

    async def delete(self, model: ThreatModelId) -> Sequence[DiagramId]:
        """Delete with everything in it; returns the diagrams. Raises NotFound."""
        self._store.visit()
        self._store.threat_model(model)
        diagrams = [d.id for d in self._store.diagrams_of(model)]
        for diagram in diagrams:
            self._store.remove_diagram(diagram)
        del self._store.threat_models[model]
        return diagrams

    def _shown(self, model: ThreatModel) -> ThreatModel:
        """With its users as they are now, and the first owner of its list who has signed in."""
        creator = None if model.created_by is None else self._store.users.get(model.created_by.id)
        owners = (self._signed_in(g) for g in model.grants if g.role is Role.OWNER)
        return replace(model, created_by=creator, owner=next((u for u in owners if u is not None), None))

    def _signed_in(self, grant: Grant) -> User | None:
        if grant.principal.principal_type != "user":
            return None
        matching = [u for u in self._store.users.values() if roles_of(self._store, u.id, [grant])]
        exact = [u for u in matching if u.provider_id == grant.principal.provider_id]
        return next(iter(exact + matching), None)
