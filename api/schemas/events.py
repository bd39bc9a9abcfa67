"""The audit trail of threat models."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import Field, StringConstraints, WithJsonSchema

from api.schemas.accounts import AuditActor
from api.schemas.base import EMAIL, LINE, Moment, Output, Query, UuidText
from tmi.domain.events import Recorded

ObjectTypeText = Literal["threat_model", "diagram", "threat", "asset", "document", "note", "repository"]
ChangeTypeText = Literal["created", "updated", "patched", "deleted", "rolled_back", "restored"]


class TrailQuery(Query):
    """Which entries of a threat model's trail."""

    limit: Annotated[int, Field(ge=1, le=100)] = 50
    cursor: Annotated[str, StringConstraints(max_length=512)] | None = None
    object_type: ObjectTypeText | None = None
    change_type: ChangeTypeText | None = None
    actor_email: Annotated[str, StringConstraints(max_length=254, pattern=EMAIL)] | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None


class AdminTrailQuery(TrailQuery):
    """Which entries of all trails."""

    actor_provider: Annotated[str, StringConstraints(max_length=100, pattern=LINE)] | None = None
    threat_model_id: UuidText | None = None
    around: UuidText | None = None


class LastEventId(Query):
    """The last event that a reader has."""

    last_event_id: str | None = None


PATCH_STEP: dict[str, Any] = {
    "type": "object",
    "description": "An operation of a JSON Patch (RFC 6902, section 4).",
    "required": ["op", "path"],
    "properties": {
        "op": {"type": "string", "enum": ["test", "add", "replace", "remove", "move"]},
        "path": {"type": "string"},
        "from": {"type": "string"},
        "value": {},
    },
}


class TrailEntry(Output):
    """An entry of the audit trail.

    `changes` is a JSON Patch (RFC 6902) from what the object was before to what it was after. What it
    replaces or removes is named by a `test`, so it tells of both. What was created is made of an empty
    object; what is deleted or restored changes none of its fields. Cells are not shown: where a request
    changed some, `changes_omitted` has `cells`; edits in open editors have no `changes`. Absent where one of
    the two states is past its retention, in event streams, and for administrators.
    """

    id: UUID
    threat_model_id: UUID
    object_type: ObjectTypeText
    object_id: UUID
    version: int | None = None
    """Absent once what is needed to roll back to the entry is past its retention."""
    update_vector: int | None = None
    """For edits of a diagram's cells: the last of the updates that the entry stands for."""
    change_type: ChangeTypeText
    actor: AuditActor
    change_summary: str | None = None
    created_at: datetime
    changes: list[Annotated[dict[str, Any], WithJsonSchema(PATCH_STEP)]] | None = None
    changes_omitted: list[str] | None = None
    """What changed as well, and is not in `changes`: `cells`, and fields that take over 16 KiB in all."""

    @classmethod
    def of(
        cls, recorded: Recorded, changes: list[dict[str, Any]] | None = None, omitted: Sequence[str] = ()
    ) -> Self:
        """An event as JSON, with what it changed if that is known."""
        event = recorded.event
        return cls.model_validate(
            {
                "id": event.id,
                "threat_model_id": event.threat_model,
                "object_type": event.object_type.value,
                "object_id": event.object_id,
                "version": event.version if recorded.is_kept else None,
                "update_vector": event.seq,
                "change_type": event.change.value,
                "actor": AuditActor(
                    email=event.actor.email,
                    provider=event.actor.provider,
                    provider_id=event.actor.provider_id,
                    display_name=event.actor.name,
                ),
                "change_summary": event.summary,
                "created_at": event.at,
                "changes": changes,
                "changes_omitted": list(omitted) or None,
            }
        )


class RollbackOutput(Output):
    """What a rollback has made."""

    restored_entity: dict[str, Any]
    audit_entry: TrailEntry
    left_out: list[str] | None = None
    """Fields that could not be brought back, since they named what is not in the threat model any more."""


class TrailPage(Output):
    """A page of a threat model's trail, newest first. `total` is counted up to 100,000."""

    audit_entries: list[TrailEntry]
    total: int
    limit: int
    next_cursor: str | None = None
    prev_cursor: str | None = None


class ObjectTrail(Output):
    """A page of the trail of one object, newest first. `total` is counted up to 100,000."""

    audit_entries: list[TrailEntry]
    total: int
    limit: int
    offset: int


class AdminTrailPage(Output):
    """A page of the trails of all threat models, newest first. `total` is counted up to 100,000."""

    entries: list[TrailEntry]
    total: int
    limit: int
    next_cursor: str | None = None
    prev_cursor: str | None = None
