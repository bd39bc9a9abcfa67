"""The two ends of a link between nodes: many rooms share it, each on a channel. No I/O in here.

The follower numbers the channels; the owner keeps a mirror for each. Whoever carries the messages calls
`receive` with what the other end sent, in order, and `close` when the link is gone.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from rooms.nodes.following import ReplicaRunner
from rooms.nodes.messages import CONTROL, Answered, Asked, Channel, Follow, Lost, Message, Unfollow
from rooms.nodes.mirror import Answer, Mirror
from tmi.domain.errors import BadFrame
from tmi.domain.ids import DiagramId, NodeId

Send = Callable[[Channel, Message], None]



class Owned(Protocol):
    """The rooms that a node owns."""

    def mirror(
        self, diagram: DiagramId, state_vector: bytes, answer: Answer, node: NodeId | None
    ) -> Mirror | None:
        """Let a follower into a room that is open here; None if it is not."""

    def is_between(self, diagram: DiagramId) -> bool:
        """Whether the room is being opened here, or its last edits are being committed."""


class OwnersEnd:
    """What a node does for another one that follows rooms of its."""

    def __init__(self, owned: Owned, send: Send, node: NodeId | None = None) -> None:
        """`node` is the other one; None: this node itself."""
        self._owned = owned
        self._node = node
        self._send = send
        self._mirrors: dict[Channel, Mirror] = {}

    def receive(self, channel: Channel, message: Message) -> None:
        """Handle a message. Raises BadFrame for one that no follower sends."""
        if isinstance(message, Follow):
            self._follow(channel, message)
        elif isinstance(message, Unfollow):
            mirror = self._mirrors.pop(channel, None)
            if mirror is not None:
                mirror.close()
        elif isinstance(message, Asked):
            mirror = self._mirrors.get(channel)
            if mirror is not None:
                mirror.receive(message)
        else:
            raise BadFrame("an owner's message came from a follower")

    def _follow(self, channel: Channel, message: Follow) -> None:
        if channel in self._mirrors or channel == CONTROL:
            raise BadFrame("a channel is opened twice")

        def answer(answered: Answered) -> None:
            self._send(channel, answered)
            mirror = self._mirrors.get(channel)
            if mirror is not None and mirror.is_over:
                del self._mirrors[channel]

        mirror = self._owned.mirror(message.diagram, message.state_vector, answer, self._node)
        if mirror is None:
            self._send(channel, Lost(is_disowned=not self._owned.is_between(message.diagram)))
        elif not mirror.is_over:
            self._mirrors[channel] = mirror

    def pause(self) -> None:
        """The link is full: send no broadcasts until `resume`."""
        for mirror in list(self._mirrors.values()):
            mirror.pause()

    def resume(self) -> None:
        """The link has drained."""
        for mirror in list(self._mirrors.values()):
            mirror.resume()

    def close(self) -> None:
        """The link is gone, and all that came over it."""
        mirrors, self._mirrors = self._mirrors, {}
        for mirror in mirrors.values():
            mirror.close()

    @property
    def followed(self) -> int:
        """How many rooms are followed over this link."""
        return len(self._mirrors)


class FollowersEnd:
    """What a node does with one that owns rooms of its clients."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._runners: dict[Channel, ReplicaRunner] = {}
        self._next_channel = 1

    def open(self, runner: ReplicaRunner) -> None:
        """Follow a room over this link."""
        channel = self._next_channel
        self._next_channel += 1
        self._runners[channel] = runner

        def say(message: Asked) -> None:
            if self._runners.get(channel) is runner:
                self._send(channel, message)
                if isinstance(message, Unfollow):
                    del self._runners[channel]

        runner.attach(say)

    def receive(self, channel: Channel, message: Message) -> None:
        """Handle a message. Raises BadFrame for one that no owner sends."""
        if not isinstance(message, Answered):
            raise BadFrame("a follower's message came from an owner")
        runner = self._runners.get(channel)
        if runner is None:
            return
        runner.hear(message)
        if runner.lost.is_set():
            self._runners.pop(channel, None)
            if not isinstance(message, Lost):
                self._send(channel, Unfollow())

    def close(self) -> None:
        """The link is gone."""
        runners, self._runners = self._runners, {}
        for runner in runners.values():
            runner.detach()

    @property
    def following(self) -> Mapping[Channel, ReplicaRunner]:
        """The rooms that are followed over this link."""
        return self._runners
