"""Programs that run as our children, and what keeps them running."""

import asyncio
import contextlib
import logging
import os
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import IO, Protocol

from tmi.domain.errors import StartupError
from tmi.embedded.account import Account

log = logging.getLogger(__name__)

POLL_S = 0.02
LOG_LOOKED_AT_S = 2.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
LOG_MAX_BYTES = 8 * 1024 * 1024


LAUNCH = """
import ctypes, os, signal, sys
parent, program = int(sys.argv[1]), sys.argv[2]
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == parent:
    os.execv(program, sys.argv[2:])
"""
"""Become another program, which the kernel kills when its parent ends (PR_SET_PDEATHSIG is 1).

A program of its own, since code between fork and exec is not safe beside other threads.
"""


def spawn(
    account: Account,
    command: Sequence[str],
    source: IO[bytes] | int,
    output: IO[bytes],
    *,
    own_session: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a program as the account, with nothing of our environment, secrets included.

    In a session of its own, Ctrl-C in a terminal does not reach it. Raises StartupError.
    """
    other = account.is_other
    try:
        return subprocess.Popen(
            command,
            stdin=source,
            stdout=output,
            stderr=output,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C", "HOME": "/"},
            umask=0o077,
            start_new_session=own_session,
            user=account.uid if other else None,
            group=account.gid if other else None,
            extra_groups=[] if other else None,
        )
    except OSError as error:
        raise StartupError(f"{command[0]} can't be run: {error.strerror}.") from None


async def ended(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a program, without looking again and again where the kernel tells (Linux)."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # not Linux; an old kernel or no descriptors left; or gone and reaped
        while process.poll() is None:
            await asyncio.sleep(POLL_S)
        return
    loop = asyncio.get_running_loop()
    is_over = asyncio.Event()
    try:
        loop.add_reader(descriptor, is_over.set)
        while process.poll() is None:
            await is_over.wait()
            is_over.clear()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def open_log(path: Path) -> IO[bytes]:
    """What a program writes to; kept out of its own account's hands. Positioned at its end."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    log_file = os.fdopen(os.open(path, flags, 0o600), "ab")
    log_file.seek(0, os.SEEK_END)
    return log_file


# --- keeping one running ------------------------------------------------------------------------


class Server(Protocol):
    """A program that should run until it is stopped."""

    async def start(self) -> None:
        """Start and wait until it is of use. Raises StartupError and OSError."""

    async def ended(self) -> None:
        """Wait until it has ended by itself; at once if it does not run."""


@contextlib.asynccontextmanager
async def supervised(name: str, server: Server, log_path: Path) -> AsyncIterator[None]:
    """While the body runs, start the server again whenever it ends, and keep its log bounded."""
    supervisor = asyncio.create_task(_supervise(name, server, log_path), name=f"embedded-{name}")
    try:
        yield
    finally:
        supervisor.cancel()
        await asyncio.gather(supervisor, return_exceptions=True)


async def _supervise(name: str, server: Server, log_path: Path) -> None:
    """With growing pauses while starting fails."""
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            await asyncio.wait_for(server.ended(), LOG_LOOKED_AT_S)
        except TimeoutError:
            pause_s = FIRST_PAUSE_S
            _bound_log(log_path)
            continue
        log.error("%s has ended; starting it again in %.1f s", name, pause_s)
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        try:
            await server.start()
            log.info("%s runs again", name)
        except (StartupError, OSError) as error:
            log.warning("%s", error)


def _bound_log(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.stat().st_size > LOG_MAX_BYTES:
            os.truncate(path, 0)
