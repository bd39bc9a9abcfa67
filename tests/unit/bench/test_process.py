"""Processes that the bench starts end with it, also where it is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.machine import ROOT
from bench.process import Process, finer

WAIT_S = 20.0
CHILD = """
import signal, sys, pathlib
def told(number, frame):
    pathlib.Path(sys.argv[1]).write_text(signal.Signals(number).name)
    sys.exit()
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, told)
print("ready", flush=True)
signal.pause()
"""
SPENDER = """
import os, time
from bench.process import Process, finer
while time.process_time() % 0.01 < 0.004:
    pass
before = time.process_time()
print(before, finer(Process(os.getpid(), 1, "x", 0.0, 0.0, 0)), time.process_time())
"""
PARENT = """
import subprocess, sys, time
from bench.process import ends_with_this, pinned_to
prepare = pinned_to(int(sys.argv[1])) if sys.argv[1] != "any" else ends_with_this()
command = [sys.executable, "-c", sys.argv[2], sys.argv[3]]
child = subprocess.Popen(command, preexec_fn=prepare, start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("core", [str(max(os.sched_getaffinity(0))), "any"])
def test_a_child_is_told_to_end_when_the_bench_is_killed(tmp_path: Path, core: str) -> None:
    told = tmp_path / "told"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, core, CHILD, str(told)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    assert parent.stdout is not None
    lines = {parent.stdout.readline().strip() for _ in range(2)}
    (pid,) = lines - {"ready"}
    if core != "any":
        assert {int(core)} == os.sched_getaffinity(int(pid))
    parent.kill()
    parent.wait()
    try:
        deadline = time.monotonic() + WAIT_S
        while not told.exists() or not told.read_text():
            assert time.monotonic() < deadline, "it was left behind"
            time.sleep(0.02)
    finally:
        parent.stdout.close()
        if not told.exists():
            os.kill(int(pid), signal.SIGKILL)
    assert "SIGTERM" == told.read_text()


def test_cpu_time_is_finer_than_hundredths_of_a_second() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", SPENDER], cwd=ROOT, capture_output=True, check=True, timeout=WAIT_S
    )
    before, told, after = map(float, answer.stdout.split())
    if Path("/proc/self/schedstat").exists():
        assert before - 0.002 <= told <= after + 0.01
    else:
        assert 0.0 == told, "a kernel without CONFIG_SCHED_INFO: what the whole process's file said"


def test_threads_that_have_ended_are_not_lost() -> None:
    """/proc has no file for them any more, but their time counts in the whole process's."""
    assert 1e6 == finer(_process(os.getpid(), own_s=1e6))


def test_a_process_that_has_ended_is_told_in_hundredths() -> None:
    assert 1.25 == finer(_process(2**30, own_s=1.25))


def _process(pid: int, own_s: float) -> Process:
    return Process(pid=pid, parent=1, name="x", own_s=own_s, reaped_s=0.0, resident=0)
