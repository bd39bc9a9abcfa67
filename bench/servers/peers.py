"""The peers, as their authors ship them, from the packages pinned for `bench/peers`."""

import json
import os
import shutil
import uuid
from abc import abstractmethod
from importlib.metadata import distributions
from pathlib import Path

from bench.machine import version_of
from bench.protocols import hocuspocus, y_websocket
from bench.servers.base import HOST, Room, Server, ServerError, free_port

PEERS = Path(__file__).resolve().parent.parent / "peers"
NODE_PACKAGES = PEERS / "node_modules"
PYTHON = PEERS / ".venv" / "bin" / "python"
START_TIMEOUT_S = 20.0


class Peer(Server):
    """A server of somebody else, without persistence."""

    persistence = "none"
    package: str

    @classmethod
    @abstractmethod
    def program(cls) -> list[str]:
        """What to run in the folder of the peers."""

    async def start(self, core: int) -> None:
        if (lack := self.lacks()) is not None:
            raise ServerError(f"{self.name} {lack}")
        self.port = free_port()
        environment = {**os.environ, "HOST": HOST, "PORT": str(self.port), "NODE_ENV": "production"}
        await self._spawn(self.program(), core, environment, PEERS)
        await self._until_listening(START_TIMEOUT_S)


class NodePeer(Peer):
    """A server on Node."""

    script: str

    @classmethod
    def lacks(cls) -> str | None:
        if shutil.which("node") is None:
            return "needs Node, which is not installed"
        if not (NODE_PACKAGES / cls.package).is_dir():
            return "is not installed: run `make bench-peers`"
        return None

    @classmethod
    def program(cls) -> list[str]:
        return [shutil.which("node") or "node", cls.script]

    def runs_on(self) -> dict[str, str]:
        return {"Node": version_of(self.program()[0])}

    def version(self) -> str:
        manifest = NODE_PACKAGES / self.package / "package.json"
        return f"{self.package} {json.loads(manifest.read_text(encoding='utf-8'))['version']}"


class YWebsocketServer(NodePeer):
    name = "y-websocket"
    package = "@y/websocket-server"
    script = "node_modules/@y/websocket-server/src/server.js"

    async def room(self) -> Room:
        return Room(f"ws://{HOST}:{self.port}/{uuid.uuid4()}", y_websocket())


class HocuspocusServer(NodePeer):
    name = "hocuspocus"
    offers = frozenset({"acknowledgements"})
    package = "@hocuspocus/server"
    script = "hocuspocus.js"

    async def room(self) -> Room:
        return Room(f"ws://{HOST}:{self.port}/", hocuspocus(str(uuid.uuid4()), "a token nobody checks"))


class PycrdtWebsocketServer(Peer):
    """A server on Python, with Hypercorn and uvloop, in an environment of its own."""

    name = "pycrdt-websocket"
    package = "pycrdt-websocket"

    @classmethod
    def lacks(cls) -> str | None:
        return None if cls._installed() else "is not installed: run `make bench-peers`"

    @classmethod
    def program(cls) -> list[str]:
        return [str(PYTHON), "pycrdt_websocket.py"]

    async def room(self) -> Room:
        return Room(f"ws://{HOST}:{self.port}/{uuid.uuid4()}", y_websocket())

    def runs_on(self) -> dict[str, str]:
        return {f"Python of {self.name}": version_of(PYTHON)}

    def version(self) -> str:
        return f"{self.package} {self._installed()}"

    @classmethod
    def _installed(cls) -> str | None:
        """The version in the peers' environment."""
        folders = [str(folder) for folder in PEERS.glob(".venv/lib/python*/site-packages")]
        return next((found.version for found in distributions(name=cls.package, path=folders)), None)
