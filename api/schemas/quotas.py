"""Quotas of users."""

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import Field

from api.schemas.base import Input, Output
from tmi.domain.model import User
from tmi.domain.quotas import Allowance, Limits, Quota, Usage

Bound = Annotated[int, Field(ge=0, le=2**53 - 1)]
"""0: as much as they like."""


class UserQuotaUpdate(Input):
    """What one user may do at most. What is left out stays as it is for everybody; 0: no limit."""

    max_requests_per_minute: Annotated[int, Field(ge=1, le=10_000)]
    max_requests_per_hour: Annotated[int, Field(ge=1, le=600_000)] | None = None
    max_threat_models: Bound | None = None
    max_diagrams: Bound | None = None
    """In all threat models for which the user is charged."""
    max_stored_bytes: Bound | None = None
    max_connections: Bound | None = None

    @property
    def allowance(self) -> Allowance:
        """As the domain has it."""
        return Allowance(
            self.max_requests_per_minute,
            self.max_requests_per_hour,
            self.max_threat_models,
            self.max_diagrams,
            self.max_stored_bytes,
            self.max_connections,
        )


class QuotaUsage(Output):
    """What a user is charged for."""

    threat_models: int
    diagrams: int
    stored_bytes: int


class UserQuota(Output):
    """What one user may do at most; 0, or absent for `max_requests_per_hour`: no limit."""

    user_id: UUID
    max_requests_per_minute: int
    max_requests_per_hour: int | None = None
    max_threat_models: int
    max_diagrams: int
    max_stored_bytes: int
    max_connections: int
    is_default: bool
    """The limits of everybody; nobody has set others for this user."""
    usage: QuotaUsage | None = None
    created_at: datetime
    modified_at: datetime

    @classmethod
    def of(cls, quota: Quota, defaults: Limits, usage: Usage | None = None) -> Self:
        """A quota that an administrator has set."""
        limits = quota.allowance.instead_of(defaults)
        return cls._made(quota.user, limits, usage, False, quota.created_at, quota.modified_at)

    @classmethod
    def by_default(cls, user: User, defaults: Limits, usage: Usage) -> Self:
        """What holds for a user of whom nothing was said. It does so since the account was made."""
        return cls._made(user.id, defaults, usage, True, user.created_at, user.created_at)

    @classmethod
    def _made(
        cls,
        user: UUID,
        limits: Limits,
        usage: Usage | None,
        is_default: bool,
        created_at: datetime,
        modified_at: datetime,
    ) -> Self:
        return cls(
            user_id=user,
            max_requests_per_minute=limits.requests_per_min,
            max_requests_per_hour=limits.requests_per_hour or None,
            max_threat_models=limits.threat_models,
            max_diagrams=limits.diagrams,
            max_stored_bytes=limits.stored_bytes,
            max_connections=limits.connections,
            is_default=is_default,
            usage=None
            if usage is None
            else QuotaUsage(
                threat_models=usage.threat_models, diagrams=usage.diagrams, stored_bytes=usage.stored_bytes
            ),
            created_at=created_at,
            modified_at=modified_at,
        )


class QuotaDefaults(Output):
    """What everybody may ask; 0: as much as they like."""

    max_requests_per_minute: int
    max_requests_per_hour: int


class FurtherQuotaDefaults(Output):
    """What everybody may have; 0: as much as they like."""

    max_threat_models: int
    max_diagrams: int
    max_stored_bytes: int
    max_connections: int


class UserQuotas(Output):
    """A page of the quotas that administrators have set."""

    quotas: list[UserQuota]
    total: int
    limit: int
    offset: int
    defaults: QuotaDefaults
    further_defaults: FurtherQuotaDefaults
