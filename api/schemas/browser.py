"""Sessions that a browser keeps as a cookie."""

from datetime import datetime
from typing import Annotated

from pydantic import Field, StringConstraints

from api.schemas.base import PROVIDER_ID, LoginHint, Output, Query
from api.schemas.people import Profile

RETURN_TO = r"^/([!-.0-\[\]-~][!-\[\]-~]*)?$"
"""A path on this origin: no second slash, which would name a host, no backslash, which browsers take for one,
and nothing that could end a header.
"""


class SessionSignInQuery(Query):
    """Where to sign in, and where to go then."""

    idp: Annotated[str, StringConstraints(max_length=100, pattern=PROVIDER_ID)] | None = None
    login_hint: LoginHint | None = None
    return_to: Annotated[str, StringConstraints(max_length=1000, pattern=RETURN_TO)] = "/"


class SessionCallbackQuery(Query):
    """What the authorization server says."""

    code: Annotated[str, StringConstraints(max_length=512)] | None = None
    state: Annotated[str, StringConstraints(max_length=256)] | None = None
    iss: Annotated[str, StringConstraints(max_length=1000)] | None = None
    error: Annotated[str, StringConstraints(max_length=100)] | None = None
    error_description: Annotated[str, StringConstraints(max_length=1000)] | None = None


class BrowserSession(Output):
    """Who is signed in in this browser."""

    user: Profile
    csrf_token: str = Field(description="To be sent as X-CSRF-Token with what changes something.")
    expires_at: datetime
    idle_timeout_s: float = Field(description="Without a request for so long, the session is over.")
