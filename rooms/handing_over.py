"""Rooms that change their owner while people are in them.

A room is handed over in these steps, and nobody is disconnected in any of them:

1. It **stands down**: all that is applied goes out, its clients move to a replica, the nodes that follow it
   are neither heard nor told anything. From here on edits wait, on the node that took them.
2. It **commits** what it has, and then its lease and its fence's row are given back.
3. A **successor** is asked to claim it, and opens it from the log.
4. Everybody is **let go** to the successor: the nodes that follow, and the replica. Each brings what the room
   had accepted and did not know to be committed, then says again what was not acknowledged.

The pause is a commit, a claim, a load and two round trips. A room whose fence is lost goes through 1 and 4
alone: what it could not commit is brought to whoever owns it now. A room whose owner has lost the database
(`rooms/database_watch.py`) goes through 1, 3 and 4 like that.

What can go wrong: the commit takes too long (the room is claimed again here once it is through), no
successor answers (all look for the owner by themselves: whoever claims first).
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rooms.background import Background
from rooms.hosted import Hosted
from rooms.nodes.following import ReplicaRunner
from rooms.nodes.keeper import Keeper
from rooms.peer import Follower
from rooms.runner import RoomRunner
from tmi.domain.errors import NotFound, TmiError, Unavailable
from tmi.domain.ids import DiagramId, NodeId
from tmi.domain.model import Node

log = logging.getLogger(__name__)

_LOOK_S = 0.002


@dataclass(frozen=True, slots=True)
class HandoverLimits:
    """Times in seconds."""

    commit_s: float = 5.0
    """For the last commit of a room that is handed over."""
    release_s: float = 1.0
    """For giving row and lease back, before a successor is asked."""
    claim_s: float = 2.0
    """For the successor's claim."""
    at_once: int = 4
    """Rooms that a draining node hands over at the same time."""
    abandoned_at_once: int = 16
    """Rooms that a node without the database gives up at the same time: their clients wait already."""


class Successors(Protocol):
    """The other nodes, as those that may own a room next."""

    async def take(self, successor: Node, diagram: DiagramId) -> Node:
        """Have it claim a room that this node has given up; returns who owns it. Raises Unavailable."""


NewReplica = Callable[[DiagramId, RoomRunner], ReplicaRunner]
Release = Callable[[RoomRunner], Awaitable[None]]


class HandingOver:
    """Stands rooms down, and sees to it that their clients find the next owner."""

    def __init__(
        self,
        hosted: Hosted,
        keeper: Keeper,
        background: Background,
        release: Release,
        new_replica: NewReplica,
        limits: HandoverLimits | None = None,
    ) -> None:
        """`new_replica` makes a replica of a room, on its document, and registers it; `release` gives the
        coordinator's lease back.
        """
        self._hosted = hosted
        self._keeper = keeper
        self._background = background
        self._release = release
        self._new_replica = new_replica
        self._limits = limits or HandoverLimits()
        self.handed_over = 0
        """Rooms that went to another node in good order."""

    def fence_lost(self, runner: RoomRunner) -> None:
        """Another node owns the room: its clients stay, and follow that one."""
        diagram = runner.room.diagram
        if self._hosted.open.get(diagram) is runner:
            del self._hosted.open[diagram]
        standing_down = self._stand_down(runner)
        runner.end(runner.room.fence_lost)
        self._background.spawn(_awaited(self._release(runner)))
        standing_down.let_go(None, is_disowned=True)

    async def abandon(self, diagram: DiagramId, successor: Node, successors: Successors) -> Node | None:
        """Make another node the owner of a room that cannot be committed here; returns who owns it now.

        None: that one did not claim it, and its clients look for an owner.
        """
        runner = self._hosted.open.pop(diagram, None)
        if runner is None:
            return None
        standing_down = self._stand_down(runner)
        runner.end(runner.room.fence_lost)
        self._background.spawn(_awaited(self._release(runner)))
        owner: Node | None = None
        try:
            owner = await self._taken(successor, diagram, successors)
        except TmiError as error:
            log.warning("room %s could not be given to node %s: %s", diagram, successor.name, error)
        finally:
            standing_down.let_go(owner, is_disowned=True)
        return owner

    async def hand_over(self, diagram: DiagramId, successor: Node, successors: Successors) -> Node:
        """Make another node the owner of a room that is open here; returns who owns it now.

        Raises NotFound (it is not open here) and Unavailable: then the clients look for an owner, which may
        be this node again.
        """
        runner = self._hosted.open.get(diagram)
        if runner is None or not runner.room.is_open:
            raise NotFound("the diagram's room is not open here")
        del self._hosted.open[diagram]
        self._hosted.moving[diagram] = runner
        standing_down = self._stand_down(runner)
        runner.room.hand_over()
        runner.hurry()
        owner: Node | None = None
        is_saved = False
        try:
            is_saved = await self._is_committed(runner)
            if not is_saved:
                raise Unavailable("the room's last edits could not be committed in time")
            # A successor may take it from this node: a database that hangs holds nobody up.
            giving_back = self._background.begin(_awaited(self._release(runner)))
            await asyncio.wait([giving_back], timeout=self._limits.release_s)
            owner = await self._taken(successor, diagram, successors)
        finally:
            del self._hosted.moving[diagram]
            if not is_saved:
                # Its last edits are still being committed: whoever claims it here waits for them.
                self._hosted.ending[diagram] = runner
            standing_down.let_go(owner, is_disowned=is_saved)
        self.handed_over += 1
        return owner

    async def _taken(self, successor: Node, diagram: DiagramId, successors: Successors) -> Node:
        """Who has the room now. Raises Unavailable."""
        try:
            async with asyncio.timeout(self._limits.claim_s):
                return await successors.take(successor, diagram)
        except TimeoutError:
            raise Unavailable(f"node {successor.name} does not answer") from None

    async def _is_committed(self, runner: RoomRunner) -> bool:
        try:
            async with asyncio.timeout(self._limits.commit_s):
                while not runner.room.is_over:
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            return False
        return True

    def _stand_down(self, runner: RoomRunner) -> "_StandingDown":
        diagram = runner.room.diagram
        replica = self._hosted.following.get(diagram)
        is_kept = replica is not None and not replica.room.is_over
        if not is_kept:
            is_wanted = bool(runner.clients) or bool(runner.room.unsaved)
            replica = self._new_replica(diagram, runner) if is_wanted else None
        followers = runner.stand_down(replica)

        def let_go(owner: Node | None) -> None:
            if replica is not None and not is_kept:
                self._background.spawn(self._keeper.keep(replica, owner))

        return _StandingDown(followers, let_go)

    async def hand_over_all(
        self, deadline_s: float, successors: Successors, choose: Callable[[RoomRunner], Node | None]
    ) -> int:
        """Hand every open room over, a few at a time; returns how many are left. Never raises.

        `choose` names a successor for a room, or nobody.
        """
        async def one(diagram: DiagramId) -> None:
            runner = self._hosted.open.get(diagram)
            if runner is None or not runner.room.is_open or runner.room.is_empty:
                return
            successor = choose(runner)
            if successor is None:
                return
            try:
                await self.hand_over(diagram, successor, successors)
            except TmiError as error:
                log.warning("room %s could not be handed to node %s: %s", diagram, successor.name, error)

        try:
            async with asyncio.timeout(deadline_s):
                await _one_by_one(self._hosted.open, one, self._limits.at_once)
        except TimeoutError:
            log.warning("not all rooms could be handed over in time")
        return len(self._hosted.open)

    async def abandon_all(self, others: Sequence[Node], successors: Successors) -> None:
        """Give every open room to one of these nodes, a few at a time, and offer them those that no owner is
        found for. Never raises.

        Those that wait for their last commit, to be closed or handed over, end: what they could not commit is
        with their replicas, or with the clients who made it.
        """
        for home in (self._hosted.moving, self._hosted.ending):
            for runner in home.values():
                if not runner.room.is_over:
                    runner.end(runner.room.fence_lost)
        given: Counter[NodeId] = Counter()

        async def give(diagram: DiagramId) -> None:
            runner = self._hosted.open.get(diagram)
            if runner is None or not runner.room.is_open:
                return
            successor = best_successor(runner, others, given.__getitem__)
            if successor is not None:
                given[successor.id] += 1
                await self.abandon(diagram, successor, successors)

        async def offer(diagram: DiagramId) -> None:
            for other in others:
                with contextlib.suppress(TmiError):
                    await successors.take(other, diagram)
                    return

        at_once = self._limits.abandoned_at_once
        await _one_by_one(self._hosted.open, give, at_once)
        following = self._hosted.following.items()
        lost = [key for key, replica in following if replica.lost.is_set() and not replica.room.is_over]
        await _one_by_one(lost, offer, at_once)


async def _one_by_one(
    diagrams: Iterable[DiagramId], one: Callable[[DiagramId], Awaitable[None]], at_once: int
) -> None:
    """Do it with each of these, a few at a time. What fails is logged."""
    slots = asyncio.Semaphore(at_once)

    async def in_turn(diagram: DiagramId) -> None:
        async with slots:
            try:
                await one(diagram)
            except Exception:
                log.exception("room %s could not be given to another node", diagram)

    async with asyncio.TaskGroup() as group:
        for diagram in list(diagrams):
            group.create_task(in_turn(diagram))


class _StandingDown:
    """Who waits to hear of the next owner."""

    def __init__(self, followers: Sequence[Follower], keep: Callable[[Node | None], None]) -> None:
        self._followers = followers
        self._keep = keep

    def let_go(self, owner: Node | None, *, is_disowned: bool) -> None:
        """Tell them where to look."""
        for follower in self._followers:
            follower.let_go(owner, is_disowned=is_disowned)
        self._keep(owner)


async def _awaited(work: Awaitable[None]) -> None:
    await work


def best_successor(runner: RoomRunner, nodes: Sequence[Node], load: Callable[[NodeId], int]) -> Node | None:
    """Of the nodes that may own a room: one that follows it, or else the one that was given fewest."""
    following = [node for node in nodes if runner.is_followed_by(node.id)]
    return min(following or nodes, key=lambda node: load(node.id), default=None)
