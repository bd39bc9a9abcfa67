"""A load in a process of its own, beside what is measured, so that reading its frames disturbs no clock.

The process runs on the generator's core with the policy SCHED_IDLE (sched(7)), which needs no privilege:
whenever the measuring process has anything to do, the kernel lets it do that at once. Through its pipes the
process is given a pickled task, says when that is ready, is told to go, and returns a pickled result. What
breaks it off it writes to its standard error: the traceback, and then one line in plain words.

`Watch` tells whether the measuring process could indeed run whenever it wanted to.
"""

import asyncio
import os
import pickle
import sys
import traceback
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from signal import SIGKILL
from time import perf_counter
from typing import Generic, Protocol, TypeVar

import uvloop

from bench.failing import plain_words
from bench.ledger import Window
from bench.machine import ROOT
from bench.process import ends_with_this

TICK_S = 0.002
_READY, _GO = b"ready\n", b"go\n"

ResultT = TypeVar("ResultT")
Result_co = TypeVar("Result_co", covariant=True)


class Task(Protocol[Result_co]):
    """What the other process does. It and its result can be pickled."""

    async def run(self, until_told: Callable[[], Awaitable[None]]) -> Result_co:
        """Prepares everything, awaits `until_told` once, and works. Whatever it raises ends the process."""


class BrokeOff(ChildProcessError):
    """The other process could not go on: why, in one line. What it wrote of that is a note to this error."""

    def __init__(self, written: str) -> None:
        lines = written.strip().splitlines()
        super().__init__(f"in the load beside: {lines[-1] if lines else 'it ended without a word'}")
        self.add_note(f"The process of the load beside wrote:\n{written.strip()}")


class Beside(Generic[ResultT]):
    """A task that is ready in another process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.pid = process.pid
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr

    async def prepare(self, task: Task[ResultT], timeout_s: float) -> None:
        """Until the task is ready. Raises `BrokeOff` or `TimeoutError`."""
        self._stdin.write(pickle.dumps(task))
        if await asyncio.wait_for(self._stdout.readline(), timeout_s) != _READY:
            raise BrokeOff(await self._last_words())

    async def go(self, timeout_s: float) -> ResultT:
        """Until the task is done. Raises `BrokeOff` or `TimeoutError`."""
        self._stdin.write(_GO)
        pickled = await asyncio.wait_for(self._stdout.read(), timeout_s)
        if not pickled:
            raise BrokeOff(await self._last_words())
        result: ResultT = pickle.loads(pickled)
        return result

    async def _last_words(self) -> str:
        return (await self._stderr.read()).decode(errors="replace")


@asynccontextmanager
async def beside(task: Task[ResultT], timeout_s: float) -> AsyncIterator[Beside[ResultT]]:
    """The task, ready to go; its process is ended with the context.

    Raises `OSError` (`BrokeOff` with what the process said last) or `TimeoutError`.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.beside", cwd=ROOT, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, preexec_fn=ends_with_this(),
    )  # fmt: skip
    try:
        other: Beside[ResultT] = Beside(process)
        await other.prepare(task, timeout_s)
        yield other
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(process.pid, SIGKILL)  # asyncio's own `kill` may reap it first, and then complain
        await process.wait()


class Watch:
    """Notes by how much later than it wanted this process wakes up."""

    def __init__(self) -> None:
        self._at, self._late_s = array("d"), array("d")

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            due = perf_counter() + TICK_S
            await asyncio.sleep(TICK_S)
            self._at.append(due)
            self._late_s.append(perf_counter() - due)

    def late_s(self, window: Window) -> "array[float]":
        """Sorted, in seconds. A millisecond is the timer's own."""
        pairs = zip(self._at, self._late_s, strict=True)
        return array("d", sorted(late for at, late in pairs if window.start <= at < window.end))


async def _until_told() -> None:
    sys.stdout.buffer.write(_READY)
    sys.stdout.buffer.flush()
    if await asyncio.to_thread(sys.stdin.buffer.readline) != _GO:
        raise ChildProcessError("the measuring process is gone")


def main() -> None:
    """The other process."""
    os.nice(19)
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    task: Task[object] = pickle.load(sys.stdin.buffer)
    try:
        result = uvloop.run(task.run(_until_told))
    except Exception as error:  # noqa: BLE001 - told to the measuring process, whatever it is
        sys.exit(f"{''.join(traceback.format_exception(error))}\n{plain_words(error)}")
    sys.stdout.buffer.write(pickle.dumps(result))


if __name__ == "__main__":
    main()
