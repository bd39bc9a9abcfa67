"""Sending on schedule: an open loop, so that a slow server meets the same load as a fast one."""

import asyncio
from array import array
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Generic, TypeVar

from bench.client import Client
from bench.yjs import any_position

TIMER_RESOLUTION_S = 0.001
"""Of uvloop's timers; to sleep for less is to spin."""

EDITS_BETWEEN_READS = 32
"""A late sender still lets its sockets be read this often."""


ClientT = TypeVar("ClientT", bound=Client)


def send_one(writer: Client) -> None:
    """A node's new place, under a key that nobody used before."""
    number = len(writer.sent_at)
    writer.edit(b"%d.%d" % (writer.number, number), any_position(number % 1900, number % 1070))


class Pace:
    """Something done so many times a second, evenly spaced; `late_s` says how long after its time each."""

    def __init__(self, per_s: float, act: Callable[[int], bool]) -> None:
        """`act` is given the number of the turn and says whether to go on."""
        self._gap_s = 1 / per_s
        self._act = act
        self.late_s = array("d")

    async def run(self, seconds: float) -> None:
        """Goes on for so long, or until `act` says no."""
        start = perf_counter()
        in_a_row = 0
        for number in range(round(seconds / self._gap_s)):
            due = start + number * self._gap_s
            in_a_row += 1
            while (ahead := due - perf_counter()) > 0 or in_a_row >= EDITS_BETWEEN_READS:
                in_a_row = 0
                await asyncio.sleep(max(TIMER_RESOLUTION_S, ahead) if ahead > 0 else 0)
            self.late_s.append(perf_counter() - due)
            if not self._act(number):
                return


class Schedule(Pace, Generic[ClientT]):
    """Writers take turns. Ends early when a writer's connection is lost."""

    def __init__(
        self, writers: Sequence[ClientT], edits_per_s_each: float, act: Callable[[ClientT], None] = send_one
    ) -> None:
        super().__init__(len(writers) * edits_per_s_each, self._turn)
        self._writers = writers
        self._send = act

    def _turn(self, number: int) -> bool:
        writer = self._writers[number % len(self._writers)]
        if writer.lost is None:
            self._send(writer)
        return writer.lost is None
