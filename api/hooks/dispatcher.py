"""Makes the deliveries of webhooks: each node takes what is due, a few at a time, and says what came of it.

What it holds true
    - At most so many calls at once in all, and of one subscription; who fails has one. So a slow endpoint
      costs its own deliveries time, and no others'.
    - A call is made under a lease that outlives it. A node that dies leaves what it had to the others.
    - No secret, body or answer is logged, and no URL, which may hold a secret: the id of a subscription is.
"""

import asyncio
import hmac
import logging
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson

from api.hooks.sender import Answered, Sender, Undelivered
from api.hooks.signing import headers
from tmi.domain.errors import DatabaseUnavailable
from tmi.domain.ids import UserId
from tmi.domain.ports import Outbox
from tmi.domain.webhooks import (
    Attempt,
    Backlog,
    Challenge,
    Outcome,
    Slots,
    WebhookLimits,
    shuffled_pause,
)

log = logging.getLogger(__name__)

CHALLENGE_EVENT = "webhook.challenge"
CHALLENGES_AT_ONCE = 8
GONE = 410
"""The endpoint wants no more of it (RFC 9110, section 15.5.11)."""
RETRY_AFTER_MAX_S = 3600.0


@dataclass(frozen=True, slots=True)
class DispatchOptions:
    """What an operator may set about deliveries."""

    at_once: int = 32
    per_webhook: int = 4
    attempts_max: int = 8
    backoff_s: float = 10.0
    """The first pause; each is twice the one before, to an hour."""
    backoff_max_s: float = 3600.0
    timeout_s: float = 10.0
    poll_s: float = 0.5
    away_s: float = 2.0
    """How long nothing is tried after the database did not answer."""
    backlog_every_s: float = 15.0
    finish_s: float = 2.0
    """How long a stopping node waits for the calls that it has begun."""

    @property
    def lease_s(self) -> float:
        """Longer than a call, and than what it takes to say what came of it."""
        return 3 * self.timeout_s


class Dispatcher:
    """Delivers. Use it inside `running()`."""

    def __init__(
        self,
        outbox: Outbox,
        sender: Sender,
        may_own: Callable[[UserId], Awaitable[bool]],
        options: DispatchOptions | None = None,
        defaults: WebhookLimits | None = None,
    ) -> None:
        """`may_own`: whether a user may still have subscriptions."""
        self._outbox = outbox
        self._sender = sender
        self._may_own = may_own
        self._options = options or DispatchOptions()
        self._defaults = defaults or WebhookLimits()
        self._calls: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self.counts: Counter[str] = Counter()
        """Attempts of this node: `delivered`, `retried`, `failed`."""
        self.backlog = Backlog()
        """As of a quarter of a minute ago."""

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Dispatcher"]:
        """Deliver while the body runs."""
        tasks = [
            asyncio.create_task(self._deliver(), name="webhooks"),
            asyncio.create_task(self._look_at_backlog(), name="webhooks-backlog"),
        ]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._finish()

    async def _finish(self) -> None:
        if self._calls:
            _, late = await asyncio.wait(self._calls, timeout=self._options.finish_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # --- the loop -------------------------------------------------------------------------------

    async def _deliver(self) -> None:
        while True:
            self._wake.clear()
            pause_s = self._options.poll_s
            try:
                if await self._begin_what_is_due():
                    continue
            except DatabaseUnavailable as error:
                log.warning("webhooks wait: %s", error)
                pause_s = self._options.away_s
            except Exception:
                log.exception("webhooks could not be taken; it goes on")
                pause_s = self._options.away_s
            try:
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _begin_what_is_due(self) -> bool:
        """Whether there may be more at once."""
        options = self._options
        free = options.at_once - len(self._calls)
        if free <= 0:
            return False
        challenges = await self._outbox.take_challenges(min(free, CHALLENGES_AT_ONCE), options.lease_s)
        for challenge in challenges:
            self._begin(self._challenge(challenge))
        free -= len(challenges)
        if free <= 0:
            return False
        slots = Slots(free, options.per_webhook, options.lease_s)
        attempts = await self._outbox.take(slots, self._defaults)
        for attempt in attempts:
            self._begin(self._attempt(attempt))
        return bool(attempts)

    def _begin(self, call: Awaitable[None]) -> None:
        task = asyncio.ensure_future(call)
        assert isinstance(task, asyncio.Task)
        self._calls.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        self._wake.set()
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, DatabaseUnavailable):
            log.error("a webhook's call failed; it is tried again when its lease ends", exc_info=error)

    async def _look_at_backlog(self) -> None:
        while True:
            try:
                self.backlog = await self._outbox.backlog()
            except DatabaseUnavailable:
                pass  # the figure of before stays
            except Exception:
                log.exception("the webhooks' backlog could not be read; it goes on")
            await asyncio.sleep(self._options.backlog_every_s)

    # --- one call -------------------------------------------------------------------------------

    async def _attempt(self, attempt: Attempt) -> None:
        outcome = await self._outcome(attempt)
        await self._outbox.settle(attempt, outcome)
        told = "delivered" if outcome.error is None else "failed" if outcome.retry_s is None else "retried"
        self.counts[told] += 1
        if outcome.error is not None:
            log.log(
                logging.INFO if attempt.secret is not None else logging.WARNING,
                "webhook %s: delivery %s %s, attempt %d: %s",
                attempt.webhook,
                attempt.delivery,
                told,
                attempt.number,
                outcome.error,
            )

    async def _outcome(self, attempt: Attempt) -> Outcome:
        if attempt.number > self._options.attempts_max:
            return Outcome("the node that tried it last was gone before it could say what came of it")
        if not await self._may_own(attempt.owner):
            return Outcome("its owner is no administrator any more")
        if attempt.secret is None:
            return self._again(
                "its secret cannot be opened: the key of the settings is not there", attempt.number
            )
        body = attempt.payload.encode()
        named = {"X-Webhook-Event": attempt.event_type, "X-Webhook-Delivery-Id": str(attempt.delivery)}
        try:
            answered = await self._post(attempt, attempt.secret, str(attempt.delivery), body, named)
        except Undelivered as error:
            return self._again(str(error), attempt.number)
        if 200 <= answered.status < 300:
            return Outcome()
        said = f"the endpoint answered {answered.status}"
        if answered.status == GONE:
            return Outcome(said)
        return self._again(said, attempt.number, answered.retry_after_s)

    async def _post(
        self, call: Attempt | Challenge, secret: str, key: str, body: bytes, named: dict[str, str]
    ) -> Answered:
        signed = headers(secret, key, body, int(time.time()))
        fixed = {"Content-Type": "application/json", "X-Webhook-Subscription-Id": str(call.webhook)}
        return await self._sender.post(call.url, body, fixed | named | signed)

    def _again(self, error: str, number: int, retry_after_s: float | None = None) -> Outcome:
        if number >= self._options.attempts_max:
            return Outcome(error)
        pause_s = shuffled_pause(
            self._options.backoff_s,
            self._options.backoff_max_s,
            number,
            random.random(),  # noqa: S311
        )
        return Outcome(error, max(pause_s, min(retry_after_s or 0.0, RETRY_AFTER_MAX_S)))

    # --- challenges -----------------------------------------------------------------------------

    async def _challenge(self, challenge: Challenge) -> None:
        error = await self._refusal_of(challenge)
        pause_s = None
        if error is not None:
            log.info(
                "webhook %s is not verified, challenge %d: %s", challenge.webhook, challenge.number, error
            )
            pause_s = shuffled_pause(
                self._options.backoff_s,
                self._options.backoff_max_s,
                challenge.number,
                random.random(),  # noqa: S311
            )
        await self._outbox.settle_challenge(challenge, Outcome(error, pause_s))

    async def _refusal_of(self, challenge: Challenge) -> str | None:
        """Why an endpoint is not verified; None if it is."""
        if not await self._may_own(challenge.owner):
            return "its owner is no administrator any more"
        if challenge.secret is None:
            return "its secret cannot be opened"
        text = secrets.token_hex(32)
        body = orjson.dumps({"type": CHALLENGE_EVENT, "challenge": text})
        named = {"X-Webhook-Event": CHALLENGE_EVENT, "X-Webhook-Challenge": text}
        key = f"{challenge.webhook}.{challenge.number}"
        try:
            answered = await self._post(challenge, challenge.secret, key, body, named)
        except Undelivered as error:
            return str(error)
        if not 200 <= answered.status < 300:
            return f"the endpoint answered {answered.status}"
        return None if _holds(answered.body, text) else "the endpoint did not answer with the challenge"


def _holds(body: bytes, text: str) -> bool:
    """Whether an answer is the challenge, as it is or as `{"challenge": ...}`."""
    if hmac.compare_digest(body.strip(), text.encode()):
        return True
    try:
        told = orjson.loads(body)
    except ValueError:
        return False
    given = told.get("challenge") if isinstance(told, dict) else None
    return isinstance(given, str) and hmac.compare_digest(given.encode("utf-8", "replace"), text.encode())
