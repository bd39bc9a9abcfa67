"""Rooms that grow while they are open, once all rooms together take more memory than they may.

No further room is opened then (`rooms/budget.py`), but an open one could go on to its own limit, and there
are many. So they may grow by a certain amount together from that moment on, and no more: those that have
grown most are held back first. Whoever may edit there is closed with 1013, nobody who may edit is let in, and
edits by REST are refused, until the rooms take less. Readers stay. What was applied is committed; what was
not is with the clients, as in all other cases, and comes with the sync of their next connection.

A replica grows by what its owner sends, whoever made it. One that is held back sends away everybody, and
is closed as all that nobody is in; nothing is lost, since it is the owner's.
"""

import logging
from typing import Any

from rooms import closing
from rooms.hosted import Hosted
from rooms.hosting import Runner
from rooms.memory import memory_of
from rooms.runner import RoomRunner

log = logging.getLogger(__name__)

HELD_BACK = "the open diagrams take all the memory they may, and this one has grown; try again shortly"


class Growth:
    """Holds rooms back. `look` is called now and then."""

    def __init__(self, hosted: Hosted) -> None:
        self._hosted = hosted
        self._is_over = False

    def look(self, *, is_over: bool, allowed_bytes: int) -> None:
        """`is_over`: the rooms take more than they may. `allowed_bytes`: what they may grow by all together,
        from when that was seen first until it is not so any more.
        """
        if is_over:
            self._hold_back(allowed_bytes)
        elif self._is_over:
            for runner in self._hosted.with_clients:
                runner.bytes_before, runner.is_held_back = None, False
        self._is_over = is_over

    def _hold_back(self, allowed_bytes: int) -> None:
        growing: list[tuple[int, Runner[Any]]] = []
        for runner in self._hosted.with_clients:
            growth = _growth(runner)
            if runner.is_held_back:
                _send_away(runner)  # whoever has become a writer since
                allowed_bytes -= growth
            elif growth:
                growing.append((growth, runner))
        total = sum(growth for growth, _ in growing)
        for growth, runner in sorted(growing, key=lambda one: one[0], reverse=True):
            # Half of what is left: one room that takes it leaves as much again to all others.
            if total <= allowed_bytes // 2:
                return
            total -= growth
            allowed_bytes -= growth
            log.error("room %s has grown by %d bytes: its writers are sent away", runner.room.diagram, growth)
            runner.is_held_back = True
            _send_away(runner)


def _growth(runner: Runner[Any]) -> int:
    size = memory_of(runner)
    if runner.bytes_before is None:
        runner.bytes_before = size
    return max(0, size - runner.bytes_before)


def _send_away(runner: Runner[Any]) -> None:
    if isinstance(runner, RoomRunner):
        runner.close_writers(closing.TRY_AGAIN_LATER, HELD_BACK)
        return
    for number in runner.clients:
        runner.end_session(number, closing.TRY_AGAIN_LATER, HELD_BACK)
