"""The one place that says how an error looks from outside: HTTP status and body, and close code."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rooms import closing
from tmi.domain.errors import (
    BadFrame,
    BadInput,
    Conflict,
    Draining,
    Forbidden,
    LastOwner,
    NotFound,
    OutcomeUnknown,
    QuotaReached,
    StorageFull,
    TmiError,
    TooLarge,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    VersionMismatch,
)

RETRY_AFTER_S = 2
MAX_DESCRIPTION = 1000
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]+")


class PreconditionRequired(TmiError):
    """Say by If-Match which version you have read."""


class NotAcceptable(TmiError):
    """This operation does not answer in a media type that you accept."""


class UnsupportedMediaType(BadInput):
    """This operation does not take that media type."""


class InvalidRequest(BadInput):
    """The request is not valid; `details` names the fields."""

    def __init__(self, detail: str, context: Mapping[str, Any]) -> None:
        super().__init__(detail)
        self.context = context


class OAuthError(BadInput):
    """The sign-in request was refused."""

    def __init__(self, code: str, detail: str) -> None:
        """`code` is one of RFC 6749, section 5.2."""
        super().__init__(detail)
        self.code = code


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as a client receives it."""

    status: int
    error: str
    description: str
    details: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        """The contract's `Error` object."""
        text = _CONTROL.sub(" ", self.description)[:MAX_DESCRIPTION]
        body: dict[str, Any] = {"error": self.error, "error_description": text}
        return body if self.details is None else {**body, "details": dict(self.details)}


_BEARER = {"WWW-Authenticate": 'Bearer realm="tmi"'}
_BASIC = {"WWW-Authenticate": 'Basic realm="tmi"'}
_RETRY = {"Retry-After": str(RETRY_AFTER_S)}

# The first class that an error is an instance of decides, so the particular ones come first.
_STATUSES: tuple[tuple[type[TmiError], int, str, Mapping[str, str]], ...] = (
    (UnsupportedMediaType, 415, "unsupported_media_type", {}),
    (TooLarge, 413, "payload_too_large", {}),
    (BadInput, 400, "invalid_input", {}),
    (Unauthenticated, 401, "unauthorized", _BEARER),
    (Forbidden, 403, "forbidden", {}),
    (StorageFull, 413, "quota_exceeded", {}),
    (QuotaReached, 403, "quota_exceeded", {}),
    (NotFound, 404, "not_found", {}),
    (Conflict, 409, "conflict", {}),
    (NotAcceptable, 406, "not_acceptable", {}),
    (PreconditionRequired, 428, "precondition_required", {}),
    (TooManyRequests, 429, "too_many_requests", _RETRY),
    # Nobody should repeat it without a look.
    (OutcomeUnknown, 503, "service_unavailable", {}),
    (Unavailable, 503, "service_unavailable", _RETRY),
)

_DETAIL_CODES: tuple[tuple[type[TmiError], str], ...] = (
    (LastOwner, "last_owner"),
    (VersionMismatch, "version_mismatch"),
    (OutcomeUnknown, "outcome_unknown"),
)

_CLOSE_CODES: tuple[tuple[type[TmiError], int], ...] = (
    (TooLarge, closing.DOCUMENT_TOO_LARGE),
    (BadFrame, closing.BAD_FRAME),
    (BadInput, closing.BAD_FRAME),
    (Unauthenticated, closing.SIGN_IN_ENDED),
    (Forbidden, closing.NO_LONGER_ALLOWED),
    (NotFound, closing.DIAGRAM_DELETED),
    (QuotaReached, closing.NO_LONGER_ALLOWED),
    (Draining, closing.SERVICE_RESTART),
    (TooManyRequests, closing.TRY_AGAIN_LATER),
    (Unavailable, closing.TRY_AGAIN_LATER),
)

INTERNAL = Problem(500, "server_error", "Something went wrong here; it has been logged.")


def problem_of(error: TmiError) -> Problem:
    """The HTTP answer to an error."""
    if isinstance(error, OAuthError):
        if error.code == "invalid_client":  # RFC 6749, section 5.2
            return Problem(401, error.code, _sentence(error), headers=_BASIC)
        return Problem(400, error.code, _sentence(error))
    for kind, status, code, headers in _STATUSES:
        if isinstance(error, kind):
            return Problem(status, code, _sentence(error), _details(error), headers)
    return INTERNAL


def close_code_of(error: TmiError) -> int:
    """The close code that tells a live socket of an error."""
    return next((code for kind, code in _CLOSE_CODES if isinstance(error, kind)), closing.INTERNAL_ERROR)


def _sentence(error: TmiError) -> str:
    return error.detail[:1].upper() + error.detail[1:] if error.detail else error.summary


def _details(error: TmiError) -> Mapping[str, Any] | None:
    if isinstance(error, InvalidRequest):
        return {"code": "invalid_fields", "context": dict(error.context)}
    if isinstance(error, QuotaReached):
        return {
            "code": "quota_exceeded",
            "context": {"quota": error.quota, "limit": error.limit},
            "suggestion": "Ask an administrator for more; what is deleted makes room once it is purged.",
        }
    code = next((code for kind, code in _DETAIL_CODES if isinstance(error, kind)), None)
    return None if code is None else {"code": code}
