"""One tree of errors. A class's docstring is the message its user reads; `detail` adds the particulars.

`api/errors.py` is the only place that maps them to HTTP statuses and close codes.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tmi.domain.model import Node


class TmiError(Exception):
    """Something went wrong in TMI."""

    def __init__(self, detail: str = "") -> None:
        self.detail = detail
        super().__init__(detail or self.summary)

    @property
    def summary(self) -> str:
        """The sentence that names this kind of error, without the particulars."""
        return (type(self).__doc__ or type(self).__name__).strip().splitlines()[0]


class BadInput(TmiError):
    """The request is not valid."""


class BadFrame(BadInput):
    """A frame does not follow its protocol."""


class BadUpdate(BadFrame):
    """An update could not be decoded or applied; the document is unchanged."""


class StateTooLarge(BadFrame):
    """An awareness state is larger than it may be."""


class TooMuchPending(BadUpdate):
    """Too much waits for updates that never came."""


class TooLarge(BadInput):
    """The payload is larger than this service accepts."""


class Unauthenticated(TmiError):
    """Sign in first: the token is missing, invalid or expired."""


class Expired(Unauthenticated):
    """The token has expired."""


class UnknownKey(Unauthenticated):
    """The token was signed with a key that this node does not know."""


class Forbidden(TmiError):
    """Your role does not allow this."""


class NotFound(TmiError):
    """There is no such thing here."""


class Conflict(TmiError):
    """The request contradicts the present state."""


class VersionMismatch(Conflict):
    """The resource changed since you read it; read it again."""


class LastOwner(Conflict):
    """A threat model needs at least one owner."""


class TooManyRequests(TmiError):
    """Too many requests; try again later."""


class QuotaReached(TmiError):
    """You have as much as you may."""

    def __init__(self, quota: str, limit: int, whose: str) -> None:
        """`quota` is the field of the quota that is used up, `whose` it is, for a sentence."""
        super().__init__(f"{whose} has as many {quota.replace('_', ' ')} as allowed: {limit}")
        self.quota = quota
        self.limit = limit


class StorageFull(QuotaReached):
    """There is no room left for more."""


class Unavailable(TmiError):
    """A part that this needs is away; try again shortly."""


class DatabaseUnavailable(Unavailable):
    """The database does not answer; try again shortly."""


class OutcomeUnknown(Unavailable):
    """It may have been done, or may yet be: read again before you repeat it."""


class Draining(Unavailable):
    """This node is shutting down; connect again."""


class OwnedElsewhere(Unavailable):
    """Another node owns this room: `owner`."""

    def __init__(self, owner: "Node") -> None:
        super().__init__(f"node {owner.name} owns this room")
        self.owner = owner


class StartupError(TmiError):
    """The service cannot start."""
