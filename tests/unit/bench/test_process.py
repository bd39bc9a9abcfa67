"""Processes that the bench starts end with it, also where it is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.machine import ROOT

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
