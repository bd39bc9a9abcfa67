"""How often somebody may ask: by address, more strictly for sign-in, and by user.

An address is counted before its token is looked at, so that guessing costs the guesser. Probes and figures
are not counted, since whoever watches the service must not be sent away by its load.
"""

import time
from typing import Any, cast

from quart import Response, g, request

from api.context import caller_if_any, client_address, services
from api.forwarding import bucket_of
from api.services import Services
from tmi.domain.errors import TooManyRequests, Unavailable
from tmi.domain.ids import UserId
from tmi.domain.ports import RateLimits
from tmi.domain.values import value

WINDOW_S = 60
HOUR_S = 3600
FREE = frozenset({"/livez", "/readyz", "/metrics"})
"""Paths that are not counted."""
SIGN_IN = ("/oauth2/", "/session/")
COUNTS = "tmi.counts"
"""Where the state of an ASGI scope has what a request was counted for already."""


@value
class Allowance:
    """What is left in this window."""

    limit: int
    count: int
    reset_at: int
    """Unix time in seconds."""

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.count)

    @property
    def is_exceeded(self) -> bool:
        return self.count > self.limit


class Counts:
    """What a request has been counted for."""

    def __init__(self) -> None:
        self.nearest: Allowance | None = None
        self.failure: Unavailable | None = None
        """What was away when it was asked for this request: it need not be waited for again."""
        self._counted: dict[tuple[str, int], int] = {}

    async def count(
        self, limits: RateLimits, key: str, limit: int, what: str, window_s: int = WINDOW_S
    ) -> None:
        """Once, however often it is asked. Raises TooManyRequests."""
        if not limit:
            return
        count = self._counted.get((key, window_s))
        if count is None:
            count = self._counted[key, window_s] = await limits.hit(key, window_s)
        allowance = Allowance(limit, count, (int(time.time()) // window_s + 1) * window_s)
        nearest = self.nearest
        if nearest is None or allowance.is_exceeded or allowance.remaining < nearest.remaining:
            self.nearest = allowance
        if allowance.is_exceeded:
            raise TooManyRequests(f"too many {what}; at most {limit} within {window_s} s")

    def headers(self) -> dict[str, str]:
        """What tells of the limit that is nearest."""
        if self.nearest is None:
            return {}
        told = {
            "X-RateLimit-Limit": str(self.nearest.limit),
            "X-RateLimit-Remaining": str(self.nearest.remaining),
            "X-RateLimit-Reset": str(self.nearest.reset_at),
        }
        if self.nearest.is_exceeded:
            told["Retry-After"] = str(max(1, self.nearest.reset_at - int(time.time())))
        return told


async def count_address(services: Services, counts: Counts, path: str, address: str) -> None:
    """Count a request of an address. Raises TooManyRequests."""
    config, limits = services.configuration, services.rate_limits
    bucket = bucket_of(address)
    if path.startswith(SIGN_IN):
        limit = config.number("sign_in_requests_per_min")
        await counts.count(limits, f"sign-in:{bucket}", limit, "sign-in requests of this address")
    limit = config.number("address_requests_per_min")
    await counts.count(limits, f"address:{bucket}", limit, "requests of this address")


async def count_user(services: Services, counts: Counts, user: UserId) -> None:
    """Count a request of somebody who is known. Raises TooManyRequests."""
    own, limits = await services.configuration.limits_of(user), services.rate_limits
    await counts.count(limits, f"user:{user}", own.requests_per_min, "requests of this user")
    await counts.count(limits, f"user:{user}", own.requests_per_hour, "requests of this user", HOUR_S)


async def limit_address() -> None:
    """Before each request. Raises TooManyRequests, and Unavailable where that is known already."""
    if request.path not in FREE:
        await count_address(services(), _counts(), request.path, client_address())
    if (failure := _counts().failure) is not None:
        raise failure


async def limit_user() -> None:
    """Before each request of somebody who is known. Raises TooManyRequests."""
    sign_in = caller_if_any()
    if sign_in is not None:
        await count_user(services(), _counts(), sign_in.user.id)


async def with_rate_headers(response: Response) -> Response:
    """Tell of the limit that is nearest."""
    response.headers.update(_counts().headers())
    return response


def _counts() -> Counts:
    """Of this request, with what it was counted for before it came here."""
    counts: Counts | None = g.get("counts")
    if counts is None:
        state = cast("dict[str, Any]", request.scope.get("state") or {})
        counts = g.counts = state.get(COUNTS) or Counts()
    return counts
