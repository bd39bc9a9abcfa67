"""Links between nodes: WebSockets on a listener of their own, never on the port of clients.

A node that follows rooms of another dials it, so two nodes have at most one link in each direction. Many
rooms share a link; what one turn of the loop has to say goes out in one frame.

Both sides prove who they are with tokens of the deployment's signing keys, each good for one receiver and for
seconds: the dialling node in its request, and the other one in its first frame, which repeats what the
dialling node made up. Nothing of a room is said before.

A peer that is paused or cut off without a word is found out by pings; then its link is gone, and the replicas
look for their owners again.
"""

import asyncio
import contextlib
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from picows import (
    WSError,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_connect,
    ws_create_server,
)

from rooms.nodes import unix
from rooms.nodes.addresses import Address
from rooms.nodes.control import Answer, Answering, Asking, Json, Unanswered
from rooms.nodes.ends import FollowersEnd, Owned, OwnersEnd
from rooms.nodes.following import ReplicaRunner
from rooms.nodes.messages import Channel, Message, Question, Reply, decode, encode
from tmi.domain.errors import BadFrame, TmiError, Unauthenticated, Unavailable
from tmi.domain.ids import NodeId
from tmi.domain.model import Node

log = logging.getLogger(__name__)

PATH = "/link"
_BEARER = "Bearer "
_FAILURE_FRESH_S = 1.0
_FAILURES_MAX = 1000


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """Bounds of a link; times in seconds."""

    dial_timeout_s: float = 1.0
    """For connecting and for both proofs."""
    ping_after_s: float = 0.5
    """A link on which nothing came for so long is asked whether it is alive."""
    ping_timeout_s: float = 0.5
    """For its answer; at most as long as `ping_after_s`."""
    frame_max_bytes: int = 1 << 30
    """A whole document, and all that one turn of the loop has to say."""
    write_high_bytes: int = 1024 * 1024
    """From here on broadcasts wait, and one difference makes them good."""
    write_max_bytes: int = 1 << 30
    """From here on the link is given up."""


class NodeTokens(Protocol):
    """Proofs of nodes to each other."""

    def issue(self, sender: NodeId, receiver: NodeId, nonce: str) -> str:
        """A token that says: `sender` speaks to `receiver`, and repeats `nonce`."""

    def verify(self, token: str, receiver: NodeId) -> tuple[NodeId, str]:
        """Its sender and its nonce. Raises Unauthenticated unless it is for `receiver`, and still good."""


class Links:
    """All links of this node."""

    def __init__(
        self, node: NodeId, owned: Owned, tokens: NodeTokens, limits: LinkLimits | None = None
    ) -> None:
        self.node = node
        self._owned = owned
        self._tokens = tokens
        self._limits = limits or LinkLimits()
        self._dialled: dict[NodeId, _Dialled] = {}
        self._dialling: dict[NodeId, asyncio.Task[_Dialled]] = {}
        self._accepted: set[_Accepted] = set()
        self._failed_at: dict[NodeId, float] = {}
        self.answer: Answer = _nothing_to_say
        """What other nodes ask this one is answered by this."""

    @contextlib.asynccontextmanager
    async def listening(self, *socks: socket.socket) -> AsyncIterator[None]:
        """Accept other nodes' links on sockets that listen. All links end with it."""
        servers: list[asyncio.Server] = []
        try:
            for sock in socks:
                servers.append(await self._server(sock))  # noqa: PERF401  (those before a failure are closed)
            yield
        finally:
            for server in servers:
                server.close()
            self.close()

    async def _server(self, sock: socket.socket) -> asyncio.Server:
        return await ws_create_server(
            self._accept,
            sock=sock,
            websocket_handshake_timeout=self._limits.dial_timeout_s,
            enable_auto_ping=True,
            auto_ping_idle_timeout=self._limits.ping_after_s,
            auto_ping_reply_timeout=self._limits.ping_timeout_s,
            max_frame_size=self._limits.frame_max_bytes,
        )

    def close(self) -> None:
        """End all links."""
        for task in self._dialling.values():
            task.cancel()
        for connection in [*self._dialled.values(), *self._accepted]:
            connection.disconnect()

    # --- following ------------------------------------------------------------------------------

    async def follow(self, owner: Node, runner: ReplicaRunner) -> None:
        """Attach a replica to its owner. Raises Unavailable when that node cannot be reached."""
        (await self._link_to(owner)).end.open(runner)

    async def ask(self, node: Node, question: Json, patience_s: float) -> Json:
        """Ask another node something (see `rooms/nodes/control.py`). Raises Unavailable when it cannot be
        reached or does not answer in time, and what it raises.
        """
        return await (await self._link_to(node)).asking.ask(question, patience_s)

    async def _link_to(self, node: Node) -> "_Dialled":
        dialled = self._dialled.get(node.id)
        return await asyncio.shield(self._dial_once(node)) if dialled is None else dialled

    async def answers(self, node: Node) -> bool:
        """Whether a node can be reached, and is the one it should be."""
        try:
            if node.id not in self._dialled:
                await asyncio.shield(self._dial_once(node))
        except Unavailable:
            return False
        return True

    async def reaches(self, node: Node) -> bool:
        """Whether a node answers, be it by a refusal. One that could not be dialled a moment ago does not.
        Never raises.
        """
        failed_at = self._failed_at.get(node.id)
        if failed_at is not None and asyncio.get_running_loop().time() < failed_at + _FAILURE_FRESH_S:
            return False
        try:
            link = await self._link_to(node)
        except TmiError:
            return False
        try:
            await link.asking.ask({"do": "here"}, self._limits.dial_timeout_s)
        except Unanswered:
            return False
        except TmiError:
            return True
        return True

    def _dial_once(self, owner: Node) -> "asyncio.Task[_Dialled]":
        task = self._dialling.get(owner.id)
        if task is None:
            task = asyncio.create_task(self._dial(owner), name=f"dial-{owner.name}")
            self._dialling[owner.id] = task
            task.add_done_callback(lambda _: self._dialling.pop(owner.id, None))
        return task

    async def _dial(self, owner: Node) -> "_Dialled":
        nonce = secrets.token_urlsafe(16)
        token = self._tokens.issue(self.node, owner.id, nonce)

        def is_proof(proof: bytes) -> bool:
            sender, repeated = self._tokens.verify(proof.decode("ascii", "replace"), self.node)
            return sender == owner.id and secrets.compare_digest(repeated, nonce)

        dialled = _Dialled(self._limits, is_proof, lambda: self._lost(owner.id))
        address, socket_factory = _way_to(owner.url)
        try:
            async with asyncio.timeout(self._limits.dial_timeout_s):
                await ws_connect(
                    lambda: dialled,
                    address,
                    socket_factory=socket_factory,
                    websocket_handshake_timeout=self._limits.dial_timeout_s,
                    enable_auto_ping=True,
                    auto_ping_idle_timeout=self._limits.ping_after_s,
                    auto_ping_reply_timeout=self._limits.ping_timeout_s,
                    max_frame_size=self._limits.frame_max_bytes,
                    max_redirects=0,
                    extra_headers={"Authorization": _BEARER + token},
                )
                if not dialled.is_open:  # picows says nothing of who hangs up in the handshake
                    raise ConnectionResetError
                await dialled.proven.wait()
        except (OSError, TimeoutError, WSError) as error:
            dialled.disconnect()
            raise self._unreachable(owner) from error
        if not dialled.is_open:
            raise self._unreachable(owner)
        self._dialled[owner.id] = dialled
        self._failed_at.pop(owner.id, None)
        return dialled

    def _unreachable(self, node: Node) -> Unavailable:
        if len(self._failed_at) >= _FAILURES_MAX:
            self._failed_at.clear()
        self._failed_at[node.id] = asyncio.get_running_loop().time()
        return Unavailable(f"node {node.name} cannot be reached")

    def _lost(self, owner: NodeId) -> None:
        self._dialled.pop(owner, None)

    # --- being followed -------------------------------------------------------------------------

    def _accept(self, request: WSUpgradeRequest) -> "_Accepted | WSUpgradeResponseWithListener":
        try:
            sender, nonce = self._tokens.verify(_bearer(request), self.node)
        except Unauthenticated as error:
            log.warning("a node was refused a link: %s", error)
            refusal = WSUpgradeResponse.create_error_response(401, b"this listener is for nodes")
            return WSUpgradeResponseWithListener(refusal, None)
        proof = self._tokens.issue(self.node, sender, nonce)
        accepted = _Accepted(self._limits, sender, self._owned, self.answer, proof)
        self._accepted.add(accepted)
        accepted.on_closed = lambda: self._accepted.discard(accepted)
        return accepted


async def _nothing_to_say(_question: Json) -> Json:
    raise Unavailable("the node is starting")


def _way_to(url: str) -> tuple[str, Callable[[object], socket.socket] | None]:
    """What to ask for, and how to get a socket for it if it is not by TCP."""
    way = Address.of(url).way
    path = way.path
    if path is None:
        return f"{way.tcp}{PATH}", None
    return "ws://node" + PATH, lambda _: unix.connected_to(path)


def _bearer(request: WSUpgradeRequest) -> str:
    given = request.headers.getall("Authorization", [])
    if len(given) != 1 or not given[0].startswith(_BEARER):
        raise Unauthenticated("no token")
    return given[0].removeprefix(_BEARER)


class _Connection(WSListener):
    """One link: messages out in one frame a turn, messages in to its end."""

    def __init__(self, limits: LinkLimits) -> None:
        self.is_open = False
        self._limits = limits
        self._transport: WSTransport | None = None
        self._outgoing: list[bytes] = []

    def send(self, channel: Channel, message: Message) -> None:
        """Say something; it goes out at the end of this turn of the loop."""
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing.append(encode(channel, message))

    def _flush(self) -> None:
        frame, self._outgoing = b"".join(self._outgoing), []
        if self._transport is None or not self.is_open:
            return
        self._transport.send(WSMsgType.BINARY, frame)
        if self._transport.underlying_transport.get_write_buffer_size() > self._limits.write_max_bytes:
            log.error("a link to another node is given up: that one does not read")
            self.disconnect()

    def disconnect(self) -> None:
        """End the link."""
        if self._transport is not None:
            self._transport.disconnect()

    def received(self, frame: bytes) -> None:
        """Handle a frame. Raises BadFrame."""
        raise NotImplementedError

    def closed(self) -> None:
        """The link is gone; called once."""
        raise NotImplementedError

    # --- called by picows -----------------------------------------------------------------------

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        self.is_open = True
        transport.underlying_transport.set_write_buffer_limits(high=self._limits.write_high_bytes)

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002
        self.is_open = False
        self.closed()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is WSMsgType.CLOSE:
            transport.disconnect()
        elif frame.msg_type is WSMsgType.BINARY:
            try:
                self.received(frame.get_payload_as_bytes())
            except (BadFrame, Unauthenticated) as error:
                log.warning("a link to another node is given up: %s", error)
                transport.disconnect()
            except Exception:
                log.exception("a link to another node is given up")
                transport.disconnect()


class _Dialled(_Connection):
    """A link over which this node follows another."""

    def __init__(
        self, limits: LinkLimits, is_proof: Callable[[bytes], bool], on_closed: Callable[[], None]
    ) -> None:
        super().__init__(limits)
        self.end = FollowersEnd(self.send)
        self.asking = Asking(self.send)
        self.proven = asyncio.Event()
        """The other one has proved who it is, or the link is gone."""
        self._is_proof = is_proof
        self._on_closed = on_closed

    def received(self, frame: bytes) -> None:
        if self.proven.is_set():
            for channel, message in decode(frame):
                if isinstance(message, Reply):
                    self.asking.receive(message)
                else:
                    self.end.receive(channel, message)
        elif self._is_proof(frame):
            self.proven.set()
        else:
            raise Unauthenticated("it is another one than was dialled")

    def closed(self) -> None:
        self._on_closed()
        self.proven.set()
        self.end.close()
        self.asking.close()


class _Accepted(_Connection):
    """A link over which another node follows this one."""

    def __init__(self, limits: LinkLimits, node: NodeId, owned: Owned, answer: Answer, proof: str) -> None:
        super().__init__(limits)
        self._answering = Answering(answer, self.send)
        self.end = OwnersEnd(owned, self.send, node)
        self.on_closed: Callable[[], None] = lambda: None
        self._proof = proof

    def on_ws_connected(self, transport: WSTransport) -> None:
        super().on_ws_connected(transport)
        transport.send(WSMsgType.BINARY, self._proof.encode())

    def received(self, frame: bytes) -> None:
        for channel, message in decode(frame):
            if isinstance(message, Question):
                self._answering.receive(message)
            else:
                self.end.receive(channel, message)

    def closed(self) -> None:
        self.on_closed()
        self.end.close()

    def pause_writing(self) -> None:
        self.end.pause()

    def resume_writing(self) -> None:
        self.end.resume()
