"""How often somebody may ask: by address, more strictly for sign-in, and by user.

An address is counted before its token is looked at, so that guessing costs the guesser. Probes and figures
are not counted, since whoever watches the service must not be sent away by its load.
"""

import time
from dataclasses import dataclass

from quart import Response, g, request

from api.context import caller_if_any, client_address, services
from api.forwarding import bucket_of
from tmi.domain.errors import TooManyRequests

WINDOW_S = 60
HOUR_S = 3600
FREE = frozenset({"/livez", "/readyz", "/metrics"})
"""Paths that are not counted."""
SIGN_IN = ("/oauth2/", "/session/")


@dataclass(frozen=True, slots=True)
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


async def limit_address() -> None:
    """Before each request. Raises TooManyRequests."""
    if request.path in FREE:
        return
    config = services().configuration
    bucket = bucket_of(client_address())
    if request.path.startswith(SIGN_IN):
        limit = config.number("sign_in_requests_per_min")
        await _count(f"sign-in:{bucket}", limit, "sign-in requests of this address")
    await _count(f"address:{bucket}", config.number("address_requests_per_min"), "requests of this address")


async def limit_user() -> None:
    """Before each request of somebody who is known. Raises TooManyRequests."""
    sign_in = caller_if_any()
    if sign_in is not None:
        user = sign_in.user.id
        limits = await services().configuration.limits_of(user)
        await _count(f"user:{user}", limits.requests_per_min, "requests of this user")
        await _count(f"user:{user}", limits.requests_per_hour, "requests of this user", HOUR_S)


async def with_rate_headers(response: Response) -> Response:
    """Tell of the limit that is nearest."""
    allowance: Allowance | None = g.get("allowance")
    if allowance is not None:
        response.headers["X-RateLimit-Limit"] = str(allowance.limit)
        response.headers["X-RateLimit-Remaining"] = str(allowance.remaining)
        response.headers["X-RateLimit-Reset"] = str(allowance.reset_at)
        if allowance.is_exceeded:
            response.headers["Retry-After"] = str(max(1, allowance.reset_at - int(time.time())))
    return response


async def _count(key: str, limit: int, what: str, window_s: int = WINDOW_S) -> None:
    if not limit:
        return
    count = await services().rate_limits.hit(key, window_s)
    allowance = Allowance(limit, count, (int(time.time()) // window_s + 1) * window_s)
    nearest: Allowance | None = g.get("allowance")
    if nearest is None or allowance.is_exceeded or allowance.remaining < nearest.remaining:
        g.allowance = allowance
    if allowance.is_exceeded:
        raise TooManyRequests(f"too many {what}; at most {limit} within {window_s} s")
