"""A node that is alone, or one among several: its rooms, where others reach it, what operators ask."""

import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from importlib.metadata import version
from uuid import uuid4

from api.tokens import Tokens
from persistence.postgres.database import PostgresDatabase
from persistence.postgres.ownership import PostgresOwnership
from persistence.postgres.signals import PostgresSignals
from persistence.postgres.signing_keys import PostgresSigningKeys
from persistence.postgres.update_log import PostgresUpdateLog
from rooms.administration import Administration, Desk
from rooms.coordination.local import LocalCoordinator
from rooms.coordination.redis import LeaseLimits, RedisCoordinator, living_nodes
from rooms.nodes import unix
from rooms.nodes.addresses import Address, this_machine
from rooms.nodes.control import Json
from rooms.nodes.links import Links
from rooms.nodes.mirror import Answer, Mirror
from rooms.nodes.witnesses import ANSWER_S, Witnesses
from rooms.service import Rooms
from tmi.domain.errors import StartupError, Unavailable
from tmi.domain.ids import DiagramId, NodeId
from tmi.domain.model import Node
from tmi.domain.ports import AccessControl
from tmi.settings import Settings, split_ports
from tmi.starting import open_port
from tmi.wiring.database import open_database
from tmi.wiring.keys import ISSUER
from tmi.wiring.options import rooms_limits
from tmi.wiring.redis import connected

log = logging.getLogger(__name__)

@dataclass(frozen=True, slots=True)
class Worker:
    """What a process of `tmi serve --workers` has to know, beside its settings. Its parent holds the
    database's lock, for all of them.
    """

    number: int
    socket: str
    """The path where the other workers of its parent link to it."""
    is_among_others: bool
    """There may be nodes of other parents, and of other machines, which reach it by TCP."""


@asynccontextmanager
async def node_rooms(
    settings: Settings,
    database: PostgresDatabase,
    access: AccessControl,
    tokens: Tokens,
    drain: Callable[[], None],
    worker: Worker | None,
) -> AsyncIterator[tuple[Rooms, Administration, Callable[[], None]]]:
    """The rooms of a node that is alone, or of one among several, what operators do with all of them, and
    what says that the node's siblings end with it.
    """
    update_log = PostgresUpdateLog(database)
    name = settings.node_name or f"{socket.gethostname()}/{os.getpid()}"
    limits = rooms_limits(settings)
    if settings.redis_url is None:
        alone = Node(NodeId(uuid4()), name, "")
        async with (
            Rooms(update_log, LocalCoordinator(update_log, name), access, limits).running() as rooms,
            _desk(alone, rooms, drain) as desk,
        ):
            yield rooms, Administration(lambda: (), _nobody, desk), lambda: None
        return
    signals = PostgresSignals(database)
    async with AsyncExitStack() as stack:
        address, listening = stack.enter_context(_node_listeners(settings, worker))
        node = Node(NodeId(uuid4()), name, str(address))
        redis = await stack.enter_async_context(
            connected(settings.redis_url.get_secret_value(), is_cluster=settings.redis_cluster)
        )
        coordinator = RedisCoordinator(
            PostgresOwnership(database), redis, node, LeaseLimits(lease_s=settings.room_lease_s)
        )
        await stack.enter_async_context(coordinator.running())
        rooms = await stack.enter_async_context(Rooms(update_log, coordinator, access, limits).running())
        links = Links(node.id, rooms, tokens)
        desk = await stack.enter_async_context(_desk(node, rooms, drain))
        administration = Administration(coordinator.peers, links.ask, desk)
        links.answer = desk.answer
        witnesses = Witnesses(coordinator.peers, links.ask)
        desk.reaches = links.reaches
        desk.has_database = lambda: database.ping(ANSWER_S / 2)
        rooms.use(links, signals, administration, witnesses)
        await stack.enter_async_context(rooms.watching_database(database.ping, witnesses.with_database))
        coordinator.answers = links.answers
        coordinator.on_lost = rooms.fence_risen
        await stack.enter_async_context(links.listening(*listening))
        log.info("this is node %s, for others at %s", name, node.url)
        yield rooms, administration, coordinator.end_with_siblings


@asynccontextmanager
async def _desk(node: Node, rooms: Rooms, drain: Callable[[], None]) -> AsyncIterator[Desk]:
    desk = Desk(node, rooms, drain, version("tmi"))
    try:
        yield desk
    finally:
        await desk.close()


async def _nobody(node: Node, question: Json, patience_s: float) -> Json:  # noqa: ARG001
    raise Unavailable("this node is alone")


@asynccontextmanager
async def open_administration(settings: Settings) -> AsyncIterator[Administration]:
    """The nodes of a deployment, for a tool with the same settings: it is a peer of them for as long as it
    runs. Raises StartupError and Unavailable.
    """
    if settings.redis_url is None:
        raise StartupError(
            "Without TMI_REDIS_URL there is one node only: ask it by REST, at /admin/nodes and /admin/rooms."
        )
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings))
        keys = await PostgresSigningKeys(database).current()
        if not keys:
            raise StartupError("No node has used this database yet.")
        redis = await stack.enter_async_context(
            connected(settings.redis_url.get_secret_value(), is_cluster=settings.redis_cluster)
        )
        nodes = await living_nodes(redis)
        links = Links(NodeId(uuid4()), _NothingOwned(), Tokens(keys, settings.public_url or ISSUER))
        stack.callback(links.close)
        yield Administration(lambda: nodes, links.ask)


class _NothingOwned:
    """What a tool has to do with rooms."""

    def mirror(
        self,
        diagram: DiagramId,  # noqa: ARG002
        state_vector: bytes,  # noqa: ARG002
        answer: Answer,  # noqa: ARG002
        node: NodeId | None,  # noqa: ARG002
    ) -> Mirror | None:
        """Nobody can follow one here."""
        return None

    def is_between(self, diagram: DiagramId) -> bool:  # noqa: ARG002
        """It never is."""
        return False


@contextlib.contextmanager
def _node_listeners(
    settings: Settings, worker: Worker | None
) -> Iterator[tuple[Address, list[socket.socket]]]:
    """Where other nodes reach this one, and the sockets that listen there. Raises StartupError."""
    place = settings.node_listen
    path = worker.socket if worker is not None else _path_of(place)
    tcp: str | None = None
    with contextlib.ExitStack() as stack:
        listening = []
        if path is not None:
            listening.append(stack.enter_context(closing(_unix_listener(path))))
        if worker.is_among_others if worker is not None else path is None:
            host, ports = split_ports(place)
            by_tcp = stack.enter_context(closing(open_port(host, ports[0])))
            listening.append(by_tcp)
            tcp = node_url(host, by_tcp.getsockname()[1], settings.node_url)
        yield Address(tcp, path, this_machine() if tcp and path else None), listening


def _path_of(place: str) -> str | None:
    return place.removeprefix(unix.SCHEME) if place.startswith(unix.SCHEME) else None


def _unix_listener(path: str) -> socket.socket:
    try:
        return unix.listening_at(path)
    except OSError as error:
        raise StartupError(f"Can't listen on {path}: {error.strerror or error}.") from None


def node_url(host: str, port: int, given: str | None) -> str:
    """Where other nodes reach what listens there; port 0 that is given stands for the one listened on."""
    if given is None:
        return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"
    return f"{given.removesuffix(':0')}:{port}" if given.endswith(":0") else given
