"""Children of threat models: threats, assets, documents, notes and repositories (see `kinds`)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple, Self

from tmi.domain.errors import BadInput
from tmi.domain.events import SUMMARY_MAX, Deed, Event, ObjectType, State, differing
from tmi.domain.ids import ChildId, ThreatModelId
from tmi.domain.kinds import BY_NAME, Kind, Reference

LEFT_OUT = "left out, since it is not there any more:"
"""What the trail says before the references that a rollback could not bring back."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What a client says of a child: its fields as JSON, without those that have no value."""

    fields: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_state(cls, kind: Kind, state: State) -> Self:
        """What the trail keeps of a child, to be written again."""
        given = {f.name: state[f.name] for f in kind.fields if state.get(f.name) is not None}
        return cls(given, {entry["key"]: entry["value"] for entry in state.get("metadata", ())})

    def without(self, names: Iterable[str]) -> "Draft":
        """The same without some fields."""
        return Draft({k: v for k, v in self.fields.items() if k not in names}, self.metadata)

    def references(self, kind: Kind, before: "Draft | None" = None) -> Mapping[str, str]:
        """By field, the ids of diagrams and assets that it names, if `before` did not name them already."""
        old = {} if before is None else before.fields
        return {
            f.name: self.fields[f.name]
            for f in kind.fields
            if isinstance(f.shape, Reference)
            and f.shape.to != "cell"
            and f.name in self.fields
            and self.fields[f.name] != old.get(f.name)
        }


@dataclass(frozen=True, slots=True)
class Child:
    """A child of a threat model. `version` rises with each write."""

    id: ChildId
    threat_model_id: ThreatModelId
    kind: str
    alias: int
    """Counts the children of this kind in this threat model from 1; never given twice."""
    fields: Mapping[str, Any]
    metadata: Mapping[str, str]
    auto_generated: bool
    """A program made it; that stays, whoever changes it."""
    created_at: datetime
    modified_at: datetime
    deleted_at: datetime | None
    version: int

    @property
    def draft(self) -> Draft:
        """What clients write of it."""
        return Draft(self.fields, self.metadata)


class StoredChild(NamedTuple):
    """A child without its bulky field as text, as it is stored: what is shown in lists is put together of
    these texts and taken apart nowhere.
    """

    kind: str
    id: str
    alias: int
    fields: str
    """A JSON object."""
    metadata: str
    """A JSON object."""
    auto_generated: bool
    created_at: str
    """In UTC, `2026-11-26 12:00:00.25+00`; without trailing zeros."""
    modified_at: str
    version: int


@dataclass(frozen=True, slots=True)
class ChildChange:
    """A change of one child: `make` gets it as it is under the lock that holds until the change is committed,
    and returns what it is to be, or raises.
    """

    id: ChildId
    make: Callable[[Child], Draft]
    new: Draft | None = None
    """What it is to be where there is none of this id; None: there has to be one."""
    leaves_out_lost: bool = False
    """A reference to what is not in the threat model any more is left out and told of, not refused."""
    weight: int = 0
    """Bytes of what changes it, where `make` has to look at all of them."""


Lost = Mapping[str, AbstractSet[str]]
"""By field, ids that are named and are not in the threat model."""


def left_out(kind: Kind, change: ChildChange, named: Mapping[str, str], lost: Lost) -> list[str]:
    """The fields that a change leaves out, of those that name something anew. Raises BadInput where it is not
    to leave any out.
    """
    names = sorted(name for name, key in named.items() if key in lost.get(name, ()))
    if not change.leaves_out_lost:
        refuse(kind, names)
    return names


def refuse(kind: Kind, lost: Iterable[str]) -> None:
    """Raises BadInput if there is a field that names what is not there."""
    for name in lost:
        shape = kind.field(name).shape
        assert isinstance(shape, Reference)
        raise BadInput(f"{name}: there is no such {shape.to} in this threat model")


@dataclass(frozen=True, slots=True)
class ChildFilter:
    """Which children of a kind to list, and in which order."""

    conditions: Mapping[str, Any] = field(default_factory=dict)
    """By the contract's parameters, each with its value."""
    sort_by: str = "created_at"
    descending: bool = False
    deleted: bool = False
    """Also those that are deleted."""


@dataclass(frozen=True, slots=True)
class Entity:
    """A threat model or something in it: what has metadata, and what can be deleted and restored."""

    threat_model: ThreatModelId
    kind: str | None = None
    """None: the threat model itself. Else the name of a kind, `diagram` included."""
    id: ChildId | None = None

    @property
    def words(self) -> str:
        """What it is called in a sentence."""
        return self.kind or "threat model"


def shown(child: Child) -> dict[str, Any]:
    """A child as JSON, but for times and ids, which are left as they are; without what has no value."""
    kind = BY_NAME[child.kind]
    body: dict[str, Any] = {"id": child.id, "threat_model_id": child.threat_model_id, "alias": child.alias}
    body |= child.fields
    body["metadata"] = listed(child.metadata)
    body["created_at"], body["modified_at"] = child.created_at, child.modified_at
    if kind.has_version:
        body["version"] = child.version
    if kind.shows_origin:
        body["auto_generated"] = child.auto_generated
    if kind.name == "document":
        body["access_status"] = "unknown"
    if child.deleted_at is not None:
        body["deleted_at"] = child.deleted_at
    return body


def listed(metadata: Mapping[str, str]) -> list[dict[str, str]]:
    """Metadata as the contract's list, by key."""
    return [{"key": key, "value": metadata[key]} for key in sorted(metadata)]


def child_state(child: Child) -> State:
    """What the trail keeps of a child."""
    return {**child.fields, "metadata": listed(child.metadata)}


def event_of(deed: Deed, child: Child, before: Child | None = None, lost: Sequence[str] = ()) -> Event:
    """The event of a change to a child, which was `before`, and is now as given. `lost`: references that the
    change left out.
    """
    state = child_state(child)
    changed = [] if before is None else differing(child_state(before), state)
    event = Event.of(
        deed, child.threat_model_id, ObjectType(child.kind), child.id, child.version, state, changed
    )
    if not lost:
        return event
    words = [event.summary] if event.summary else []
    summary = "; ".join([*words, f"{LEFT_OUT} {', '.join(lost)}"])
    return replace(event, summary=summary[:SUMMARY_MAX])
