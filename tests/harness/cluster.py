"""Several nodes as processes, with every way from, to and between them through a proxy that can fail.

    clients -> node -> PostgreSQL
                    -> Valkey
                    -> every other node

Nodes advertise a proxy's port to each other; who dials there is known by the process that has the connection.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from crdt.document import Document
from persistence.postgres.database import PostgresDatabase
from persistence.postgres.update_log import PostgresUpdateLog
from tests.faults.conftest import OwnPostgres
from tests.harness.fault_proxy import Edge, FaultProxy, dialled_by, proxied
from tests.harness.pycrdt_client import PycrdtClient
from tests.harness.rest import Place
from tests.harness.service import Service, free_port
from tests.valkey import OwnValkey
from tmi.domain.ids import DiagramId

Json = Any
HOST = "127.0.0.1"
NAMES = ("a", "b", "c")
LONG_LIVED_TOKENS = {"TMI_COLLAB_TOKEN_TTL_S": "86400", "TMI_ACCESS_TOKEN_TTL_S": "86400"}


@dataclass(slots=True)
class ClusterNode:
    """A node and the ways from and to it."""

    name: str
    service: Service
    to_postgres: Edge
    to_redis: Edge
    from_clients: Edge
    collab: str
    """Where its clients connect: by way of the proxy."""
    is_paused: bool = False

    def pause(self) -> None:
        self.service.pause()
        self.is_paused = True

    def resume(self) -> None:
        """Does nothing for one that runs."""
        if self.is_paused and self.service.is_alive:
            self.service.resume()
        self.is_paused = False

    def kill(self) -> None:
        self.is_paused = False
        self.service.kill()

    async def start(self) -> None:
        await asyncio.to_thread(self.service.start)


class Cluster:
    """Nodes over one PostgreSQL and one Valkey."""

    def __init__(self, postgres: OwnPostgres, valkey: OwnValkey) -> None:
        self.postgres = postgres
        self.valkey = valkey
        self.nodes: dict[str, ClusterNode] = {}
        self.links: dict[tuple[str, str], Edge] = {}
        """From the node that dials to the one that is dialled."""

    def __getitem__(self, name: str) -> ClusterNode:
        return self.nodes[name]

    def links_of(self, name: str) -> list[Edge]:
        """All ways between a node and the others."""
        return [edge for ends, edge in self.links.items() if name in ends]

    @property
    def edges(self) -> Iterator[Edge]:
        """All of them."""
        yield from self.links.values()
        for node in self.nodes.values():
            yield from (node.to_postgres, node.to_redis, node.from_clients)

    def heal(self) -> None:
        """Nothing is wrong with the network."""
        for edge in self.edges:
            edge.heal()

    def link(self, dialled: str, port: int) -> Edge:
        """The edge of a connection to a node, by its port at the other end. Raises LookupError."""
        alive = {name: node.service.pid for name, node in self.nodes.items() if node.service.is_alive}
        return self.links[dialled_by(port, alive), dialled]

    def own_bugs(self) -> list[str]:
        """What the nodes logged that is nobody's fault but theirs: errors with a traceback."""
        found = []
        for node in self.nodes.values():
            for line in node.service.output().splitlines():
                event = json.loads(line) if line.startswith("{") else {}
                if "exception" in event and event["level"] in ("error", "critical"):
                    found.append(f"node {node.name}: {event['event']}: {event['exception'][-1000:]}")
        return found

    async def stored(self, place: Place) -> dict[str, Json]:
        """What PostgreSQL alone has of a diagram: content and state vector, as the driver reports them."""
        database = await PostgresDatabase.connect(self.postgres.url)
        try:
            return await read_stored(database, place)
        finally:
            await database.close()

    async def stale_writes(self) -> list[str]:
        """What the log has and should not: rows of a fence after rows of a higher one, and gaps."""
        connection = await asyncpg.connect(self.postgres.admin_url)
        try:
            rows = await connection.fetch(STALE)
        finally:
            await connection.close()
        return [str(dict(row)) for row in rows]


STALE = """
SELECT diagram_id, seq, fence, fence_before, seq_before FROM (
    SELECT diagram_id, seq, fence,
           lag(fence) OVER w AS fence_before, coalesce(lag(seq) OVER w, 0) AS seq_before
    FROM diagram_updates WINDOW w AS (PARTITION BY diagram_id ORDER BY seq)
) u
WHERE fence < fence_before OR seq <> seq_before + 1
UNION ALL
SELECT u.diagram_id, u.seq, u.fence, f.fence, 0
FROM diagram_updates u JOIN diagram_fences f USING (diagram_id) WHERE u.fence > f.fence
"""


async def read_stored(database: PostgresDatabase, place: Place) -> dict[str, Json]:
    """Load a diagram as the service does, and draw the picture that the driver draws of its clients."""
    stored = await PostgresUpdateLog(database).load(DiagramId(UUID(place.diagram)))
    document = Document.load(stored.snapshot, stored.tail, is_whole=stored.is_whole)
    assert document.rejected == 0
    reader = PycrdtClient("", "", "")
    reader.doc.apply_update(document.encode())
    return {"content": reader.content(), "state_vector": reader.state_vector()}


@contextlib.asynccontextmanager
async def running_cluster(
    folder: Path,
    postgres: OwnPostgres,
    valkey: OwnValkey,
    names: Sequence[str] = NAMES,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Cluster]:
    """Nodes that are ready. At the end they are killed, whatever state they are in."""
    cluster = Cluster(postgres, valkey)
    async with contextlib.AsyncExitStack() as stack:
        for name in names:
            listen = f"{HOST}:{free_port()}"
            for other in names:
                if other != name:
                    cluster.links[other, name] = Edge(f"{other}-{name}", listen)
            variables = {"TMI_NODE_LISTEN": listen, **(environment or {})}
            await _add(cluster, name, folder, stack, variables)
        try:
            await asyncio.gather(*(node.start() for node in cluster.nodes.values()))
            yield cluster
        finally:
            for node in cluster.nodes.values():
                if node.service.is_alive:
                    node.kill()


async def _add(
    cluster: Cluster, name: str, folder: Path, stack: contextlib.AsyncExitStack, variables: dict[str, str]
) -> None:
    postgres, postgres_port = await stack.enter_async_context(
        proxied(f"{name}-postgres", str(cluster.postgres.socket))
    )
    redis, redis_port = await stack.enter_async_context(proxied(f"{name}-redis", str(cluster.valkey.socket)))
    peers = await stack.enter_async_context(FaultProxy(lambda port: cluster.link(name, port)))
    environment = {
        **LONG_LIVED_TOKENS,
        "TMI_REDIS_URL": f"redis://{HOST}:{redis_port}/0",
        "TMI_NODE_URL": f"ws://{HOST}:{peers.port}",
        "TMI_NODE_NAME": name,
        **variables,
    }
    service = Service(folder / name, environment, cluster.postgres.url_at(HOST, postgres_port))
    clients, client_port = await stack.enter_async_context(
        proxied(f"clients-{name}", f"{HOST}:{service.port}")
    )
    collab = f"ws://{HOST}:{client_port}/collab"
    cluster.nodes[name] = ClusterNode(name, service, postgres, redis, clients, collab)
