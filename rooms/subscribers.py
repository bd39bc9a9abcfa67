"""Whom broadcasts go to: the clients of this node, framed once for all that have the same framing, and nodes
that follow.
"""

from collections.abc import Hashable
from typing import cast

from rooms.effects import Broadcast, SessionNumber
from rooms.peer import Follower, Peer


class Subscribers:
    """Those of one room."""

    __slots__ = ("_followers", "_groups")

    def __init__(self) -> None:
        self._groups: dict[Hashable, dict[SessionNumber, Peer]] = {}
        """This node's own, by framing."""
        self._followers: dict[SessionNumber, Follower] = {}

    def add(self, number: SessionNumber, peer: Peer) -> None:
        """From now on it gets all broadcasts."""
        framing = peer.framing
        if framing is None:
            self._followers[number] = cast(Follower, peer)
        else:
            self._groups.setdefault(framing, {})[number] = peer

    def remove(self, number: SessionNumber, peer: Peer) -> bool:
        """Send it no more broadcasts; whether it got them until now."""
        framing = peer.framing
        if framing is None:
            return self._followers.pop(number, None) is not None
        group = self._groups.get(framing)
        if group is None:
            return False
        was_in = group.pop(number, None) is not None
        if not group:
            del self._groups[framing]
        return was_in

    def send(self, broadcast: Broadcast) -> None:
        """To all but the one that needs no echo."""
        but, body = broadcast.but, broadcast.body
        for group in self._groups.values():
            wire = None
            for number, peer in group.items():
                if number == but:
                    continue
                if wire is None:
                    wire = peer.frame(body)
                peer.write(wire)
        for follower in self._followers.values():
            follower.hear(body, but)
