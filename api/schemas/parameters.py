"""Pages, versions and patches."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, RootModel, StringConstraints, model_validator

from api.schemas.base import MAX_PATCH_OPERATIONS, Input, Query


class PageQuery(Query):
    """Which part of a list."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    offset: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0


class IfMatch(Query):
    """The version that a write expects."""

    if_match: str | None = None


class JsonPatchOperation(Input):
    """One operation of a JSON Patch (RFC 6902, section 4)."""

    op: Literal["add", "replace", "remove", "test"]
    path: Annotated[
        str,
        StringConstraints(max_length=512, pattern=r"^(/[^/]*)*$"),
        Field(examples=["/name"]),
    ]
    value: Any = None

    @model_validator(mode="after")
    def _value_where_needed(self) -> Self:
        if self.op != "remove" and "value" not in self.model_fields_set:
            raise ValueError(f"{self.op} needs a value")
        return self


class JsonPatch(RootModel[Annotated[list[JsonPatchOperation], Field(max_length=MAX_PATCH_OPERATIONS)]]):
    """A JSON Patch document (RFC 6902, section 3)."""

    model_config = ConfigDict(strict=True, frozen=True)
