"""Pages, versions and patches."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, RootModel, StringConstraints, model_validator

from api.schemas.base import MAX_PATCH_OPERATIONS, Input, Query


class PageQuery(Query):
    """Which part of a list."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    offset: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0


IF_MATCH = r'^\s*(\*|(W/)?"?[0-9]+"?)\s*$'


class IfMatch(Query):
    """The version that a write expects."""

    if_match: Annotated[str, StringConstraints(pattern=IF_MATCH)] | None = None


_POINTER = StringConstraints(max_length=512, pattern=r"^(/[^/]*)*$")


class JsonPatchOperation(Input):
    """One operation of a JSON Patch (RFC 6902, section 4).

    `add`, `replace` and `test` need a `value`, `move` and `copy` a `from`; what an operation has no use
    for is ignored.
    """

    op: Literal["add", "replace", "remove", "move", "copy", "test"]
    path: Annotated[str, _POINTER, Field(examples=["/name"])]
    from_: Annotated[str, _POINTER] | None = Field(default=None, alias="from", examples=["/description"])
    value: Any = None

    @model_validator(mode="after")
    def _what_is_needed(self) -> Self:
        if self.op in ("move", "copy"):
            if self.from_ is None:
                raise ValueError(f"{self.op} needs a from")
        elif self.op != "remove" and "value" not in self.model_fields_set:
            raise ValueError(f"{self.op} needs a value")
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """What it reads, writes or takes away."""
        is_of_two = self.from_ is not None and self.op in ("move", "copy")
        return (self.path, self.from_) if is_of_two and self.from_ is not None else (self.path,)

    @property
    def raw(self) -> dict[str, Any]:
        """As JSON."""
        return self.model_dump(exclude_unset=True, by_alias=True)


class JsonPatch(RootModel[Annotated[list[JsonPatchOperation], Field(max_length=MAX_PATCH_OPERATIONS)]]):
    """A JSON Patch document (RFC 6902, section 3)."""

    model_config = ConfigDict(strict=True, frozen=True)
