"""How a node follows changes of the signing keys.

A new key is stored `LEAD` before it signs, and each node reads the keys at least every `READ_EVERY_S`, and at
once when a signal tells of a change. So every node that reaches the database at all can verify a key before
the first token of it exists. A node that missed all of that meets an id that it does not know, and reads the
keys then; for that it asks the database once in `LEARN_EVERY_S`, whatever ids people make up.

Keys whose time is over, and those that an operator took away, are gone from the next reading on.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from api.tokens import Tokens
from tmi.domain.errors import TmiError
from tmi.domain.ports import Happened, Signal, SigningKeys

log = logging.getLogger(__name__)

LEAD = timedelta(seconds=60)
READ_EVERY_S = 10.0
LEARN_EVERY_S = 1.0


class KeyRing:
    """Keeps the keys of `tokens` as they are in the store."""

    def __init__(
        self, store: SigningKeys, tokens: Tokens, *, read_every_s: float = READ_EVERY_S
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._read_every_s = read_every_s
        self._wanted = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._learned_at = -LEARN_EVERY_S
        self.reads = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the store while the body runs."""
        self._tokens.learn = self.learn
        task = asyncio.create_task(self._keep(), name="signing-keys")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def hear(self, signal: Signal | None) -> None:
        """Something happened on some node; None: some of it may have been missed."""
        if signal is None or signal.happened is Happened.KEYS_CHANGED:
            self._wanted.set()

    async def learn(self) -> None:
        """Read the keys, unless that was done a moment ago. Never raises."""
        if self._reading is None or self._reading.done():
            if time.monotonic() - self._learned_at < LEARN_EVERY_S:
                return
            self._learned_at = time.monotonic()
            self._reading = asyncio.create_task(self._read(), name="learn-keys")
        await asyncio.shield(self._reading)

    async def _keep(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._read_every_s):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            await self._read()

    async def _read(self) -> None:
        """What can't be read now is read the next time: the keys that are known go on."""
        try:
            async with self._one_at_a_time:
                await self._follow()
        except TmiError as error:
            log.warning("the signing keys could not be read: %s", error)
        except Exception:
            log.exception("the signing keys could not be read; they are read again")

    async def _follow(self) -> None:
        self.reads += 1
        keys = await self._store.current()
        fresh = {key.kid for key in keys} - self._tokens.kids
        gone = self._tokens.kids - {key.kid for key in keys}
        self._tokens.use_keys(keys)
        for kid in fresh:
            log.info("signing key %s is known", kid)
        for kid in gone:
            log.info("signing key %s is gone", kid)
        if fresh:
            await self._store.promise(self._tokens.longest_ttl)
