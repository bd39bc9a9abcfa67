"""Nodes as their registry in Redis has them: for each other, and for a tool that is none."""

import asyncio

import pytest

from persistence.memory.ownership import MemoryOwnership
from persistence.memory.store import MemoryStore
from rooms.coordination.redis import LeaseLimits, living_nodes
from tests.valkey import new_node, running_coordinator
from tmi.domain.errors import Unavailable
from tmi.domain.model import Node
from tmi.wiring.redis import connected

QUICK = LeaseLimits(beat_s=0.1, node_ttl_s=0.5)


async def test_a_draining_node_is_known_as_one_by_the_others_and_by_tools(valkey_url: str) -> None:
    ownership = MemoryOwnership(MemoryStore())
    async with (
        running_coordinator(valkey_url, ownership, new_node("a"), QUICK) as a,
        running_coordinator(valkey_url, ownership, new_node("b"), QUICK) as b,
        connected(valkey_url) as redis,
    ):
        assert {"a", "b"} == {node.name for node in await living_nodes(redis)}
        await a.withdraw()
        assert {"a": True, "b": False} == {n.name: n.is_draining for n in await living_nodes(redis)}

        def of_b() -> dict[str, Node]:
            return {node.name: node for node in b.peers()}

        async with asyncio.timeout(5):
            while "a" not in of_b() or not of_b()["a"].is_draining:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)  # its beats do not take it back
        assert of_b()["a"].is_draining


async def test_a_tool_is_told_that_redis_does_not_answer() -> None:
    async with connected("redis://127.0.0.1:9") as redis:
        with pytest.raises(Unavailable):
            await living_nodes(redis)
