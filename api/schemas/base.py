"""What all bodies share: strictness, patterns, errors."""

import re
from typing import Annotated, Any, ClassVar, get_args

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetJsonSchemaHandler,
    StringConstraints,
    ValidationInfo,
    field_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from api import sanitising
from tmi.domain.ids import ThreatModelId

LINE = r"^[^\x00-\x1F]*$"
TEXT = r"^[^\x00-\x08\x0B\x0C\x0E-\x1F]*$"
IDENTIFIER = r"^[^<>\"'&\x00-\x1F]*$"
PROVIDER = r"^(\*|[a-zA-Z][a-zA-Z0-9_*-]*)$"
PROVIDER_ID = r"^[a-zA-Z][a-zA-Z0-9_-]*$"
METADATA_KEY = r"^[a-zA-Z0-9_./:-]+$"
SETTING_KEY = r"^[a-z][a-z0-9_.]*$"
MAX_KEY = 256
EMAIL = r"^[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\.[a-zA-Z]{2,}$"
HTTP_URI = (
    r"^$|^https?://[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
    r"(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*(:[0-9]{1,5})?(/[^\s\x00-\x1F]*)?$"
)
UUID_PATTERN = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"

SCOPE = r"^[a-zA-Z0-9_]([a-zA-Z0-9_ ]*[a-zA-Z0-9_])?$"
OPAQUE = r"^[a-zA-Z0-9_.-]+$"

DEFAULT_FRAMEWORK = "STRIDE"
DEFAULT_STATUS = "not_started"
MAX_AUTHORIZATIONS = 1000
MAX_EMAIL = 254
MAX_PATCH_OPERATIONS = 1000
BUILT_IN_PROVIDER = "tmi"
"""The provider of this service's own groups, `everyone` among them."""



def _is_rfc_3339(value: object) -> object:
    """Otherwise pydantic takes `0.5` for half a second after 1970."""
    if isinstance(value, str) and not _MOMENT.fullmatch(value):
        raise ValueError("give a date and time with its zone, like 2026-01-31T12:00:00Z")
    return value


_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
Moment = Annotated[AwareDatetime, BeforeValidator(_is_rfc_3339)]
Name = Annotated[
    str, StringConstraints(min_length=1, max_length=256, pattern=LINE), AfterValidator(sanitising.checked)
]
Description = Annotated[
    str, StringConstraints(max_length=2048, pattern=TEXT), AfterValidator(sanitising.checked)
]
PlainName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=256, pattern=LINE),
    AfterValidator(sanitising.plain),
    AfterValidator(sanitising.not_empty),
]
PlainText = Annotated[
    str, StringConstraints(max_length=2048, pattern=TEXT), AfterValidator(sanitising.plain)
]
"""HTML is taken out of these."""
LoginHint = Annotated[str, StringConstraints(max_length=MAX_EMAIL, pattern=r"^[a-zA-Z0-9._%+-]+$")]
PkceText = Annotated[str, StringConstraints(min_length=43, max_length=128, pattern=r"^[A-Za-z0-9\-._~]+$")]
Identifier = Annotated[
    str,
    StringConstraints(min_length=1, max_length=500, pattern=IDENTIFIER),
    AfterValidator(sanitising.checked),
]
"""Of a person or a group at their provider: two that look alike would be a trap."""
SeenLine = Annotated[str, StringConstraints(pattern=LINE), AfterValidator(sanitising.checked)]
SeenText = Annotated[str, StringConstraints(pattern=TEXT), AfterValidator(sanitising.checked)]
"""Without characters that are not seen. Bounds of length are their users'."""
UuidText = Annotated[str, StringConstraints(pattern=UUID_PATTERN)]


_WHOLE = re.compile(r"-?[0-9]{1,18}")


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """The types of a field: one, or those of a union."""
    return get_args(annotation) or (annotation,)


class Input(BaseModel):
    """Something that a client sends: exact types, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Query(BaseModel):
    """Parameters of a query string: text that is converted, no unknown ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    SEVERAL: ClassVar[frozenset[str]] = frozenset()
    """Parameters that may be repeated, each time with another value."""

    @field_validator("*", mode="before")
    @classmethod
    def _is_plain(cls, value: object, info: ValidationInfo) -> object:
        """Otherwise pydantic takes `0.0` and `1_0` for numbers, and `on` for true."""
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, str) and int in kinds and not _WHOLE.fullmatch(value):
            raise ValueError("give a whole number")
        if isinstance(value, str) and bool in kinds and value not in ("true", "false"):
            raise ValueError("give true or false")
        return value


class OAuthInput(Input):
    """A body of OAuth: what a client adds to it is ignored (RFC 6749, section 3.2)."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class OAuthQuery(Query):
    """Parameters of an OAuth request: unknown ones are ignored (RFC 6749, section 3.1)."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Output(BaseModel):
    """Something that this service answers; it made the values itself. What has no value is left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    SAYS_NULL: ClassVar[frozenset[str]] = frozenset()
    """Fields that say null instead."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Without `null` where it is never answered."""
        made = handler(schema)
        for name, one in handler.resolve_ref_schema(made).get("properties", {}).items():
            if name in cls.SAYS_NULL:
                continue
            some = [part for part in one.get("anyOf", ()) if part != {"type": "null"}]
            if len(some) == 1:
                del one["anyOf"]
                one.update(some[0])
            elif some:
                one["anyOf"] = some
        return made


class ErrorDetails(Output):
    """Particulars of an error for programs."""

    code: str | None = None
    context: dict[str, Any] | None = None
    suggestion: str | None = None


class Error(Output):
    """Every error has this shape."""

    error: str
    error_description: str
    details: ErrorDetails | None = None


def location_of(model: ThreatModelId) -> str:
    """The path of a threat model."""
    return f"/threat_models/{model}"
