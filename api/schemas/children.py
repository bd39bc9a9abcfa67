"""Bodies of children of threat models, made from the table of kinds; metadata; bulk operations.

A model of pydantic for each kind and purpose, so that what is checked and what is documented are one thing.
What is answered is put together from rows without them (`tmi.domain.children.shown`), for speed; that it is
what these models say is tested.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    RootModel,
    StringConstraints,
    create_model,
    field_validator,
)

from api import sanitising
from api.schemas.base import LINE, MAX_KEY, METADATA_KEY, UUID_PATTERN, Input, Moment, Output, Query, UuidText
from api.schemas.parameters import JsonPatch, PageQuery
from tmi.domain import kinds
from tmi.domain.children import Draft
from tmi.domain.diagrams import METADATA_MAX
from tmi.domain.kinds import SEVERITIES, Choice, Flag, Kind, Number, Record, Reference, Several, Shape, Text

MAX_METADATA = METADATA_MAX
MAX_FILTER_VALUES = 50
SCORE_STEP = 0.1
_TOLERANCE = 1e-6


class Metadata(Input):
    """A key and its value."""

    key: Annotated[str, StringConstraints(min_length=1, max_length=MAX_KEY, pattern=METADATA_KEY)]
    value: Annotated[
        str, StringConstraints(min_length=1, max_length=1024), AfterValidator(sanitising.checked)
    ]


class MetadataValue(Input):
    """A new value. The key may come along, if it is that of the path."""

    key: (
        Annotated[str, StringConstraints(min_length=1, max_length=MAX_KEY, pattern=METADATA_KEY)] | None
    ) = None
    value: Annotated[
        str, StringConstraints(min_length=1, max_length=1024), AfterValidator(sanitising.checked)
    ]


def _unique_keys(entries: list[Metadata]) -> list[Metadata]:
    if len({entry.key for entry in entries}) != len(entries):
        raise ValueError("a key is there twice")
    return entries


GivenMetadata = Annotated[list[Metadata], Field(max_length=MAX_METADATA), AfterValidator(_unique_keys)]


class MetadataInput(
    RootModel[Annotated[list[Metadata], Field(max_length=MAX_METADATA), AfterValidator(_unique_keys)]]
):
    """Some keys with their values."""

class MetadataList(RootModel[list[Metadata]]):
    """All keys with their values, by key."""


# --- from the table -----------------------------------------------------------------------------


def _one_decimal(value: float) -> float:
    rounded = round(value, 1)
    if abs(rounded - value) > _TOLERANCE:
        raise ValueError("it takes one decimal place")
    return rounded


def _unique(values: list[Any]) -> list[Any]:
    if len(set(values)) != len(values):
        raise ValueError("a value is there twice")
    return values


def _none_if_empty(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


def _cleaned(shape: Text) -> Callable[[str], str]:
    def clean(text: str) -> str:
        cleaned = sanitising.markdown(text) if shape.is_markdown else sanitising.checked(text)
        cleaned = cleaned.strip() if shape.is_stripped else cleaned
        if len(cleaned) > shape.most:
            raise ValueError(f"it has more than {shape.most} characters once its HTML is written safely")
        if len(cleaned) < shape.least:
            raise ValueError("nothing is left of it without its HTML")
        return cleaned

    return clean


def _type_of(shape: Shape) -> Any:
    """The type that checks a shape and tells OpenAPI of it."""
    match shape:
        case Text():
            constraints = StringConstraints(
                min_length=shape.least or None, max_length=shape.most, pattern=shape.pattern
            )
            return Annotated[str, constraints, AfterValidator(_cleaned(shape))]
        case Choice():
            return Literal[shape.words]
        case Flag():
            return bool
        case Number():
            return Annotated[
                float,
                Field(ge=shape.least, le=shape.most, json_schema_extra={"multipleOf": SCORE_STEP}),
                AfterValidator(_one_decimal),
            ]
        case Reference():
            return Annotated[
                str,
                StringConstraints(max_length=36, pattern=f"^$|{UUID_PATTERN}", to_lower=True),
                Field(json_schema_extra={"format": "uuid"}),
            ]
        case Several():
            item = _type_of(shape.of)
            listed = list[item]  # type: ignore[valid-type]
            if not shape.unique:
                return Annotated[listed, Field(max_length=shape.most)]
            told = Field(max_length=shape.most, json_schema_extra={"uniqueItems": True})
            return Annotated[listed, told, AfterValidator(_unique)]
        case Record():
            return _record(shape)


_RECORDS: dict[str, type[BaseModel]] = {}


def _record(shape: Record) -> type[BaseModel]:
    if shape.name not in _RECORDS:
        _RECORDS[shape.name] = _model(shape.name, Input, _input_fields(shape.fields))
    return _RECORDS[shape.name]


def _model(name: str, base: type[BaseModel], fields: dict[str, Any], about: str = "") -> type[BaseModel]:
    return create_model(name, __base__=base, __module__=__name__, __doc__=about or base.__doc__, **fields)


def _input_fields(fields: tuple[kinds.Field, ...]) -> dict[str, Any]:
    return {field.name: _input_field(field) for field in fields}


def _input_field(field: kinds.Field) -> tuple[Any, Any]:
    type_ = _type_of(field.shape)
    about = field.about or None
    if field.required:
        return type_, Field(description=about)
    if not field.nullable:
        return type_, Field(default=field.default, description=about)
    may_be_empty = isinstance(field.shape, Reference) or (
        isinstance(field.shape, Text) and field.shape.is_stripped
    )
    optional = Annotated[type_ | None, BeforeValidator(_none_if_empty)] if may_be_empty else type_ | None
    return optional, Field(default=field.default, description=about)


def _output_fields(kind: Kind, *, is_listed: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"id": (UUID, ...), "alias": (int, Field(ge=1)), "threat_model_id": (UUID, ...)}
    for field in kind.fields:
        if is_listed and field.name == kind.apart:
            continue
        type_ = _type_of(field.shape)
        fields[field.name] = (
            (type_, ...) if field.required or field.default is not None else (type_ | None, None)
        )
    fields["metadata"] = (list[Metadata], ...)
    fields["created_at"] = fields["modified_at"] = (datetime, ...)
    fields["deleted_at"] = (datetime | None, None)
    if kind.has_version:
        fields["version"] = (int, Field(ge=1))
    if kind.shows_origin:
        fields["auto_generated"] = (bool, ...)
    if kind.name == "document":
        fields["access_status"] = (Literal["unknown"], "unknown")
        fields["content_source"] = (str | None, None)
    return fields


class DeletedQuery(PageQuery):
    """Which part of a list, and whether with what is deleted."""

    include_deleted: bool = False
    """Also what is deleted and can be restored; for owners and administrators."""


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Words = Annotated[
    list[Annotated[str, StringConstraints(max_length=256)]],
    Field(max_length=MAX_FILTER_VALUES),
    BeforeValidator(_several),
]
Severities = Annotated[
    list[Literal[SEVERITIES]],  # type: ignore[valid-type]
    Field(max_length=MAX_FILTER_VALUES),
    BeforeValidator(_several),
]
Score = Annotated[float, Field(ge=0, le=10)]
NamePart = Annotated[str, StringConstraints(max_length=256, pattern=LINE)]
TextPart = Annotated[str, StringConstraints(max_length=1000, pattern=LINE)]


_SORTED_BY = ("created_at", *kinds.THREAT.sorts)
_SORT = rf"^({'|'.join(_SORTED_BY)})(:(asc|desc)?)?$"


class ThreatQuery(DeletedQuery):
    """Which threats, and in which order."""

    SEVERAL: ClassVar[frozenset[str]] = frozenset({"threat_type", "severity", "priority", "status"})

    sort: Annotated[
        str, StringConstraints(max_length=1000, pattern=LINE), Field(json_schema_extra={"pattern": _SORT})
    ] = "created_at:desc"
    """A field and `asc` or `desc`, as in `severity:desc`."""
    name: NamePart | None = None
    description: TextPart | None = None
    threat_type: Words | None = None
    severity: Severities | None = None
    priority: Words | None = None
    status: Words | None = None
    mitigated: bool | None = None
    diagram_id: UuidText | None = None
    cell_id: UuidText | None = None
    score_gt: Score | None = None
    score_lt: Score | None = None
    score_eq: Score | None = None
    score_ge: Score | None = None
    score_le: Score | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
    modified_after: Moment | None = None
    modified_before: Moment | None = None

    @field_validator("sort")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if not re.fullmatch(_SORT, value):
            fields = ", ".join(_SORTED_BY)
            raise ValueError(f"give a field and a direction, as in name:asc; the fields: {fields}")
        return value

    @field_validator("diagram_id", "cell_id")
    @classmethod
    def _lower(cls, value: str | None) -> str | None:
        return None if value is None else value.lower()


class ThreatIdsQuery(Query):
    """Which threats to delete."""

    threat_ids: Annotated[
        list[UuidText],
        Field(
            min_length=1,
            max_length=kinds.THREAT.bulk_most,
            json_schema_extra={"uniqueItems": True, "style": "form", "explode": False},
        ),
        BeforeValidator(lambda value: value.split(",") if isinstance(value, str) else value),
    ]


class BulkPatchEntry(Input):
    """A patch of one child."""

    id: UuidText
    operations: JsonPatch


class BulkPatch(Input):
    """Patches of several children."""

    patches: Annotated[list[BulkPatchEntry], Field(min_length=1, max_length=kinds.THREAT.bulk_most)]


class BulkDeletion(Output):
    """What was deleted."""

    deleted_count: int
    deleted_ids: list[UUID]


class PickerRegistration(Input):
    """How a client found a document. This service reads no documents, so it is not kept."""

    provider_id: Literal["google_workspace", "microsoft"]
    file_id: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    mime_type: Annotated[str, StringConstraints(min_length=1, max_length=128)]


@dataclass(frozen=True, slots=True)
class ChildBodies:
    """The bodies of one kind."""

    input: type[BaseModel]
    output: type[BaseModel]
    page: type[BaseModel]
    listed: type[BaseModel]
    query: type[DeletedQuery]
    inputs: type[RootModel[Any]]
    updates: type[RootModel[Any]]
    outputs: type[RootModel[Any]]


def _bodies(kind: Kind) -> ChildBodies:
    fields = _input_fields(kind.fields)
    if kind.takes_metadata:
        fields["metadata"] = (GivenMetadata | None, None)
    if kind.name == "document":
        fields["picker_registration"] = (PickerRegistration | None, None)
    input_ = _model(f"{kind.title}Input", Input, fields, f"What clients write of one of the {kind.plural}.")
    updates = dict(fields)
    if kind.name == "repository":
        updates["name"] = (_type_of(kind.field("name").shape), ...)
    item = _model(f"{kind.title}BulkUpdateItem", Input, {"id": (UuidText, ...), **updates})
    output = _model(kind.title, Output, _output_fields(kind, is_listed=False), f"One of the {kind.plural}.")
    listed = output
    if kind.apart:
        listed = _model(f"{kind.title}ListItem", Output, _output_fields(kind, is_listed=True))
    page = {kind.plural: (list[listed], ...), "total": (int, ...), "limit": (int, ...), "offset": (int, ...)}  # type: ignore[valid-type]
    most = kind.bulk_most
    return ChildBodies(
        input=input_,
        output=output,
        listed=listed,
        page=_model(f"{kind.plural.capitalize()}Page", Output, page, f"A page of {kind.plural}."),
        query=ThreatQuery if kind.is_filtered else DeletedQuery,
        inputs=_list_of(f"{kind.title}Inputs", input_, most),
        updates=_list_of(f"{kind.title}Updates", item, most),
        outputs=_list_of(f"{kind.title}List", output),
    )


def _list_of(name: str, item: type[BaseModel], most: int | None = None) -> type[RootModel[Any]]:
    items = list[item]  # type: ignore[valid-type]
    root = items if most is None else Annotated[items, Field(max_length=most)]
    return create_model(name, __base__=RootModel[root], __module__=__name__)  # type: ignore[valid-type]


CHILD_BODIES = {kind.name: _bodies(kind) for kind in kinds.KINDS}


def draft_of(kind: Kind, given: BaseModel) -> tuple[Draft, bool]:
    """What a body says of a child, and whether it says anything of metadata."""
    body = given.model_dump(exclude_none=True)
    fields = {field.name: body[field.name] for field in kind.fields if field.name in body}
    entries = body.get("metadata") or []
    has_metadata = "metadata" in given.model_fields_set
    return Draft(fields, {entry["key"]: entry["value"] for entry in entries}), has_metadata


__all__ = [
    "CHILD_BODIES",
    "MAX_METADATA",
    "BulkDeletion",
    "BulkPatch",
    "BulkPatchEntry",
    "ChildBodies",
    "DeletedQuery",
    "GivenMetadata",
    "Metadata",
    "MetadataInput",
    "MetadataList",
    "MetadataValue",
    "NamePart",
    "TextPart",
    "ThreatIdsQuery",
    "ThreatQuery",
    "Words",
    "draft_of",
]
