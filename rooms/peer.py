"""The two sides of a live connection: who a member is, and what a room asks of the socket behind it."""

from collections.abc import Hashable
from dataclasses import field
from typing import Protocol

from rooms.effects import SessionNumber
from tmi.domain.ids import NodeId, SignInId, UserId
from tmi.domain.model import Node
from tmi.domain.roles import Role
from tmi.domain.values import value


@value
class Member:
    """The user behind a connection, as the server knows it and the client cannot forge."""

    user: UserId
    sign_in: SignInId
    role: Role
    as_of: float | None = field(default=None, compare=False)
    """When the database was asked for it (the rooms' clock); None: unknown, as for a
    client of another node, whose clock is its own.
    """


class Peer(Protocol):
    """One document on one socket, as the room sees it. No method may block or raise.

    All peers with an equal `framing` receive the same bytes for the same body, so a room frames once per
    value: every y-websocket socket has the same one, every Hocuspocus key its own.
    """

    @property
    def framing(self) -> Hashable:
        """What decides the bytes around a body."""

    @property
    def wants_acknowledgements(self) -> bool:
        """Whether `acknowledge` will ever say anything; the same from the beginning to the end."""

    def frame(self, body: bytes) -> bytes:
        """The complete WebSocket frame that carries a y-protocols body to this peer."""

    def write(self, wire: bytes) -> None:
        """Queue a complete WebSocket frame, as made by the `frame` of a peer with equal framing."""

    def write_state(self, *wires: bytes) -> None:
        """The same for the frames of one state: whether a peer reads is not asked between them. Others may
        be given the very objects.
        """

    def acknowledge(self, syncs: int, updates: int) -> None:
        """The next `syncs` SyncStep2 and `updates` Update messages of this peer are committed, in the order
        sent.
        """

    def refuse(self, reason: str) -> None:
        """One SyncStep2 or Update of this peer was not accepted, since its role forbids it."""

    def role_changed(self, role: Role) -> None:
        """The member's role is another one now, and still allows watching."""

    def answered(self, size: int) -> None:
        """So many bytes answered what it asked again, or could ask as often as it likes, or are what applying
        a large edit of it took: it pays for them.
        """

    def hold_back(self) -> None:
        """Read no more of what it sends until `go_on`, where that is possible; what has arrived may come."""

    def go_on(self) -> None:
        """Read on, after `hold_back`."""

    def close(self, code: int, reason: str) -> None:
        """End the connection for this document (see WebSocket close codes in `rooms.closing`)."""


class Follower(Peer, Protocol):
    """Another node, which follows the room for clients of its own. Its `framing` is None."""

    @property
    def node(self) -> NodeId | None:
        """Which one; None: this very node, which follows itself."""

    def hear(self, body: bytes, but: SessionNumber | None) -> None:
        """A broadcast, for all of its clients but the one behind this session, if that is one of its own."""

    def freeze(self) -> None:
        """The room stands down: nothing more comes from it, and what is said to it is not heard."""

    def let_go(self, successor: Node | None, *, is_disowned: bool) -> None:
        """After `freeze`: look for the owner again (see `rooms.nodes.messages.Lost`)."""
