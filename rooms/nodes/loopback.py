"""A link of a node with itself: a replica whose owner has become this very node."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from rooms.nodes.ends import FollowersEnd, Owned, OwnersEnd
from rooms.nodes.messages import Channel, Message

log = logging.getLogger(__name__)


class Loopback:
    """Both ends, joined by queues: nothing is received in the middle of what sent it."""

    def __init__(self, owned: Owned) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[Callable[[Channel, Message], None], Channel, Message]] = deque()
        self._owner = OwnersEnd(owned, self._to_follower)
        self.follower = FollowersEnd(self._to_owner)

    def _to_owner(self, channel: Channel, message: Message) -> None:
        self._put(self._owner.receive, channel, message)

    def _to_follower(self, channel: Channel, message: Message) -> None:
        self._put(self.follower.receive, channel, message)

    def _put(
        self, receive: Callable[[Channel, Message], None], channel: Channel, message: Message
    ) -> None:
        if not self._queue:
            self._loop.call_soon(self._deliver)
        self._queue.append((receive, channel, message))

    def _deliver(self) -> None:
        # What comes in meanwhile is delivered too: a replica is as far as its room at the end of each turn.
        while self._queue:
            receive, channel, message = self._queue[0]
            try:
                receive(channel, message)
            except Exception:
                log.exception("a message of this node to itself could not be handled")
            self._queue.popleft()
