"""Sign-in sessions as people see them."""

from datetime import datetime
from typing import Self
from uuid import UUID

from api.schemas.base import Output
from tmi.domain.sign_ins import StandingSignIn


class SignInOutput(Output):
    """A sign-in of the caller."""

    id: UUID
    started_at: datetime
    refreshed_at: datetime | None = None
    expires_at: datetime
    client: str | None = None
    credential_id: UUID | None = None
    is_current: bool

    @classmethod
    def of(cls, sign_in: StandingSignIn, *, is_current: bool) -> Self:
        """A sign-in as its person sees it."""
        return cls(
            id=sign_in.id,
            started_at=sign_in.started_at,
            refreshed_at=sign_in.refreshed_at,
            expires_at=sign_in.expires_at,
            client=sign_in.client,
            credential_id=sign_in.credential,
            is_current=is_current,
        )


class SignIns(Output):
    """Sign-ins of the caller."""

    sign_ins: list[SignInOutput]
    total: int
    limit: int
    offset: int
