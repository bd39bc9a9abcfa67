"""What happens to the owner of rooms, alone and in pairs, and what clients notice of it.

Three nodes; `a` owns the rooms, since its clients came first, and all have clients who edit all the time.
Then `a` is killed, stands still, or is cut off from Redis, from PostgreSQL, from the other nodes: by a black
hole, or by connections that break and are refused. In each case

- clients of `b` and `c` stay connected,
- once it is over everything that anybody made is acknowledged and is in PostgreSQL,
- no owner wrote after the claim of another.

And while it lasts, `b` and `c` are acknowledged, by the same owner or by a new one, as `outlook` says.

`TMI_FAILOVER=all` tries all pairs in both ways, as `make failover` does.
"""

import asyncio
import os
import time
from enum import Enum
from itertools import combinations
from pathlib import Path

import pytest

from tests.faults.conftest import OwnPostgres
from tests.harness.cluster import Cluster, running_cluster
from tests.harness.crowd import ALL_KINDS, Crowd, Edit, percentile
from tests.harness.node import NodeDriver
from tests.valkey import OwnValkey

ROOMS = 2
EDITS_PER_SECOND = 60
PAUSED_S = 3.0
"""Twice the time after which a node counts as dead."""
WINDOW_S = 5.0
IN_FLIGHT_S = 0.5
"""What was made so shortly before or after a fault may yet be acknowledged."""
TARGET_S = 3.0
BACK_S = 2 * TARGET_S
"""A bound for a busy machine; the measured times are printed beside TARGET_S."""
DRAINED_S = 30.0
"""For everything, once nothing is wrong any more. A statement that was lost on its way to PostgreSQL is given
up after 10 s.
"""


class Fault(Enum):
    """What happens to the owner."""

    KILLED = "killed"
    PAUSED = "paused"
    REDIS = "without redis"
    POSTGRES = "without postgres"
    PEERS = "without peers"


NETWORK = frozenset({Fault.REDIS, Fault.POSTGRES, Fault.PEERS})


class How(Enum):
    """What is wrong with the network."""

    BLACK_HOLE = "black hole"
    BROKEN = "broken"


class Outlook(Enum):
    """What clients of the other nodes may expect while it lasts."""

    GOES_ON = "the owner serves them"
    TAKEN_OVER = "another node owns the room soon"


def outlook(faults: frozenset[Fault]) -> Outlook:
    """A node without Redis keeps its rooms; one that most others miss, or without PostgreSQL, does not."""
    return Outlook.GOES_ON if faults == {Fault.REDIS} else Outlook.TAKEN_OVER


Case = tuple[frozenset[Fault], How]


def all_cases() -> list[Case]:
    """Each fault and each pair; those of the network in both ways."""
    sets = [frozenset(some) for count in (1, 2) for some in combinations(Fault, count)]
    return [(faults, how) for faults in sets for how in How if how is How.BLACK_HOLE or faults & NETWORK]


SOME: tuple[Case, ...] = (
    (frozenset({Fault.KILLED}), How.BLACK_HOLE),
    (frozenset({Fault.PAUSED}), How.BLACK_HOLE),
    (frozenset({Fault.REDIS}), How.BROKEN),
    (frozenset({Fault.POSTGRES}), How.BLACK_HOLE),
    (frozenset({Fault.PEERS}), How.BLACK_HOLE),
    (frozenset({Fault.REDIS, Fault.PEERS}), How.BLACK_HOLE),
    (frozenset({Fault.REDIS, Fault.POSTGRES}), How.BROKEN),
    (frozenset({Fault.PAUSED, Fault.POSTGRES}), How.BLACK_HOLE),
)
CASES = all_cases() if os.environ.get("TMI_FAILOVER") == "all" else SOME


def label(case: Case) -> str:
    faults, how = case
    return "-".join([*sorted(fault.value.replace(" ", "-") for fault in faults), how.value.replace(" ", "-")])


class Trial:
    """One case on a cluster of its own."""

    def __init__(self, cluster: Cluster, crowd: Crowd, case: Case) -> None:
        self.cluster = cluster
        self.crowd = crowd
        self.owner = cluster["a"]
        self.faults, self.how = case
        self.began_at = 0.0
        self.healed_at = 0.0

    async def run(self) -> None:
        """The owner suffers for WINDOW_S while everybody edits."""
        await self.crowd.stream("edits", self.crowd.names, EDITS_PER_SECOND)
        await asyncio.sleep(1.5)
        self._begin()
        await asyncio.sleep(PAUSED_S)
        self.owner.resume()
        await asyncio.sleep(WINDOW_S - PAUSED_S)
        await self._end()
        await asyncio.sleep(1)
        await self.crowd.stop("edits")

    def _begin(self) -> None:
        edges = []
        if Fault.REDIS in self.faults:
            edges.append(self.owner.to_redis)
        if Fault.POSTGRES in self.faults:
            edges.append(self.owner.to_postgres)
        if Fault.PEERS in self.faults:
            edges += self.cluster.links_of("a")
        for edge in edges:
            if self.how is How.BLACK_HOLE:
                edge.blackhole()
            else:
                edge.break_off()
        if Fault.PAUSED in self.faults:
            self.owner.pause()
        if Fault.KILLED in self.faults:
            self.owner.kill()
            # As a load balancer does for who comes again.
            self.owner.from_clients.upstream = self.cluster["b"].from_clients.upstream
        self.began_at = time.time()

    async def _end(self) -> None:
        self.cluster.heal()
        self.healed_at = time.time()
        if Fault.KILLED in self.faults:
            await self.owner.start()

    # --- what has to hold ---------------------------------------------------------------------------

    async def check(self) -> str:
        """Returns the figures, in words."""
        drained_s = await self.crowd.until_acknowledged(self.crowd.names, DRAINED_S)
        survivors = await self.crowd.edits(self.crowd.at("b", "c"))
        words = self._check_outlook(survivors)
        if Fault.KILLED in self.faults:
            moved = await self.crowd.edits(self.crowd.at("a"))
            back_s = max(back_after(edits, self.began_at) for edits in moved.values())
            assert back_s < BACK_S
            words += f"; its own clients, at `b` now, after {back_s:.2f} s at most"
        assert {} == await self.crowd.closes(self.crowd.at("b", "c"))
        if Fault.KILLED not in self.faults:
            await self._check_its_own_clients()
        assert [] == await self.crowd.violations()
        assert [] == await self.cluster.stale_writes()
        assert [] == self.cluster.own_bugs()
        for room, place in enumerate(self.crowd.places):
            edits = await self.crowd.edits(self.crowd.in_room(room))
            made = {edit.id for some in edits.values() for edit in some}
            stored = await self.cluster.stored(place)
            assert set() == made - stored["content"]["meta"].keys()
        groups = [self.crowd.in_room(room) for room in range(ROOMS)]
        agreed = await self.crowd.driver.call("agree", groups=groups, timeout_ms=DRAINED_S * 1000)
        assert [] == agreed["unequal"]
        return f"{words}; all acknowledged {drained_s:.1f} s after the last edit"

    async def _check_its_own_clients(self) -> None:
        """How connections of the owner's clients end, once it has learned that it is none."""
        codes = {
            close["code"]
            for closes in (await self.crowd.closes(self.crowd.at("a"))).values()
            for close in closes
        }
        assert set() == codes

    def _check_outlook(self, survivors: dict[str, list[Edit]]) -> str:
        during = [
            edit
            for edits in survivors.values()
            for edit in edits
            if self.began_at + IN_FLIGHT_S < edit.made_at < self.healed_at - IN_FLIGHT_S
        ]
        assert during
        match outlook(self.faults):
            case Outlook.GOES_ON:
                waits_s = [(edit.acknowledged_at or self.healed_at) - edit.made_at for edit in during]
                assert percentile(waits_s, 0.99) < TARGET_S
                return f"acknowledged within {percentile(waits_s, 0.99):.2f} s (p99)"
            case Outlook.TAKEN_OVER:
                back_s = [back_after(edits, self.began_at) for edits in survivors.values()]
                assert max(back_s) < BACK_S
                return (
                    f"acknowledged again after {percentile(back_s, 0.5):.2f} s (p50 of clients), "
                    f"{percentile(back_s, 0.99):.2f} s (p99; the target is {TARGET_S:g})"
                )


def back_after(edits: list[Edit], since: float) -> float:
    """How long after a moment the first edit that a client made then was acknowledged; seconds."""
    later = [edit.acknowledged_at for edit in edits if edit.made_at > since]
    return min(at for at in later if at is not None) - since


@pytest.mark.parametrize("case", CASES, ids=label)
async def test_whatever_happens_to_an_owner_no_client_elsewhere_notices_and_nothing_is_lost(
    case: Case,
    tmp_path: Path,
    own_postgres: OwnPostgres,
    own_valkey: OwnValkey,
    driver: NodeDriver,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with running_cluster(tmp_path, own_postgres, own_valkey) as cluster:
        crowd = Crowd(driver, cluster)
        others = ("y-websocket-3.1", "y-websocket-2.1", "hocuspocus-3.4", "hocuspocus-4.8")
        await crowd.open(ROOMS, {"a": ALL_KINDS, "b": others, "c": others})
        trial = Trial(cluster, crowd, case)
        await trial.run()
        words = await trial.check()
    with capsys.disabled():
        print(f"\n{label(case)}: {words}")
