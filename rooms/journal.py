"""Group commit: all rooms of the process share the transactions that make their edits durable.

What it holds true:

- A room has at most one batch in flight, so its numbers reach the log in order.
- A batch is reported as committed only when the store said so. When it is not known (no answer, no
  connection) the same batch is offered again until it is: `UpdateLog.append` is idempotent.
- What is applied is never dropped. When the database is away the buffered bytes rise up to `max_bytes`; from
  there on the writers of the fullest rooms are sent away (1013) and none is let in until half of it has
  drained. Readers stay.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from rooms import closing
from rooms.runner import RoomRunner
from tmi.domain.errors import DatabaseUnavailable
from tmi.domain.ids import DiagramId
from tmi.domain.ports import AppendResult, RoomBatch, UpdateLog

log = logging.getLogger(__name__)

SHEDDING = "too many edits wait for the database; try again shortly"
"""Why no writer comes in."""

_RESOLUTION_S = 0.001
"""Of the loop's clock and timers."""


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """Bounds of the journal."""

    max_bytes: int = 32 * 1024 * 1024
    """Bytes of updates that may wait for their commit, all rooms together."""
    commits_in_flight: int = 2
    commit_max_rooms: int = 500
    commit_max_bytes: int = 8 * 1024 * 1024
    busy_edits: int = 20
    """From so many edits whose authors wait for a word, commits follow each other at `busy_interval_s`."""
    busy_interval_s: float = 0.010
    """Shorter than the tick of a busy room whose authors wait (`rooms/pacing.py`: 12 ms), so that what a tick
    brings is committed when it ends. Against 13 ms this takes 5 ms off the median acknowledgement.
    """
    interval_s: float = 0.030
    """While fewer wait for a word: commits begin at least this far apart. An edit alone is committed at once.

    A commit costs about 400 us of CPU here and 500 in PostgreSQL whatever is in it. Against 14 ms this took
    20 % off a room with 100 edits a second; against one commit for each edit 40 %.
    """
    unawaited_interval_s: float = 0.200
    """While nobody waits for a word, and all who sent edits are still there. A crash may undo what is not
    committed, until clients, who have all of it, offer it again. Against 0.1 s this took 3 % off 200 rooms
    with 10 edits a second each (three interleaved runs).
    """
    retry_min_s: float = 0.05
    retry_max_s: float = 1.0


class Journal:
    """Commits what rooms offer. `on_committed` is told of every room whose batch was committed."""

    def __init__(
        self, store: UpdateLog, limits: JournalLimits, on_committed: Callable[[RoomRunner], None]
    ) -> None:
        self._store = store
        self._limits = limits
        self._on_committed = on_committed
        self._ready: dict[RoomRunner, None] = {}
        """In order. By runner, since an id takes a call of a function each time it is looked up."""
        self._awaited: set[RoomRunner] = set()
        """Those of them for whose commit somebody waits."""
        self._unsaved: dict[RoomRunner, None] = {}
        self._loop = asyncio.get_running_loop()
        self._go = asyncio.Event()
        """A commit may begin."""
        self._timer: asyncio.TimerHandle | None = None
        self._look_at = 0.0
        self._hurried = 0
        """How many wait until nothing is unsaved."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._begun_at = float("-inf")
        self._under_way: list[float] = []
        self.commits = 0
        self.rows = 0
        self.shedding = False
        """Whether writers are being refused because too much is unsaved."""
        self.is_filling = False
        """Whether much is unsaved already."""
        self.database_away = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the committing tasks. Leaving does not flush: see `flushed`."""
        workers = [
            asyncio.create_task(self._work(), name=f"journal-{n}")
            for n in range(self._limits.commits_in_flight)
        ]
        try:
            yield
        finally:
            for worker in workers:
                worker.cancel()
            self._stop_timer()
            await asyncio.gather(*workers, return_exceptions=True)

    def offer(self, runner: RoomRunner) -> None:
        """The room has updates to commit, or somebody waits for their commit by now."""
        self._ready[runner] = None
        if not self._unsaved:
            self._idle.clear()
        self._unsaved[runner] = None
        limits = self._limits
        is_awaited = runner.is_awaited
        if is_awaited:
            self._awaited.add(runner)
        # How many wait, and what that means, is found out then.
        is_soon = is_awaited or self._hurried > 0
        look_at = self._begun_at + (limits.busy_interval_s if is_soon else limits.unawaited_interval_s)
        is_timed = self._timer is not None and self._look_at <= look_at
        if not is_timed and not self._go.is_set():
            self._look_by(look_at)

    @property
    def in_flight(self) -> int:
        """Commits that are under way."""
        return len(self._under_way)

    @property
    def silent_s(self) -> float:
        """How long nobody has edited anything, in seconds."""
        return 0.0 if self._unsaved else self._loop.time() - self._begun_at

    @property
    def waiting_s(self) -> float:
        """Since when the oldest commit is under way, its repetitions included; 0 if none is."""
        return self._loop.time() - min(self._under_way) if self._under_way else 0.0

    @property
    def buffered_bytes(self) -> int:
        """Bytes that are applied and not committed."""
        return sum(runner.room.unsaved_bytes for runner in self._unsaved)

    async def flushed(self, timeout_s: float) -> bool:
        """Wait until nothing is unsaved; False if that took too long."""
        self._forget_those_over()
        self._hurried += 1
        self._look()
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        finally:
            self._hurried -= 1
        return True

    def _forget_those_over(self) -> None:
        """What others own by now is theirs to commit, whatever has become of a batch that is under way."""
        for runner in list(self._unsaved):
            if runner.room.is_over:
                self._forget_if_done(runner)

    def unsaved(self) -> dict[DiagramId, int]:
        """How many updates of which room are not committed."""
        return {
            runner.room.diagram: runner.room.unsaved for runner in self._unsaved if runner.room.unsaved
        }

    # --- committing -----------------------------------------------------------------------------

    async def _work(self) -> None:
        loop = self._loop
        while True:
            await self._go.wait()
            # Another worker may have taken what was ready.
            self._go.clear()
            taken = self._take() if self._next_at() <= loop.time() + _RESOLUTION_S else ()
            if taken:
                self._begun_at = begun_at = loop.time()
                self._under_way.append(begun_at)
                self._look()
                try:
                    await self._commit(taken)
                finally:
                    self._under_way.remove(begun_at)
            del taken  # otherwise it keeps closed rooms until the next commit
            self._look()

    def _look(self) -> None:
        """See whether a commit may begin, or when to look again."""
        self._stop_timer()
        if not self._ready or self._go.is_set():
            return
        now = self._loop.time()
        next_at = self._next_at()
        if next_at <= now + _RESOLUTION_S:
            self._go.set()
            return
        if next_at < self._begun_at + self._limits.unawaited_interval_s:
            # Rooms say when somebody begins to wait, and not when more of them do.
            next_at = min(next_at, now + self._limits.busy_interval_s)
        self._look_by(next_at)

    def _look_by(self, when: float) -> None:
        now = self._loop.time()
        if self._timer is not None and self._look_at <= max(when, now + self._limits.busy_interval_s):
            return
        if when <= now + _RESOLUTION_S:
            self._look()
        else:
            self._stop_timer()
            self._timer, self._look_at = self._loop.call_at(when, self._look), when

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next_at(self) -> float:
        """When the next commit may begin."""
        limits = self._limits
        edits = 0
        for runner in self._awaited:
            edits += runner.room.unacknowledged
            if edits >= limits.busy_edits:
                return self._begun_at + limits.busy_interval_s
        is_awaited = bool(self._awaited) or self._hurried > 0
        return self._begun_at + (limits.interval_s if is_awaited else limits.unawaited_interval_s)

    def _take(self) -> list[tuple[RoomRunner, RoomBatch]]:
        taken: list[tuple[RoomRunner, RoomBatch]] = []
        size = 0
        limits = self._limits
        while self._ready and len(taken) < limits.commit_max_rooms and size < limits.commit_max_bytes:
            runner = next(iter(self._ready))
            del self._ready[runner]
            self._awaited.discard(runner)
            batch = runner.room.take_batch()
            if batch is None:
                self._forget_if_done(runner)
            else:
                size += runner.room.bytes_in_flight
                taken.append((runner, batch))
        return taken

    async def _commit(self, taken: list[tuple[RoomRunner, RoomBatch]]) -> None:
        result = await self._append_until_known([batch for _, batch in taken])
        self.commits += 1
        is_all = len(result.committed) == len(taken)
        for runner, batch in taken:
            self.rows += len(batch.updates)
            try:
                if is_all or batch.diagram in result.committed:
                    runner.committed()
                    self._on_committed(runner)
                else:
                    self._not_committed(runner, batch.diagram, result)
            except Exception:
                log.exception("room %s: a commit could not be told", batch.diagram)
            self._forget_if_done(runner)

    def _not_committed(self, runner: RoomRunner, diagram: DiagramId, result: AppendResult) -> None:
        if diagram in result.stale:
            log.warning("room %s: another owner has taken over, or the diagram is gone", diagram)
            runner.fence_lost()
        else:
            log.error("room %s: the log refuses its updates: %s", diagram, result.failed.get(diagram))
            runner.end(runner.room.log_refused)

    def _forget_if_done(self, runner: RoomRunner) -> None:
        if runner.room.unsaved and not runner.room.is_over:
            return
        self._unsaved.pop(runner, None)
        if not self._unsaved:
            self._idle.set()

    async def _append_until_known(self, batches: list[RoomBatch]) -> AppendResult:
        delay_s = self._limits.retry_min_s
        while True:
            try:
                result = await self._store.append(batches)
            except DatabaseUnavailable as error:
                if not self.database_away:
                    self.database_away = True
                    log.warning("the database is away; edits go on unsaved: %s", error)
            except Exception:
                # Our bug, or the store's: nothing is known to be committed, so nothing may be given up.
                log.exception("a group commit failed; it is tried again")
            else:
                if self.database_away:
                    self.database_away = False
                    log.warning("the database is back")
                return result
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, self._limits.retry_max_s)

    # --- the bound ------------------------------------------------------------------------------

    def keep_within_bound(self) -> None:
        """Called now and then: send writers of the fullest rooms away while too much is unsaved."""
        self._forget_those_over()
        buffered = self.buffered_bytes
        self.is_filling = buffered > self._limits.max_bytes // 8
        if buffered <= self._limits.max_bytes // 2:
            self.shedding = False
        if buffered <= self._limits.max_bytes:
            return
        if not self.shedding:
            self.shedding = True
            log.error("%d bytes of edits are unsaved: writers of the fullest rooms are sent away", buffered)
        excess = buffered - self._limits.max_bytes // 2
        for runner in sorted(self._unsaved, key=lambda r: r.room.unsaved_bytes, reverse=True):
            if excess <= 0:
                return
            excess -= runner.room.unsaved_bytes
            runner.close_writers(closing.TRY_AGAIN_LATER, "too many edits wait for the database")
