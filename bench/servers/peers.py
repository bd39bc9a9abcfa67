"""The peers, as their authors ship them, from the packages pinned in `bench/peers`."""

import json
import os
import shutil
import uuid
from pathlib import Path

from bench.protocols import hocuspocus, y_websocket
from bench.servers.base import HOST, Room, Server, ServerError, free_port

PEERS = Path(__file__).resolve().parent.parent / "peers"
START_TIMEOUT_S = 20.0


class NodePeer(Server):
    """A server on Node, without persistence."""

    persistence = "none"
    package: str
    script: str

    async def start(self, core: int) -> None:
        node = shutil.which("node")
        if node is None:
            raise ServerError("Node is not installed.")
        if not (PEERS / "node_modules" / self.package).is_dir():
            raise ServerError(f"{self.name} is not installed: run `make bench-peers`.")
        self.port = free_port()
        environment = {**os.environ, "HOST": HOST, "PORT": str(self.port), "NODE_ENV": "production"}
        await self._spawn([node, self.script], core, environment, PEERS)
        await self._until_listening(START_TIMEOUT_S)

    def version(self) -> str:
        manifest = PEERS / "node_modules" / self.package / "package.json"
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
