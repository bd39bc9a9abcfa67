"""Settings of the service, what clients are told of them, and people's preferences."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, RootModel, StringConstraints

from api.schemas.base import Description, Input, Output, SeenText

SettingKind = Literal["string", "int", "bool", "json", "float"]
Theme = Literal["auto", "light", "dark"]
PREFERENCES_MAX_BYTES = 1024


class SettingUpdate(Input):
    """A new value of a setting."""

    value: Annotated[SeenText, StringConstraints(max_length=4000)]
    type: SettingKind
    description: Description | None = None


class Setting(Output):
    """A setting, and where its value comes from: `config` is the default."""

    key: str
    value: str
    type: SettingKind
    description: str | None = None
    modified_at: datetime | None = None
    modified_by: UUID | None = None
    source: Literal["database", "config", "environment", "vault"]
    read_only: bool
    """Whether this API cannot change it."""


class Settings(RootModel[list[Setting]]):
    """All settings, by key, but for secrets."""


class ConfigFeatures(Output):
    """What this service can do."""

    websocket_enabled: bool
    saml_enabled: bool
    webhooks_enabled: bool
    timmy_enabled: bool


class ConfigOperator(Output):
    """Who runs this service."""

    name: str | None = None
    contact: str | None = None
    jurisdiction: str | None = None


class ConfigLimits(Output):
    """Bounds that a client should know."""

    max_file_upload_mb: Annotated[int, Field(ge=1, le=100)]
    max_diagram_participants: Annotated[int, Field(ge=1, le=100)]


class ConfigUi(Output):
    """How a client looks at first."""

    default_theme: Theme


class ClientConfig(Output):
    """What clients should know of this service before anybody signs in."""

    features: ConfigFeatures
    operator: ConfigOperator
    limits: ConfigLimits
    ui: ConfigUi
    content_providers: list[dict[str, Any]]


class UserPreferences(
    RootModel[
        Annotated[
            dict[str, dict[str, Any]],
            Field(max_length=20),
        ]
    ]
):
    """By client, whose name has up to 64 letters, digits, `_` and `-`. At most 20 clients and 1 KB of
    JSON.
    """
