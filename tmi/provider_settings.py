"""The settings of identity providers: `TMI_PROVIDER_<ID>_<FIELD>`, as many providers as there are ids.

`TMI_PROVIDER_GOOGLE_CLIENT_ID` is the field `client_id` of the provider `google`. An id that is the name of a
kind needs no `_KIND`. The secret may be in a file, as every secret: `_CLIENT_SECRET_FILE`.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)

PREFIX = "TMI_PROVIDER_"
SECRET = "client_secret"  # noqa: S105 - the name of a field
KINDS = ("google", "github", "microsoft", "oidc")
RESERVED = ("tmi", "automation")
"""The development provider, whose name the built-in groups bear, and the accounts of programs."""
MAX_PROVIDERS = 20
ANY_TENANT = "*"
SHARED_TENANTS = ("common", "organizations")
ISSUERS = {
    "google": "https://accounts.google.com",
    "github": "https://github.com",
    "microsoft": "https://login.microsoftonline.com",
}

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DOMAIN = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}")

Line = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1F]+$")]
Texts = Annotated[tuple[str, ...], Field(max_length=100)]


class ProviderSettings(BaseModel):
    """One identity provider."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )

    id: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    kind: Literal["google", "github", "microsoft", "oidc"] = "oidc"
    """google, github, microsoft, or oidc for any other OpenID Connect issuer."""
    client_id: Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[\x21-\x7E]+$")]
    """What the provider calls this service."""
    client_secret: SecretStr | None = None
    """Or _CLIENT_SECRET_FILE. An oidc provider may do without, by PKCE alone."""
    issuer: str = ""
    """The issuer, without /.well-known/...; needed for oidc. For github an Enterprise Server, for microsoft
    another cloud.
    """
    tenant: str = ""
    """microsoft: the tenant's id, or organizations or common, for which _ALLOWED_TENANTS is needed."""
    allowed_tenants: Texts = ()
    """microsoft: ids of tenants whose people may come, separated by commas; * for all there are."""
    hosted_domain: str = ""
    """google: only people of this Workspace domain."""
    allowed_domains: Texts = ()
    """Only people with a verified e-mail address at one of these domains, separated by commas."""
    trust_emails: bool = False
    """oidc, and microsoft with one tenant: addresses are theirs even though the provider does not say so."""
    scopes: Texts = ()
    """What to ask the provider for, separated by commas or spaces."""
    name: Line | None = None
    """What people read on the button."""
    icon: Line | None = None
    """For clients, which know icons by name."""

    @field_validator("allowed_tenants", "allowed_domains", "scopes", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, re.split(r"[,\s]+", value))) if isinstance(value, str) else value

    @field_validator("allowed_domains", mode="after")
    @classmethod
    def _are_domains(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_domain(text) for text in value)

    @field_validator("hosted_domain", mode="after")
    @classmethod
    def _is_domain(cls, value: str) -> str:
        return _domain(value) if value else value

    @field_validator("client_secret", mode="after")
    @classmethod
    def _is_something(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value():
            raise ValueError("it is empty")
        return value

    @field_validator("issuer", mode="after")
    @classmethod
    def _is_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (
            parts.scheme not in ("https", "http") or not parts.hostname or "@" in parts.netloc
            or parts.query or parts.fragment or not value.isascii() or re.search(r"\s", value)
        ):  # fmt: skip
            raise ValueError("give an address like https://login.example.org")
        if value.endswith("/.well-known/openid-configuration"):
            raise ValueError("leave /.well-known/openid-configuration out")
        return value

    @field_validator("scopes", mode="after")
    @classmethod
    def _are_scopes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(re.fullmatch(r"[\x21\x23-\x5B\x5D-\x7E]{1,200}", scope) for scope in value):
            raise ValueError("give scopes like openid,email,profile")
        return value

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        for field, kinds in (
            ("tenant", ("microsoft",)),
            ("allowed_tenants", ("microsoft",)),
            ("hosted_domain", ("google",)),
            ("trust_emails", ("oidc", "microsoft")),
        ):
            if getattr(self, field) and self.kind not in kinds:
                raise ValueError(f"{self.variable(field)} is for {' and '.join(kinds)} only")
        if self.kind != "oidc" and self.client_secret is None:
            raise ValueError(f"set {self.variable(SECRET)} or {self.variable(SECRET)}_FILE")
        if self.kind == "oidc" and not self.issuer:
            raise ValueError(f"say in {self.variable('issuer')} where it is, like https://login.example.org")
        if self.kind == "google" and self.issuer:
            raise ValueError(f"leave {self.variable('issuer')} out: Google has one; use kind oidc for others")
        if self.kind != "github" and self.scopes and "openid" not in self.scopes:
            raise ValueError(f"{self.variable('scopes')} has to hold openid")
        if self.kind == "microsoft":
            self._has_tenants()
        return self

    def _has_tenants(self) -> None:
        allowed = self.variable("allowed_tenants")
        bad = [t for t in self.allowed_tenants if t != ANY_TENANT and not _UUID.fullmatch(t)]
        if bad:
            raise ValueError(f"{allowed}: give ids of tenants (UUIDs in lower case), or *")
        if self.tenant in SHARED_TENANTS:
            if not self.allowed_tenants:
                raise ValueError(
                    f"with {self.tenant} people of any tenant could come: list tenants in {allowed}, "
                    "or set it to *"
                )
            if self.trust_emails:
                raise ValueError(
                    f"{self.variable('trust_emails')} needs one tenant: others could claim any address"
                )
        elif not _UUID.fullmatch(self.tenant):
            raise ValueError(
                f"say in {self.variable('tenant')} which tenant it is: its id (a UUID in lower case), "
                "organizations or common"
            )
        elif self.allowed_tenants:
            raise ValueError(f"leave {allowed} out: {self.variable('tenant')} names one")

    @property
    def address(self) -> str:
        """Where the provider is."""
        return self.issuer or ISSUERS[self.kind]

    def variable(self, field: str) -> str:
        """The variable of a field."""
        return variable_of(self.id, field)


FIELDS = tuple(name for name in ProviderSettings.model_fields if name != "id")
_VARIABLE = re.compile(
    rf"{PREFIX}([A-Z][A-Z0-9_]*?)_({'|'.join(name.upper() for name in FIELDS)}|CLIENT_SECRET_FILE)"
)


def variable_of(provider: str, field: str) -> str:
    """`TMI_PROVIDER_<ID>_<FIELD>`."""
    return f"{PREFIX}{provider}_{field}".upper()


def fields_of(environment: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """What is set of each provider, by provider and field; `client_secret_file` among the fields."""
    found: dict[str, dict[str, str]] = {}
    for name in sorted(environment):
        match = _VARIABLE.fullmatch(name.upper())
        if match is not None:
            found.setdefault(match[1].lower(), {})[match[2].lower()] = environment[name]
    return found


def is_of_a_provider(name: str) -> bool:
    """Whether a variable is one of these."""
    return _VARIABLE.fullmatch(name.upper()) is not None


def as_variables(provider: ProviderSettings) -> dict[str, Any]:
    """The variables that say what was set of a provider, secrets included."""
    given = {name: getattr(provider, name) for name in FIELDS if name in provider.model_fields_set}
    return {provider.variable(name): value for name, value in given.items() if value is not None}


def describe_provider_settings() -> list[tuple[str, str, str]]:
    """Each variable with `<ID>` for the provider, its default and what it means."""
    return [
        (
            f"{PREFIX}<ID>_{name.upper()}",
            "" if field.is_required() else str(field.get_default()),
            " ".join((field.description or "").split()),
        )
        for name, field in ProviderSettings.model_fields.items()
        if name != "id"
    ]


def _domain(text: str) -> str:
    if not _DOMAIN.fullmatch(text.lower()):
        raise ValueError("give domains like example.org")
    return text.lower()
