"""Nodes of a cluster on an embedded Valkey, and the Valkey itself, for tests."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from rooms.coordination.redis import LeaseLimits, RedisCoordinator, connected
from tests.harness.service import children_of
from tmi.domain.ids import NodeId
from tmi.domain.model import Node
from tmi.domain.ports import Ownership


def new_node(name: str = "node") -> Node:
    """A node that nobody has heard of."""
    return Node(NodeId(uuid4()), name, f"unix:/run/{name}")


@asynccontextmanager
async def running_coordinator(
    url: str, ownership: Ownership, node: Node | None = None, limits: LeaseLimits | None = None
) -> AsyncIterator[RedisCoordinator]:
    """The coordinator of a running node."""
    async with (
        connected(url) as redis,
        RedisCoordinator(ownership, redis, node or new_node(), limits).running() as coordinator,
    ):
        yield coordinator


def valkeys(parent: int | None = None) -> list[int]:
    """The process ids of the servers that a process, or this one, has started."""
    children = children_of(parent or os.getpid())
    return [pid for pid in children if Path(f"/proc/{pid}/comm").read_text() == "valkey-server\n"]
