"""What operators see of nodes and rooms, and what they may do with them, from any node for all nodes.

Each node has a desk, which answers for what that node has; whoever administers asks the desks of all nodes
over their links (`rooms/nodes/control.py`), its own one included. A tool that is no node has no desk.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import Any
from uuid import UUID

from rooms.background import Background
from rooms.handing_over import best_successor
from rooms.nodes.addresses import are_siblings, is_worker
from rooms.nodes.control import Json
from rooms.runner import RoomRunner
from rooms.service import Rooms
from tmi.domain.errors import BadInput, Conflict, NotFound, Unavailable
from tmi.domain.ids import DiagramId, NodeId
from tmi.domain.model import Node

ROOMS_MAX = 1000
SORTS = ("edits_per_s", "document_bytes", "sessions", "unsaved", "since_commit_s")
LOOK_S = 2.0
"""For questions that are answered from memory."""
MOVE_S = 15.0

Ask = Callable[[Node, Json, float], Awaitable[Json]]


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node, as it says itself."""

    id: str
    name: str
    url: str
    version: str
    uptime_s: float
    rooms_owned: int
    rooms_followed: int
    sessions: int
    """Of its own clients."""
    is_draining: bool


@dataclass(frozen=True, slots=True)
class RoomStatus:
    """A room, as its owner says."""

    id: str
    node_id: str
    node_name: str
    sessions: int
    """Clients, those of other nodes included."""
    followers: int
    """Other nodes with clients in it."""
    document_bytes: int
    """Encoded, by estimate."""
    seq: int
    unsaved: int
    """Updates that are not committed."""
    edits_per_s: float
    """Updates committed, over the last ten seconds or so."""
    since_commit_s: float | None
    """None: nothing was committed since it was opened."""


@dataclass(frozen=True, slots=True)
class Unreachable:
    """A node that is said to be alive, and did not answer."""

    id: str
    name: str
    url: str
    why: str


class Desk:
    """Answers for one node."""

    def __init__(
        self,
        node: Node,
        rooms: Rooms,
        drain: Callable[[], None],
        version: str,
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`drain` begins to drain the node, and returns at once."""
        self.node = node
        self._rooms = rooms
        self._drain = drain
        self._version = version
        self._clock = clock or asyncio.get_running_loop().time
        self._began_at = self._clock()
        self._background = Background()
        self.figures: Callable[[], bytes] = bytes
        """For Prometheus, as text."""
        self.edit: Callable[[Json], Awaitable[Json]] | None = None
        """Makes an edit in a room of this node (`rooms.editing`)."""
        self.reaches: Callable[[Node], Awaitable[bool]] | None = None
        """Whether this node can reach another one."""
        self.has_database: Callable[[], Awaitable[bool]] | None = None

    async def answer(self, question: Json) -> Json:
        """See `Administration` and `rooms.editing` for what is asked. Raises TmiError."""
        if self.edit is not None and isinstance(question, dict) and question.get("do") == "edit":
            return await self._to_the_end(self.edit(question))
        return await self._answer(question)

    async def _answer(self, question: Json) -> Json:
        if not isinstance(question, dict):
            raise BadInput("a question is an object")
        do = question.get("do")
        if do == "status":
            return self.status()
        if do == "rooms":
            return self.rooms(str(question.get("sort")), int(question.get("limit", 0)))
        if do == "room":
            return self._status_of(self._open(_diagram(question)))
        if do == "move":
            return await self._to_the_end(self.move(_diagram(question), question.get("to")))
        if do == "take":
            return await self._to_the_end(self.take(_diagram(question), _node_id(question.get("from"))))
        if do == "drain":
            self._drain()
            return {}
        if do == "here":
            return {"is": True}
        if do == "reach":
            return {"is": await self._reaches(_node_id(question.get("node")))}
        if do == "database" and self.has_database is not None:
            return {"is": await self.has_database()}
        if do == "figures":
            return {"text": self.figures().decode()}
        raise BadInput("an unknown question")

    async def _reaches(self, key: NodeId) -> bool:
        """Of the nodes that this one knows itself: nobody else says where to look."""
        node = next((peer for peer in self._rooms.peers() if peer.id == key), None)
        if node is None or self.reaches is None:
            raise NotFound("this node knows no such node")
        return await self.reaches(node)

    async def _to_the_end(self, work: Awaitable[Json]) -> Json:
        """What was begun is finished, even when nobody waits for it any more."""
        done: asyncio.Future[Json] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            try:
                result = await work
            except Exception as error:  # noqa: BLE001 - it is raised where it is awaited
                if not done.done():
                    done.set_exception(error)
                    done.exception()  # perhaps nobody waits
            else:
                if not done.done():
                    done.set_result(result)

        self._background.spawn(run())
        return await done

    async def close(self) -> None:
        """End what is under way."""
        await self._background.end()

    def status(self) -> Json:
        """A NodeStatus."""
        rooms, node = self._rooms, self.node
        return asdict(
            NodeStatus(
                id=str(node.id),
                name=node.name,
                url=node.url,
                version=self._version,
                uptime_s=round(self._clock() - self._began_at, 3),
                rooms_owned=rooms.open_rooms,
                rooms_followed=rooms.followed_rooms,
                sessions=rooms.sessions,
                is_draining=rooms.is_draining,
            )
        )

    def rooms(self, sort: str, limit: int) -> Json:
        """The first RoomStatus in falling order, and how many there are."""
        key = _sort_key(sort)
        limit = min(max(limit, 0), ROOMS_MAX)
        found = [self._status_of(runner) for runner in self._rooms.runners if not runner.room.is_over]
        return {"total": len(found), "rooms": sorted(found, key=key, reverse=True)[:limit]}

    def _open(self, diagram: DiagramId) -> RoomRunner:
        runner = self._rooms.owned(diagram)
        if runner is None:
            raise NotFound("the diagram's room is not open here")
        return runner

    def _status_of(self, runner: RoomRunner) -> Json:
        room, now = runner.room, self._clock()
        since = None if runner.committed_at is None else round(now - runner.committed_at, 3)
        return asdict(
            RoomStatus(
                id=str(room.diagram),
                node_id=str(self.node.id),
                node_name=self.node.name,
                sessions=len(room.members),
                followers=runner.nodes,
                document_bytes=room.document.bytes_estimate,
                seq=room.seq,
                unsaved=room.unsaved,
                edits_per_s=round(runner.edits.per_s(now), 2),
                since_commit_s=since,
            )
        )

    async def move(self, diagram: DiagramId, to: object) -> Json:
        """Hand a room over; returns its owner. Raises NotFound, Conflict, BadInput and Unavailable."""
        runner = self._open(diagram)
        nodes = self._rooms.successors()
        if to is not None:
            wanted = _node_id(to)
            if wanted == self.node.id:
                raise Conflict("that node owns the room already")
            nodes = [node for node in nodes if node.id == wanted]
        successor = best_successor(runner, nodes, lambda _: 0)
        if successor is None:
            raise Conflict("there is no other node that may own the room")
        return node_to_json(await self._rooms.move(diagram, successor))

    async def take(self, diagram: DiagramId, former: NodeId) -> Json:
        """Claim a room that a former owner has given up; returns who owns it."""
        return node_to_json(await self._rooms.take(diagram, former) or self.node)


class Administration:
    """Asks all nodes."""

    def __init__(self, peers: Callable[[], Sequence[Node]], ask: Ask, desk: Desk | None = None) -> None:
        """`peers` are the other nodes that are alive; `desk` is this node's own."""
        self._peers = peers
        self._ask = ask
        self._desk = desk

    async def nodes(self) -> tuple[list[NodeStatus], list[Unreachable]]:
        """All nodes, by name, and those that did not answer."""
        told, silent = await self._all({"do": "status"})
        return sorted((NodeStatus(**one) for one in told), key=attrgetter("name", "id")), silent

    async def rooms(self, sort: str, limit: int) -> tuple[int, list[RoomStatus], list[Unreachable]]:
        """How many rooms are open, and the first of them in falling order of `sort` (one of SORTS).

        Raises BadInput.
        """
        key = _sort_key(sort)
        told, silent = await self._all({"do": "rooms", "sort": sort, "limit": limit})
        rooms = sorted((room for one in told for room in one["rooms"]), key=key, reverse=True)
        return sum(one["total"] for one in told), [RoomStatus(**room) for room in rooms[:limit]], silent

    async def room(self, diagram: DiagramId) -> RoomStatus:
        """An open room. Raises NotFound when no node has it, Unavailable when one that may did not answer."""
        answers = await asyncio.gather(
            *(self._to(node, {"do": "room", "diagram": str(diagram)}, LOOK_S) for node in self._nodes),
            return_exceptions=True,
        )
        silent = None
        for answer in answers:
            if isinstance(answer, dict):
                return RoomStatus(**answer)
            if isinstance(answer, BaseException) and not isinstance(answer, NotFound):
                silent = answer
        if silent is not None:
            raise silent
        raise NotFound("no node has this diagram's room open")

    async def move(self, diagram: DiagramId, to: NodeId | None = None) -> Node:
        """Move an open room to a node, or to the one that suits best; returns who owns it now.

        Raises NotFound, Conflict and Unavailable.
        """
        room = await self.room(diagram)
        owner = self._node(NodeId(UUID(room.node_id)))
        if to is not None:
            self._node(to)
        question = {"do": "move", "diagram": str(diagram), "to": None if to is None else str(to)}
        return node_from_json(await self._to(owner, question, MOVE_S))

    async def drain(self, node: NodeId) -> None:
        """Let a node hand its rooms over and end. Raises NotFound and Unavailable."""
        await self._to(self._node(node), {"do": "drain"}, LOOK_S)

    async def ask(self, node: Node, question: Json, patience_s: float) -> Json:
        """Ask a node's desk something. Raises what `rooms.nodes.links.Links.ask` does."""
        return await self._ask(node, question, patience_s)

    def use_editing(self, edit: Callable[[Json], Awaitable[Json]]) -> None:
        """Who makes the edits that other nodes ask this one for."""
        if self._desk is not None:
            self._desk.edit = edit

    def use_figures(self, figures: Callable[[], bytes]) -> None:
        """What this node tells of itself to a sibling that is asked by Prometheus."""
        if self._desk is not None:
            self._desk.figures = figures

    async def figures_of_siblings(self) -> tuple[dict[str, str], int]:
        """The figures of the other workers on this node's port, by name, and how many did not answer.

        They are known by their addresses (`rooms/nodes/addresses.py`).
        """
        own = None if self._desk is None else self._desk.node
        siblings = [node for node in self._peers() if own is not None and are_siblings(own.url, node.url)]
        told = await asyncio.gather(
            *(self._ask(node, {"do": "figures"}, LOOK_S) for node in siblings), return_exceptions=True
        )
        texts: dict[str, str] = {}
        for node, answer in zip(siblings, told, strict=True):
            if isinstance(answer, dict):
                texts[node.name] = answer["text"]
            elif not isinstance(answer, Unavailable):  # one that starts, ends or is paused
                raise answer
        return texts, len(siblings) - len(texts)

    @property
    def own_name(self) -> str | None:
        """This node's name, if it is one of several workers on a port."""
        node = None if self._desk is None else self._desk.node
        return node.name if node is not None and is_worker(node.url) else None

    async def take(self, successor: Node, diagram: DiagramId) -> Node:
        """See `rooms.handing_over.Successors`."""
        assert self._desk is not None
        question = {"do": "take", "diagram": str(diagram), "from": str(self._desk.node.id)}
        return node_from_json(await self._to(successor, question, LOOK_S))

    @property
    def _nodes(self) -> list[Node]:
        own = [] if self._desk is None else [self._desk.node]
        return [*own, *self._peers()]

    def _node(self, key: NodeId) -> Node:
        for node in self._nodes:
            if node.id == key:
                return node
        raise NotFound("there is no such node")

    async def _to(self, node: Node, question: Json, patience_s: float) -> Json:
        if self._desk is not None and node.id == self._desk.node.id:
            try:
                async with asyncio.timeout(patience_s):
                    return await self._desk.answer(question)
            except TimeoutError:
                raise Unavailable("it takes too long; it goes on") from None
        return await self._ask(node, question, patience_s)

    async def _all(self, question: Json) -> tuple[list[Json], list[Unreachable]]:
        nodes = self._nodes
        answers = await asyncio.gather(
            *(self._to(node, question, LOOK_S) for node in nodes), return_exceptions=True
        )
        told: list[Json] = []
        silent: list[Unreachable] = []
        for node, answer in zip(nodes, answers, strict=True):
            if isinstance(answer, Unavailable):
                silent.append(Unreachable(str(node.id), node.name, node.url, str(answer)))
            elif isinstance(answer, BaseException):
                raise answer
            else:
                told.append(answer)
        return told, silent


def node_to_json(node: Node) -> Json:
    """What one node tells another of a third."""
    return {"id": str(node.id), "name": node.name, "url": node.url}


def node_from_json(told: Json) -> Node:
    """See `node_to_json`."""
    return Node(NodeId(UUID(told["id"])), told["name"], told["url"])


def _sort_key(sort: str) -> Callable[[dict[str, Any]], tuple[bool, float]]:
    if sort not in SORTS:
        raise BadInput(f"rooms are sorted by one of {', '.join(SORTS)}")
    return lambda room: (room[sort] is not None, room[sort] or 0.0)


def _diagram(question: dict[str, Json]) -> DiagramId:
    return DiagramId(_uuid(question.get("diagram")))


def _node_id(told: object) -> NodeId:
    return NodeId(_uuid(told))


def _uuid(told: object) -> UUID:
    try:
        return UUID(str(told))
    except ValueError:
        raise BadInput("an id is no UUID") from None
