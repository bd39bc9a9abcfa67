"""Notices that this node alone has lost the database, and gives its rooms to nodes that have it.

As long as nobody has the database, rooms go on and edits wait (`rooms/journal.py`). Where others have it, an
owner without it would let everybody wait for nothing. So once a commit takes long, and now and then while
nothing is committed, this node looks whether the database answers it at all, and asks the others whether they
have it; if it does not and they do, every open room stands down as if its fence were lost, and a node with
the database is asked to claim it. What was not committed is brought to that one by the replica that stays. A
room that nobody has claimed yet is offered again and again, to any of them.

A database that is slow for all, and one that is away for all, move no room. While it is cut off this node
claims none.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from rooms.journal import Journal
from tmi.domain.beats import to_next_beat
from tmi.domain.model import Node

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """Times in seconds."""

    look_s: float = 0.25
    suspect_s: float = 1.0
    """A commit that takes longer lets this node look whether the database is there."""
    answer_s: float = 0.5
    """For the database's answer to that."""
    ask_every_s: float = 1.0
    """The database is asked at least so often, commits or not."""
    again_s: float = 1.0
    """The pause after nobody had it, and between two offers of rooms."""


class DatabaseWatch:
    """Watches one journal."""

    def __init__(
        self,
        journal: Journal,
        answers: Callable[[float], Awaitable[bool]],
        others: Callable[[], Awaitable[Sequence[Node]]],
        give_up: Callable[[Sequence[Node]], Awaitable[None]],
        limits: WatchLimits | None = None,
    ) -> None:
        """`answers`: whether the database answers this node within so many seconds; `others`: the nodes that
        have it; `give_up`: give all rooms to some of these.
        """
        self._journal = journal
        self._answers = answers
        self._others = others
        self._give_up = give_up
        self._limits = limits or WatchLimits()
        self.is_cut_off = False
        """Others have the database, and this node has not."""
        self._asked_at = 0.0

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(to_next_beat(asyncio.get_running_loop().time(), self._limits.look_s))
            try:
                await self._look()
            except Exception:
                log.exception("the watch over the database failed; it goes on")
                await asyncio.sleep(self._limits.again_s)

    async def _look(self) -> None:
        if self.is_cut_off:
            if await self._answers(self._limits.answer_s):
                self.is_cut_off = False
                log.warning("the database is back for this node")
            elif others := await self._others():
                await self._give_up(others)
                await asyncio.sleep(self._limits.again_s)
            return
        if not await self._is_suspicious():
            return
        is_there, others = await asyncio.gather(self._answers(self._limits.answer_s), self._others())
        if is_there or not others:
            await asyncio.sleep(self._limits.again_s)
            return
        self.is_cut_off = True
        log.error(
            "this node is cut off from the database, which %d others have: its rooms go to them", len(others)
        )
        await self._give_up(others)

    async def _is_suspicious(self) -> bool:
        if self._journal.waiting_s >= self._limits.suspect_s:
            return True
        now = asyncio.get_running_loop().time()
        if now - self._asked_at < self._limits.ask_every_s:
            return False
        self._asked_at = now
        return not await self._answers(self._limits.answer_s)
