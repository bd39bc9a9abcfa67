"""A server that dies or does not start has a fault, its last words are told, and it is started again."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from bench.keeping import Kept
from bench.machine import ROOT
from bench.model import FELL_BEHIND, Load, Place, Run
from bench.protocols import y_websocket
from bench.scenarios.fanout import FanoutLoad
from bench.servers import Room, Server, ServerError
from bench.servers.base import HOST, free_port

CORE = min(os.sched_getaffinity(0))
HERE = Place(CORE, CORE)
LISTENS = """
import socket, sys, time
with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
    print("last words", flush=True)
    time.sleep(60)
"""


WHAT = "fanout, 50 clients, 10 writers x 10/s, listener"


class Listener(Server):
    """A process that listens, or does not come that far."""

    name = "listener"
    persistence = "none"

    def __init__(self, program: str) -> None:
        super().__init__()
        self.program = program

    async def start(self, core: int) -> None:
        self.port = free_port()
        await self._spawn([sys.executable, "-c", self.program, str(self.port)], core, os.environ, ROOT)
        await self._until_listening(10)

    async def room(self) -> Room:
        return Room(f"ws://{HOST}:{self.port}", y_websocket())

    def version(self) -> str:
        return "0"


@dataclass(frozen=True)
class Deed(FanoutLoad):
    """Does something to the server instead of measuring it."""

    what: Literal["nothing", "kill", "kill and break off", "break off", "stumble", "wear out"] = "nothing"

    async def measure(self, server: Server, place: Place) -> Run:
        server.is_worn = self.what == "wear out"
        if "kill" in self.what:
            os.kill(server.pid, signal.SIGKILL)
            await asyncio.sleep(0.2)
        if "break off" in self.what:
            raise ExceptionGroup("several", [ServerError("gone\nsecond line")])
        if self.what == "stumble":
            raise KeyError("clock")
        return Run(self.scenario, self.label, server.name, {}, {"cpu_us": 1}, remarks=[FELL_BEHIND])


async def _runs(program: str, deeds: Sequence[Load]) -> tuple[list[Run], list[str], list[int | None]]:
    """The runs, what was told, and the processes before the first run and after each."""
    told: list[str] = []
    kept = Kept(partial(Listener, program), CORE, told.append)
    try:
        await kept.start()
        runs, processes = [], [_process(kept)]
        for deed in deeds:
            runs.append(await kept.run(deed, HERE))
            processes.append(_process(kept))
    finally:
        await kept.stop()
    return runs, told, processes


def _process(kept: Kept) -> int | None:
    return None if kept.did_not_start else kept.server.pid


async def test_a_server_that_serves_is_left_alone() -> None:
    runs, told, processes = await _runs(LISTENS, [Deed(), Deed()])
    assert ([[], []], [], 1) == ([run.faults for run in runs], told, len(set(processes)))


async def test_one_that_dies_in_a_run_has_a_fault_and_is_there_for_the_next() -> None:
    runs, told, processes = await _runs(LISTENS, [Deed(what="kill"), Deed()])
    assert [["the server died"], []] == [run.faults for run in runs]
    assert [f"{WHAT}: the server died. listener ended with status -9.\nIt said:\nlast words"] == told
    assert 2 == len(set(processes))


async def test_one_whose_death_breaks_the_run_off_has_both_faults() -> None:
    runs, told, _ = await _runs(LISTENS, [Deed(what="kill and break off")])
    assert ["the server died", "broke off: gone"] == runs[0].faults
    dead = "listener ended with status -9.\nIt said:\nlast words"
    assert [f"{WHAT}: the server died; broke off: gone. {dead}"] == told


async def test_after_a_run_that_broke_off_a_server_is_started_anew() -> None:
    runs, told, processes = await _runs(LISTENS, [Deed(), Deed(what="break off"), Deed()])
    assert [[], ["broke off: gone"], []] == [run.faults for run in runs]
    assert ([f"{WHAT}: broke off: gone.\nIt said:\nlast words"], 2) == (told, len(set(processes)))


async def test_an_error_that_nobody_foresaw_breaks_one_run_off_and_its_traceback_is_kept() -> None:
    runs, told, processes = await _runs(LISTENS, [Deed(), Deed(what="stumble"), Deed()])
    assert [[], ["broke off: KeyError: 'clock'"], []] == [run.faults for run in runs]
    assert [f"{WHAT}: broke off: KeyError: 'clock'.\nIt said:\nlast words"] == told
    assert 2 == len(set(processes))
    assert [None, True, None] == [run.broke_off and "in measure\n" in run.broke_off for run in runs]


async def test_one_that_is_worn_is_started_anew_before_the_next_run() -> None:
    runs, told, processes = await _runs(LISTENS, [Deed(what="wear out"), Deed(), Deed()])
    assert [[], [], []] == [run.faults for run in runs]
    assert ([], 2) == (told, len(set(processes)))
    assert processes[1] == processes[0] != processes[2] == processes[3]


async def test_one_that_does_not_start_has_a_fault_in_every_run_and_says_why_once() -> None:
    runs, told, _ = await _runs("print('no port'); raise SystemExit(3)", [Deed(), Deed()])
    assert ["did not start: listener ended with status 3."] == runs[0].faults == runs[1].faults
    assert ["listener did not start: listener ended with status 3.\nIt said:\nno port"] == told
