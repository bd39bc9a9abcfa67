"""Processes of a PostgreSQL cluster that an earlier run left behind, found without trusting its pid file.

A process belongs to a cluster if it is called `postgres` and its working directory is the cluster's folder,
to which every PostgreSQL process changes. A number in a pid file alone may by now be anybody's.
"""

import logging
import os
import signal
import time
from asyncio import sleep
from pathlib import Path

from tmi.embedded.children import POLL_S

log = logging.getLogger(__name__)

FAST_S = 60.0
"""After so long a fast shutdown is followed by an immediate one; crash recovery mends what that leaves."""
TELL_EVERY_S = 10.0


async def stop_leftovers(cluster: Path) -> None:
    """End what still runs on the cluster, and take its pid file away. Takes as long as a checkpoint takes.

    The pid file goes only when no process is left: PostgreSQL needs it to notice orphaned backends.
    """
    running = processes_of(cluster)
    if running:
        log.info("stopping the PostgreSQL that an earlier run left behind (pid %d)", _first(cluster, running))
        await _stop(cluster, running)
    (cluster / "postmaster.pid").unlink(missing_ok=True)


def processes_of(cluster: Path) -> set[int]:
    """The ids of all PostgreSQL processes that work in the cluster's folder."""
    place = cluster.stat()
    return {
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _works_in(entry, place)
    }


def postmaster_pid(cluster: Path) -> int | None:
    """The number in the pid file."""
    try:
        return int((cluster / "postmaster.pid").read_bytes()[:4096].split()[0])
    except (OSError, ValueError, IndexError):
        return None


def is_ready(cluster: Path, pid: int) -> bool:
    """Whether the postmaster `pid` takes connections: the pid file's eighth line, as pg_ctl reads it."""
    try:
        lines = (cluster / "postmaster.pid").read_bytes()[:4096].splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0].strip() == str(pid).encode() and lines[7].strip() == b"ready"


async def _stop(cluster: Path, running: set[int]) -> None:
    postmaster = postmaster_pid(cluster)
    if postmaster is not None and postmaster in running:
        _signal({postmaster}, signal.SIGINT)
        _signal(running, signal.SIGCONT)  # a process that is stopped would never hear of it
        running = await _until_gone(cluster, FAST_S)
    _signal(running, signal.SIGQUIT)
    _signal(running, signal.SIGCONT)
    await _until_gone(cluster, None)


async def _until_gone(cluster: Path, limit_s: float | None) -> set[int]:
    """Wait for the end of the cluster's processes; returns those that are left at the limit."""
    started = told = time.monotonic()
    while running := processes_of(cluster):
        now = time.monotonic()
        if limit_s is not None and now - started > limit_s:
            break
        if now - told > TELL_EVERY_S:
            told = now
            log.info("still waiting for the former PostgreSQL to end (%.0f s)", now - started)
        await sleep(POLL_S)
    return running


def _works_in(process: Path, place: os.stat_result) -> bool:
    try:
        name = (process / "comm").read_text().strip()
        return name == "postgres" and os.path.samestat((process / "cwd").stat(), place)
    except OSError:  # it has ended, is a zombie, or is another user's
        return False


def _first(cluster: Path, running: set[int]) -> int:
    postmaster = postmaster_pid(cluster)
    return postmaster if postmaster is not None and postmaster in running else min(running)


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
