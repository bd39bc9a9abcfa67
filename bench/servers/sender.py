"""No server of documents, but something to measure the load generator with: see `bench.sending`."""

import os
import sys

from bench.machine import ROOT
from bench.protocols import y_websocket
from bench.sending import PROMPT
from bench.servers.base import HOST, Room, Server, free_port

START_TIMEOUT_S = 20.0


class Sender(Server):
    """Gives prepared frames to all clients."""

    name = "sender"
    persistence = "none"

    async def start(self, core: int) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "bench.sending", str(self.port)]
        await self._spawn(command, core, os.environ, ROOT)
        await self._until_listening(START_TIMEOUT_S)

    async def room(self) -> Room:
        return Room(f"ws://{HOST}:{self.port}/room", y_websocket())

    @property
    def prompt_url(self) -> str:
        """Where the frames are handed over."""
        return f"ws://{HOST}:{self.port}{PROMPT}"

    def version(self) -> str:
        return "of this checkout"
