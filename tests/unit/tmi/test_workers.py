"""Keeping workers running, tried with small programs in their place: real processes, quick to start."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tmi.domain.errors import StartupError
from tmi.serve import Exit
from tmi.workers import Command, Commands, Workers, WorkersLimits

QUICK = WorkersLimits(start_s=5.0, end_s=2.0, first_pause_s=0.05, longest_pause_s=0.4, steady_s=60.0)
SERVES = 'trap "exit {status}" TERM; printf 1 >&{fd}; while :; do sleep 0.01; done'
HANGS = "exec sleep 60"


def running(script: str, notes: Path, **values: object) -> Commands:
    """Workers that run a script of the shell, and note that they were started."""

    def command(number: int, ready_fd: int) -> Command:
        text = script.format(fd=ready_fd, number=number, notes=notes, **values)
        return Command(["/bin/bash", "-c", f"echo {number} >>{notes}; {text}"], {"PATH": "/usr/bin:/bin"})

    return command


def starts(notes: Path) -> list[str]:
    return notes.read_text().split() if notes.exists() else []


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "starts"


@pytest.mark.parametrize(
    ("status", "outcome"), [(0, Exit.OK), (1, Exit.FAILED), (3, Exit.UNSAVED), (7, Exit.FAILED)]
)
async def test_the_worst_end_of_a_worker_is_that_of_all(notes: Path, status: int, outcome: Exit) -> None:
    first_ends_well = SERVES.replace("{status}", f"$(( {{number}} == 2 ? {status} : 0 ))")
    workers = Workers(2, running(first_ends_well, notes), QUICK)
    async with workers.running():
        assert ["1", "2"] == sorted(starts(notes))
    assert outcome is workers.outcome


async def test_one_that_does_not_end_is_killed_and_may_have_left_edits(notes: Path) -> None:
    deaf = 'trap "" TERM; printf 1 >&{fd}; while :; do sleep 0.01; done'
    limits = WorkersLimits(end_s=0.3)
    workers = Workers(1, running(deaf, notes), limits)
    async with workers.running():
        pass
    assert workers.outcome is Exit.UNSAVED


async def test_one_that_hangs_while_starting_is_killed_tried_again_and_given_up(notes: Path) -> None:
    limits = WorkersLimits(start_s=0.3, first_tries=2, first_pause_s=0.05)
    workers = Workers(1, running(HANGS, notes), limits)
    begun_at = time.monotonic()
    with pytest.raises(StartupError, match=r"^Worker 1 was not ready within 0\.3 s and is killed\.$"):
        async with workers.running():
            pytest.fail("nobody is ready")
    assert 2 == len(starts(notes))
    assert time.monotonic() - begun_at < 3


async def test_one_that_fails_while_others_hang_ends_all_at_once(notes: Path) -> None:
    script = "if [ {number} = 2 ]; then exit 1; fi; " + HANGS
    workers = Workers(3, running(script, notes), WorkersLimits(start_s=30.0, end_s=30.0, first_pause_s=0.01))
    begun_at = time.monotonic()
    with pytest.raises(StartupError, match=r"^Worker 2 ended with 1 while starting"):
        async with workers.running():
            pytest.fail("nobody is ready")
    assert 3 == starts(notes).count("2"), "the pause after a failure may be short, and so has a limit"
    assert time.monotonic() - begun_at < 5


async def test_a_bad_setting_is_not_tried_again(notes: Path) -> None:
    with pytest.raises(StartupError, match="ended with 2"):
        async with Workers(1, running("exit 2", notes), QUICK).running():
            pytest.fail("it is not ready")
    assert ["1"] == starts(notes)


async def test_the_first_start_may_fail_twice(notes: Path) -> None:
    script = "if [ $(wc -l <{notes}) -lt 3 ]; then exit 1; fi; " + SERVES
    async with Workers(1, running(script, notes, status=0), QUICK).running():
        assert 3 == len(starts(notes))


async def test_one_that_keeps_ending_is_started_after_growing_pauses(
    notes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flickers = "if [ $(wc -l <{notes}) -eq 1 ]; then printf 1 >&{fd}; sleep 0.05; fi; exit 4"
    async with Workers(1, running(flickers, notes), QUICK).running():
        await asyncio.sleep(1.6)
        # 0.05 + 0.1 + 0.2 + 0.4 + 0.4 s of pauses, and the programs' own time.
        assert 4 <= len(starts(notes)) <= 7
    ended = [record for record in caplog.records if "has ended with 4" in record.message]
    assert [logging.ERROR] == [record.levelno for record in ended]


async def test_one_that_hangs_later_is_killed_and_the_others_serve_on(notes: Path) -> None:
    script = "if [ $(wc -l <{notes}) -gt 2 ]; then exec sleep 60; fi; " + SERVES
    workers = Workers(2, running(script, notes, status=0), WorkersLimits(start_s=0.3, first_pause_s=0.05))
    async with workers.running():
        first, second = workers._running[1], workers._running[2]
        first.kill()
        await until(lambda: len(starts(notes)) >= 4)
        assert second is workers._running[2]
        assert second.poll() is None
    assert workers.outcome is Exit.OK


async def test_one_that_was_drained_runs_again_and_is_no_error(
    notes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    workers = Workers(1, running(SERVES, notes, status=0), QUICK)
    async with workers.running():
        workers._running[1].send_signal(signal.SIGTERM)
        await until(lambda: any("runs again" in record.message for record in caplog.records))
    assert [] == [record.message for record in caplog.records if record.levelno > logging.INFO]


async def test_who_greets_until_then_is_told_of_the_first_that_is_ready(notes: Path) -> None:
    script = "if [ {number} = 1 ]; then sleep 0.5; fi; " + SERVES
    workers = Workers(2, running(script, notes, status=0), QUICK)
    told: list[float] = []

    async def on_first_ready() -> None:
        told.append(time.monotonic())

    workers.on_first_ready = on_first_ready
    async with workers.running():
        assert 1 == len(told)
        assert time.monotonic() - told[0] > 0.3


async def test_one_that_cannot_even_be_begun_is_tried_again(
    notes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = running(SERVES, notes, status=0)
    calls = 0

    def out_of_files_once(number: int, ready_fd: int) -> Command:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("no more files")
        return good(number, ready_fd)

    workers = Workers(1, out_of_files_once, QUICK)
    async with workers.running():
        workers._running[1].kill()
        await until(lambda: len(starts(notes)) == 2)
    assert 3 == calls
    assert [True] == ["no more files" in caplog.text]
