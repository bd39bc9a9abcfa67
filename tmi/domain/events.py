"""What happened to a threat model and its children: the entries of the audit trail.

An event is written in the transaction of the change that it tells of (persistence/postgres/events.py: write),
and never changed. It holds the whole state of its object after the change, so that any past state can be
rebuilt from one row, whatever became of others; for a deletion, the state that was deleted. Edits of a
diagram's cells are in the log of its document, which is their event: `seq` says after which update of it the
event stands.

A state holds what its readers may see, in the contract's names, and never a secret.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Literal, Self
from uuid import UUID, uuid4, uuid5

from tmi.domain.diagrams import DiagramFields, DiagramImage
from tmi.domain.ids import DiagramId, EventId, Seq, ThreatModelId, UserId
from tmi.domain.model import AuditEntry, Diagram, ThreatModel, User
from tmi.domain.roles import Grant, Principal

State = Mapping[str, Any]
"""The fields of an entity as JSON values, datetimes and UUIDs."""

SUMMARY_MAX = 500
CHANGES_MAX_BYTES = 16 * 1024
"""Of the fields that an event changed, before and after it, so much is told with it in a list."""
IMAGE_MAX_BYTES = 32 * 1024
"""A diagram's picture, in base64, up to which the trail keeps it: it would take that much with each event."""
TELL_AFTER = timedelta(seconds=15)


class ObjectType(Enum):
    """What an event tells of; the words are the contract's."""

    THREAT_MODEL = "threat_model"
    DIAGRAM = "diagram"
    THREAT = "threat"
    ASSET = "asset"
    DOCUMENT = "document"
    NOTE = "note"
    REPOSITORY = "repository"


class ChangeType(Enum):
    """What was done; the words are the contract's."""

    CREATED = "created"
    UPDATED = "updated"
    PATCHED = "patched"
    DELETED = "deleted"
    ROLLED_BACK = "rolled_back"
    RESTORED = "restored"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did it, as they were called then. It outlives the account."""

    user: UserId | None
    provider: str
    provider_id: str
    email: str
    name: str

    @classmethod
    def of(cls, user: User) -> Self:
        """A user as of now."""
        return cls(user.id, user.provider, user.provider_id, user.email, user.name)


SYSTEM = Actor(None, "tmi", "system", "", "TMI")
"""This service itself: what it repairs, and what operators do with its commands."""
UNKNOWN = Actor(None, "tmi", "unknown", "", "unknown")
"""Somebody: the edit was brought by one who may not be its author."""


@dataclass(frozen=True, slots=True)
class Deed:
    """Who changes something, and how the trail calls that."""

    actor: Actor
    change: ChangeType
    summary: str | None = None
    """In words; None: the fields that change."""
    also: str | None = None
    """What else webhooks call it: a change of metadata is one of its object, too."""
    by_program: bool = False
    """A program does it: what it makes is `auto_generated`."""


LEFT = "authorization: an account is gone"
HANDED_OVER = "authorization: another owner"
"""What the trails of threat models say of what is done to accounts."""

PATCHED_BY_SYSTEM = Deed(SYSTEM, ChangeType.PATCHED)


def forgotten(field: str) -> Deed:
    """What the service does to a child that named something which is purged."""
    return Deed(SYSTEM, ChangeType.PATCHED, f"{field}: what it named is gone for good")


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one object."""

    id: EventId
    at: datetime
    threat_model: ThreatModelId
    object_type: ObjectType
    object_id: UUID
    change: ChangeType
    actor: Actor
    version: int | None
    """The object's version after the change; of edits of cells `seq`."""
    state: State | None = None
    """None for edits of cells, in lists, and once it is past its retention."""
    summary: str | None = None
    seq: Seq | None = None
    """The last update of a diagram's document that this event tells of; None where it tells of no cells."""
    also: str | None = None
    """As of its deed. Not kept: webhooks are told in the transaction of the change."""

    @classmethod
    def of(
        cls,
        deed: Deed,
        threat_model: ThreatModelId,
        object_type: ObjectType,
        object_id: UUID,
        version: int,
        state: State,
        changed: Iterable[str] = (),
    ) -> Self:
        """The event of a change that happens now. `changed`: the fields that it changes, for the summary."""
        summary = deed.summary or ", ".join(sorted(changed)) or None
        return cls(
            id=EventId(uuid4()),
            at=datetime.now(UTC),
            threat_model=threat_model,
            object_type=object_type,
            object_id=object_id,
            change=deed.change,
            actor=deed.actor,
            version=version,
            state=state,
            summary=None if summary is None else summary[:SUMMARY_MAX],
            also=deed.also,
        )

    @classmethod
    def of_model(cls, deed: Deed, model: ThreatModel, changed: Iterable[str] = ()) -> Self:
        """The event of a change to a threat model itself; `model` as it is after it."""
        state = threat_model_state(model)
        return cls.of(deed, model.id, ObjectType.THREAT_MODEL, model.id, model.version, state, changed)

    @classmethod
    def of_lost_model(cls, entry: AuditEntry, model: ThreatModelId, version: int) -> Self:
        """The event of a threat model that goes for good with its last owner's account; `entry` is that of
        the account's end.
        """
        actor = Actor(entry.actor, entry.provider, entry.provider_id, entry.email, entry.name)
        deed = Deed(actor, ChangeType.DELETED, "with the account of its last owner")
        event = cls.of(deed, model, ObjectType.THREAT_MODEL, model, version, {})
        return replace(event, state=None)

    @classmethod
    def of_people(cls, entry: AuditEntry, model: ThreatModel, summary: str) -> Self:
        """The event of a threat model whose people change by what is done to accounts, as `entry` tells."""
        actor = Actor(entry.actor, entry.provider, entry.provider_id, entry.email, entry.name)
        return cls.of_model(Deed(actor, ChangeType.UPDATED, summary), model)

    @classmethod
    def of_diagram(
        cls, deed: Deed, diagram: Diagram, changed: Iterable[str] = (), seq: Seq | None = None
    ) -> Self:
        """The event of a change to a diagram by REST; `diagram` as it is after it. `seq`: the update of its
        document in which the change of its cells is, if it has one.
        """
        state, version = diagram_state(diagram), diagram.version
        model = diagram.threat_model_id
        event = cls.of(deed, model, ObjectType.DIAGRAM, diagram.id, version, state, changed)
        return replace(event, seq=seq)

    @classmethod
    def of_diagram_write(cls, deed: Deed, before: Diagram, after: Diagram, seq: Seq | None) -> Self:
        """The event of a REST write of a diagram; `seq` is the update that changed its cells, if one did."""
        changed = differing(diagram_fields(before), diagram_fields(after))
        if seq is not None:
            changed.append("cells")
        return cls.of_diagram(deed, after, changed, seq)

    @classmethod
    def of_cells(
        cls, edits: "CellsEdited", model: ThreatModelId, diagram: DiagramId, users: Mapping[UserId, User]
    ) -> Self:
        """The event of what one author did to a diagram's cells within a minute. It has the same id whoever
        makes it.
        """
        return cls(
            id=EventId(uuid5(diagram, str(edits.first))),
            at=edits.at,
            threat_model=model,
            object_type=ObjectType.DIAGRAM,
            object_id=diagram,
            change=ChangeType.PATCHED,
            actor=_author_of(edits, users),
            version=edits.last,
            summary=_summary_of(edits, users),
            seq=edits.last,
        )


@dataclass(frozen=True, slots=True)
class CellsEdited:
    """What one author did to one diagram's cells within a minute."""

    author: UserId | None
    kind: Literal["made", "brought", "server"]
    """The author made the edits, or brought them by a SyncStep2, which may carry those of others; or the
    service did it.
    """
    first: Seq
    last: Seq
    edits: int
    at: datetime
    """The time of the last."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event as the trail has it."""

    number: int
    """Rises; in one threat model in the order of commits, so that whoever read up to it missed nothing."""
    event: Event
    is_kept: bool
    """The state after it can still be rebuilt."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What an event changed of the state that the trail keeps: its fields that differ, before and after."""

    before: State
    after: State
    omitted: tuple[str, ...] = ()
    """Fields that differ as well, and are too large to be told."""

    @classmethod
    def between(cls, before: State, after: State) -> Self:
        """The small fields first, as long as they fit into `CHANGES_MAX_BYTES`."""
        left = CHANGES_MAX_BYTES
        told: list[str] = []
        omitted: list[str] = []
        sizes = [(_size(before, key) + _size(after, key), key) for key in differing(before, after)]
        for size, key in sorted(sizes):
            left -= size
            (told if left >= 0 else omitted).append(key)
        return cls(
            {key: before[key] for key in told if key in before},
            {key: after[key] for key in told if key in after},
            tuple(sorted(omitted)),
        )


def told_until(now: datetime) -> datetime:
    """The beginning of the minute whose edits of cells are not to be told of yet: a REST write of the minute
    before may still be about to write its own event.
    """
    return (now - TELL_AFTER).replace(second=0, microsecond=0)


def _author_of(edits: CellsEdited, users: Mapping[UserId, User]) -> Actor:
    if edits.kind == "server":
        return SYSTEM
    if edits.kind == "brought" or edits.author is None:
        return UNKNOWN
    user = users.get(edits.author)
    # The account is gone, and with it the name.
    return replace(UNKNOWN, user=edits.author) if user is None else Actor.of(user)


def _summary_of(edits: CellsEdited, users: Mapping[UserId, User]) -> str:
    told = "1 edit of cells" if edits.edits == 1 else f"{edits.edits} edits of cells"
    if edits.kind != "brought" or edits.author is None:
        return told
    user = users.get(edits.author)
    return f"{told}, brought by {'an account that is gone' if user is None else user.email}"[:SUMMARY_MAX]


def _size(state: State, key: str) -> int:
    return len(json.dumps(state[key], ensure_ascii=False).encode()) if key in state else 0


def differing(before: State, after: State) -> list[str]:
    """The fields that two states differ in."""
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def threat_model_state(model: ThreatModel) -> State:
    """What the trail keeps of a threat model."""
    return {
        "name": model.name,
        "description": model.description,
        "threat_model_framework": model.threat_model_framework,
        "issue_uri": model.issue_uri,
        "is_confidential": model.is_confidential,
        "status": model.status,
        "security_reviewer": None
        if model.security_reviewer is None
        else principal_state(model.security_reviewer),
        "metadata": [{"key": key, "value": model.metadata[key]} for key in sorted(model.metadata)],
        "authorization": [_grant_state(grant) for grant in model.grants],
    }


def diagram_state(diagram: Diagram) -> State:
    """What the trail keeps of a diagram; its cells are in its document's log."""
    state = {
        "name": diagram.name,
        "type": diagram.type,
        "description": diagram.description,
        "include_in_report": diagram.include_in_report,
        "timmy_enabled": diagram.timmy_enabled,
        "metadata": [{"key": key, "value": diagram.metadata[key]} for key in sorted(diagram.metadata)],
    }
    return state if diagram.image is None else {**state, "image": _image_state(diagram.image)}


def _image_state(image: DiagramImage) -> State:
    """A picture that is not large; of another its size."""
    vector = {"update_vector": image.update_vector}
    size = len(image.svg or "")
    return {**vector, "bytes": size} if size > IMAGE_MAX_BYTES else {**vector, "svg": image.svg}


def diagram_fields(diagram: Diagram) -> State:
    """What a REST write may change of a diagram beside its cells."""
    return {field.name: getattr(diagram, field.name) for field in fields(DiagramFields)}


def _grant_state(grant: Grant) -> State:
    return {**principal_state(grant.principal), "role": grant.role.label}


def principal_state(principal: Principal) -> State:
    """A user or a group in the contract's names."""
    return {
        "principal_type": principal.principal_type,
        "provider": principal.provider,
        "provider_id": principal.provider_id,
        "email": principal.email,
        "display_name": principal.display_name,
    }
