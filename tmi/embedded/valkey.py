"""Valkey in the data directory, run by this service for itself: a Redis for a cluster on one machine.

It holds nothing that may not be lost, so it writes nothing to disk, and starts empty. It listens on a Unix
socket in a folder of mode 0700, has no TCP port, and takes a bounded amount of memory; beyond that it refuses
writes rather than forget what it holds. It runs as the user of this service, who alone can reach it.

It ends with the service, even if that is killed: the kernel sees to it (prctl(2), PR_SET_PDEATHSIG). The
signal comes when the *thread* ends that started the program, so use this on the main thread's loop.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

from tmi.domain.errors import StartupError
from tmi.embedded.account import ourselves
from tmi.embedded.binaries import find_valkey
from tmi.embedded.children import LAUNCH, POLL_S, ended, open_log, spawn, supervised
from tmi.embedded.sockets import folder_for, make_private

SOCKET_NAME = "valkey.sock"
START_S = 10.0
ANSWER_S = 1.0
STOP_S = 5.0

SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    "save": "",
    "appendonly": "no",
    "maxmemory": "64mb",
    "maxmemory-policy": "noeviction",
    "databases": "1",
    "loglevel": "warning",
}

@contextlib.asynccontextmanager
async def embedded_valkey(data_dir: Path) -> AsyncIterator[str]:
    """Run Valkey on a locked data directory; yields its URL. Raises StartupError."""
    folder = folder_for(data_dir / "valkey", SOCKET_NAME)
    make_private(folder, ourselves())
    server = _Server(find_valkey(), folder, data_dir / "valkey.log")
    try:
        await server.start()
        async with supervised("Valkey", server, server.log):
            yield f"unix://{quote(str(server.socket))}"
    finally:
        await server.stop()


class _Server:
    """The server as our child."""

    def __init__(self, program: Path, folder: Path, log: Path) -> None:
        self.socket = folder / SOCKET_NAME
        self.log = log
        options = [
            part
            for name, value in (SETTINGS | {"unixsocket": str(self.socket), "dir": str(folder)}).items()
            for part in (f"--{name}", value)
        ]
        launcher = (sys.executable, "-I", "-S", "-c", LAUNCH, str(os.getpid()))
        self._command = (*launcher, str(program), *options)
        self._process: subprocess.Popen[bytes] | None = None

    async def ended(self) -> None:
        """Wait until it has ended by itself; at once if it does not run."""
        if self._process is not None:
            await ended(self._process)

    async def start(self) -> None:
        """Start and wait until it answers. Raises StartupError."""
        self.socket.unlink(missing_ok=True)
        with open_log(self.log) as output:
            self._process = spawn(ourselves(), self._command, subprocess.DEVNULL, output, own_session=True)
        try:
            async with asyncio.timeout(START_S):
                await self._until_ready()
        except TimeoutError:
            await self.stop()
            raise StartupError(f"Valkey did not answer within {START_S:g} s; see {self.log}.") from None

    async def _until_ready(self) -> None:
        while not await _answers(self.socket):
            if self._process is None or self._process.poll() is not None:
                raise StartupError(f"Valkey ended while starting; see {self.log}.")
            await asyncio.sleep(POLL_S)

    async def stop(self) -> None:
        """End it; there is nothing to save."""
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended(process), STOP_S)
            return
        process.kill()
        await asyncio.wait_for(ended(process), STOP_S)


async def _answers(socket: Path) -> bool:
    """Whether a PING is answered."""
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(b"PING\r\n")
                return await reader.readline() == b"+PONG\r\n"
            finally:
                writer.close()
    except OSError:  # TimeoutError included
        return False
