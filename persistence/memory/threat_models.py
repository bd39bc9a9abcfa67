"""Threat models in memory."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from uuid import uuid4

from persistence.grants import unique, with_creator
from persistence.memory.access import roles_of
from persistence.memory.events import write as write_event
from persistence.memory.quotas import hold_to_it
from persistence.memory.store import MemoryStore
from tmi.domain.errors import Conflict, LastOwner, NotFound
from tmi.domain.events import PATCHED_BY_SYSTEM, SYSTEM, Actor, ChangeType, Deed, Event
from tmi.domain.ids import DiagramId, ThreatModelId, UserId
from tmi.domain.model import AuditEntry, NewThreatModel, ThreatModel, ThreatModelSummary, User
from tmi.domain.ports import Page, ThreatModelChange, ThreatModelFilter
from tmi.domain.quotas import NO_LIMITS, Limits
from tmi.domain.roles import Grant, Principal, Role, has_owner
from tmi.domain.versions import check_version


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
        if creator.id not in self._store.users:
            raise NotFound("The account is gone that this threat model would be of.")
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
            metadata=dict(new.metadata),
        )
        self._store.threat_models[model.id] = model
        self._store.charged_to[model.id] = creator.id
        write_event(self._store, Event.of_model(Deed(Actor.of(creator), ChangeType.CREATED), model))
        return self._shown(model)

    async def visible_to(
        self, user: UserId, page: Page, wanted: ThreatModelFilter | None = None
    ) -> tuple[Sequence[ThreatModelSummary], int]:
        """A page, newest first, and the total."""
        self._store.visit()
        visible = [m for m in self._store.threat_models.values() if roles_of(self._store, user, m.grants)]
        if wanted is not None and wanted.deleted:
            visible += [
                m
                for m in self._store.deleted_models.values()
                if Role.OWNER in roles_of(self._store, user, m.grants)
            ]
        if wanted is not None:
            visible = [m for m in visible if self._matches(m, wanted)]
        visible.sort(key=lambda m: m.alias, reverse=True)
        shown = visible[page.offset : page.offset + page.limit]
        summaries = [
            ThreatModelSummary(replace(self._shown(m), grants=()), self._store.counts(m.id)) for m in shown
        ]
        return summaries, len(visible)

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
        deed: Deed = PATCHED_BY_SYSTEM,
    ) -> ThreatModel:
        """Raises NotFound, Conflict, LastOwner, and BadInput for a principal named twice."""
        self._store.visit()
        if change.grants is not None and not has_owner(unique(change.grants)):
            raise LastOwner
        present = self._store.threat_model(model)
        if present.version != expected_version:
            raise Conflict(f"Version {expected_version} is not the present one, {present.version}.")
        kept = present.description if change.description is None else change.description
        issue_uri = present.issue_uri if change.issue_uri is None else change.issue_uri
        reviewer = present.security_reviewer if change.security_reviewer is None else change.security_reviewer
        has_new_status = change.status is not None and change.status != present.status
        changed = replace(
            present,
            threat_model_framework=change.threat_model_framework or present.threat_model_framework,
            issue_uri=None if change.clear_issue_uri else issue_uri,
            status=present.status if change.status is None else change.status,
            status_updated=self._store.clock() if has_new_status else present.status_updated,
            security_reviewer=None if change.clear_security_reviewer else reviewer,
            metadata=present.metadata if change.metadata is None else dict(change.metadata),
            name=present.name if change.name is None else change.name,
            description=None if change.clear_description else kept,
            grants=present.grants if change.grants is None else change.grants,
            modified_at=self._store.clock(),
            version=present.version + 1,
        )
        self._store.threat_models[model] = changed
        if entry is not None:
            self._store.write_audit(entry)
        write_event(self._store, Event.of_model(deed, changed, change.fields))
        return self._shown(changed)

    async def delete(
        self, model: ThreatModelId, by: Actor = SYSTEM, *, expected: int | None = None
    ) -> Sequence[DiagramId]:
        """Delete with everything in it, so that it can be restored; returns the diagrams. Raises NotFound
        and VersionMismatch.
        """
        self._store.visit()
        present, now = self._store.threat_model(model), self._store.clock()
        check_version(expected, present.version, "threat model")
        diagrams = [d.id for d in self._store.diagrams_of(model)]
        for diagram in diagrams:
            self._store.mark_diagram(diagram, now)
        del self._store.threat_models[model]
        deleted = replace(present, deleted_at=now, modified_at=now, version=present.version + 1)
        self._store.deleted_models[model] = deleted
        write_event(self._store, Event.of_model(Deed(by, ChangeType.DELETED), deleted))
        return diagrams

    def _shown(self, model: ThreatModel) -> ThreatModel:
        """With its users as they are now, and the first owner of its list who has signed in."""
        creator = None if model.created_by is None else self._store.users.get(model.created_by.id)
        owners = (self._signed_in(g) for g in model.grants if g.role is Role.OWNER)
        return replace(model, created_by=creator, owner=next((u for u in owners if u is not None), None))

    def _matches(self, model: ThreatModel, wanted: ThreatModelFilter) -> bool:
        reviewer = model.security_reviewer
        changed = model.status_updated or model.created_at
        return (
            _holds(model.name, wanted.name)
            and _holds(model.description, wanted.description)
            and _holds(model.issue_uri, wanted.issue_uri)
            and (wanted.owner is None or any(self._owner_holds(g, wanted.owner) for g in model.grants))
            and (
                (reviewer is None) == (wanted.security_reviewer == "is:null")
                if wanted.security_reviewer in ("is:null", "is:notnull")
                else wanted.security_reviewer is None
                or (reviewer is not None and _principal_holds(reviewer, wanted.security_reviewer))
            )
            and (wanted.statuses is None or model.status in wanted.statuses)
            and _is_between(model.created_at, wanted.created_after, wanted.created_before)
            and _is_between(model.modified_at, wanted.modified_after, wanted.modified_before)
            and _is_between(changed, wanted.status_updated_after, wanted.status_updated_before)
        )

    def _owner_holds(self, grant: Grant, part: str) -> bool:
        if grant.role is not Role.OWNER or grant.principal.principal_type != "user":
            return False
        user = self._signed_in(grant)
        if user is not None:
            return _holds(user.name, part) or _holds(user.email, part)
        return _principal_holds(grant.principal, part)

    def _signed_in(self, grant: Grant) -> User | None:
        if grant.principal.principal_type != "user":
            return None
        matching = [u for u in self._store.users.values() if roles_of(self._store, u.id, [grant])]
        exact = [u for u in matching if u.provider_id == grant.principal.provider_id]
        return next(iter(exact + matching), None)


def _holds(text: str | None, part: str | None) -> bool:
    return part is None or (text is not None and part.lower() in text.lower())


def _principal_holds(principal: Principal, part: str) -> bool:
    return _holds(principal.display_name, part) or _holds(principal.email or principal.provider_id, part)


def _is_between(at: datetime, after: datetime | None, before: datetime | None) -> bool:
    return (after is None or at > after) and (before is None or at < before)
