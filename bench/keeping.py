"""Servers during the runs of a scenario: one that dies is started again, the others go on meanwhile."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from bench.failing import in_full, plain_words
from bench.model import Load, Place, Run
from bench.servers import Server, ServerError

RUN_TIMEOUT_S = 1800.0
"""No single run takes longer, whatever a server does."""

REAPED_AFTER_S = 0.2
"""A process that closed its sockets by dying is known to be dead by then."""


class Kept:
    """A server that can be started again. `tell` is called with what a reader of the results has to know."""

    def __init__(self, make: Callable[[], Server], core: int, tell: Callable[[str], None]) -> None:
        self.server = make()
        self.did_not_start: str | None = None
        """Why, in one line."""
        self.left_behind: str | None = None
        """What could not be tidied up."""
        self._make = make
        self._core = core
        self._tell = tell

    async def start(self) -> None:
        """What keeps it from starting is told, not raised."""
        try:
            await self.server.start(self._core)
        except (ServerError, OSError) as error:
            self.did_not_start = f"did not start: {plain_words(error)}"
            self._tell(f"{self.server.name} did not start: {error}")

    async def stop(self) -> None:
        """What it leaves behind is told, not raised."""
        try:
            await self.server.stop()
        except ServerError as error:
            self.left_behind = f"{self.server.name}: {error}"
            self._tell(self.left_behind)

    async def run(self, load: Load, place: Place) -> Run:
        """One run. One that breaks off, by whatever error, is a run with a fault, and its server is started
        again.
        """
        nothing = Run(load.scenario, load.label, self.server.name, {}, {})
        if self.did_not_start is not None:
            return replace(nothing, faults=[self.did_not_start])
        if self.server.is_worn:
            await self._restart()
        run = nothing
        try:
            async with asyncio.timeout(RUN_TIMEOUT_S):
                run = await load.measure(self.server, place)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other runs go on, and it is told
            run = replace(nothing, faults=[f"broke off: {plain_words(error)}"], broke_off=in_full(error))
            await asyncio.sleep(REAPED_AFTER_S)
        death = self.server.death
        happened = run.faults if run.broke_off is not None else []
        if death is not None:
            happened = ["the server died", *happened]
            run = replace(run, faults=["the server died", *run.faults])
        if happened:
            what = f"{load.scenario}, {load.label}, {self.server.name}: {'; '.join(happened)}."
            self._tell(f"{what} {death}" if death is not None else f"{what}{self.server.last_words()}")
            await self._restart()
        return run

    async def _restart(self) -> None:
        await self.stop()
        self.server = self._make()
        await self.start()
