"""Redis is emptied under load, again and again: owners assert what is theirs, and no client notices."""

import asyncio
import os
import time
from pathlib import Path

import asyncpg
import pytest

from tests.faults.conftest import OwnPostgres
from tests.harness.cluster import Cluster, running_cluster
from tests.harness.crowd import Crowd
from tests.harness.node import NodeDriver
from tests.valkey import OwnValkey
from tmi.wiring.redis import connected

ROUNDS = int(os.environ.get("TMI_EMPTIED_ROUNDS", "4"))
ROOMS = 3
EDITS_PER_SECOND = 150
BACK_S = 3.0
"""Owners find out by their next beat (0.4 s); the renewal of leases alone would take up to ten."""
KINDS = ("y-websocket-3.1", "hocuspocus-4.8")


async def owners(cluster: Cluster, crowd: Crowd) -> list[tuple[int, str | None]]:
    """Fence and owner of each room, as the database says."""
    connection = await asyncpg.connect(cluster.postgres.admin_url)
    try:
        rows = await connection.fetch("SELECT diagram_id, fence, owner FROM diagram_fences")
    finally:
        await connection.close()
    found = {str(row["diagram_id"]): (row["fence"], row["owner"]) for row in rows}
    return [found[place.diagram] for place in crowd.places]


async def leases(valkey: OwnValkey, crowd: Crowd) -> list[str | None]:
    """Whom Redis names as the owners."""
    async with connected(f"unix://{valkey.socket}") as redis:
        found = [await redis.get(f"tmi:room:{place.diagram}") for place in crowd.places]
    return [owner.decode() if isinstance(owner, bytes) else owner for owner in found]


async def until_asserted(cluster: Cluster, crowd: Crowd, expected: list[str | None]) -> float:
    """Wait until all leases are back; returns the seconds that took."""
    began = time.monotonic()
    async with asyncio.timeout(BACK_S):
        while await leases(cluster.valkey, crowd) != expected:
            await asyncio.sleep(0.02)
    return time.monotonic() - began


async def test_a_redis_that_is_emptied_under_load_is_filled_again_and_nobody_is_disturbed(
    tmp_path: Path,
    own_postgres: OwnPostgres,
    own_valkey: OwnValkey,
    driver: NodeDriver,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with running_cluster(tmp_path, own_postgres, own_valkey) as cluster:
        crowd = Crowd(driver, cluster)
        await crowd.open(ROOMS, dict.fromkeys(cluster.nodes, KINDS))
        before = await owners(cluster, crowd)
        names = [owner for _, owner in before]
        assert names == await leases(own_valkey, crowd)
        await crowd.stream("edits", crowd.names, EDITS_PER_SECOND)
        back_s = []
        for _ in range(ROUNDS):
            await asyncio.sleep(0.5)
            own_valkey.empty()
            back_s.append(await until_asserted(cluster, crowd, names))
        # In the middle of its being filled, too.
        own_valkey.empty()
        await asyncio.sleep(0.2)
        own_valkey.empty()
        back_s.append(await until_asserted(cluster, crowd, names))
        await asyncio.sleep(0.5)
        await crowd.stop("edits")
        await crowd.until_acknowledged(crowd.names, 20)

        assert before == await owners(cluster, crowd), "a room was claimed anew"
        assert {} == await crowd.closes(crowd.names)
        assert [] == await crowd.violations()
        assert [] == await cluster.stale_writes()
        assert [] == cluster.own_bugs()
        groups = [crowd.in_room(room) for room in range(ROOMS)]
        assert [] == (await driver.call("agree", groups=groups, timeout_ms=20_000))["unequal"]
        edits = await crowd.edits(crowd.names)
        slowest_s = max(
            one.acknowledged_at - one.made_at
            for some in edits.values()
            for one in some
            if one.acknowledged_at is not None
        )
        for room, place in enumerate(crowd.places):
            made = {edit.id for name in crowd.in_room(room) for edit in edits[name]}
            assert set() == made - (await cluster.stored(place))["content"]["meta"].keys()
    with capsys.disabled():
        print(
            f"\nemptied {len(back_s) + 1} times: leases back after {max(back_s):.2f} s at most, the slowest "
            f"acknowledgement took {slowest_s:.2f} s"
        )
