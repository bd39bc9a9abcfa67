"""A seeded plan of misfortunes for a cluster, and whoever carries it out.

The plan depends on its seed and length alone; a shorter one is the beginning of a longer one. What happens in
between, in which turn of whose loop, does not repeat, so a seed makes a failure likely again, not certain.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import httpx

from tests.harness.cluster import NAMES, Cluster, ClusterNode
from tests.harness.crowd import Crowd
from tests.harness.fault_proxy import Direction, Edge
from tests.harness.kinds import spec_of
from tests.harness.node import DriverError
from tests.harness.rest import Rest

FIRST_AT_S = 2.0
MEAN_PAUSE_S = 1.3
START_S = 90.0
"""A node is started again and again, as a supervisor does, while it cannot start."""
DRAIN_S = 40.0
REST_S = 10.0
ROLE_TRIES = 20


class What(Enum):
    """What may happen."""

    KILL = "kill"
    PAUSE = "pause"
    DRAIN = "drain"
    CUT = "cut"
    BREAK = "break"
    BLACK_HOLE = "black hole"
    HALF_BLACK_HOLE = "black hole one way"
    DELAY = "delay"
    THROTTLE = "throttle"
    ISOLATE = "isolate"
    EMPTY_REDIS = "empty redis"
    KILL_REDIS = "kill redis"
    STALL_POSTGRES = "stall postgres"
    KILL_POSTGRES = "kill postgres"
    RECONNECT = "reconnect"
    OFFLINE = "offline"
    DEMOTE = "demote"
    VISIT = "visit"


WEIGHTS = {
    What.KILL: 6,
    What.PAUSE: 7,
    What.DRAIN: 5,
    What.CUT: 8,
    What.BREAK: 6,
    What.BLACK_HOLE: 8,
    What.HALF_BLACK_HOLE: 4,
    What.DELAY: 6,
    What.THROTTLE: 4,
    What.ISOLATE: 4,
    What.EMPTY_REDIS: 3,
    What.KILL_REDIS: 3,
    What.STALL_POSTGRES: 3,
    What.KILL_POSTGRES: 1,
    What.RECONNECT: 8,
    What.OFFLINE: 6,
    What.DEMOTE: 4,
    What.VISIT: 8,
}

SHARED = {
    What.EMPTY_REDIS: "redis",
    What.KILL_REDIS: "redis",
    What.STALL_POSTGRES: "postgres",
    What.KILL_POSTGRES: "postgres",
    What.DEMOTE: "guest",
}
"""What there is only one of."""

EDGES = (
    *(f"{name}-{server}" for name in NAMES for server in ("postgres", "redis")),
    *(f"clients-{name}" for name in NAMES),
    *(f"{one}-{other}" for one in NAMES for other in NAMES if one != other),
)


@dataclass(frozen=True, slots=True)
class Misfortune:
    """One line of the plan; times in seconds."""

    at_s: float
    what: What
    node: str
    edge: str
    lasts_s: float
    share: float
    """For whatever else is up to chance."""

    def __str__(self) -> str:
        where = f"node {self.node}, edge {self.edge}"
        return f"{self.what.value} at {self.at_s:.2f} ({where}) for {self.lasts_s:.2f} s, {self.share:.3f}"


def plan(seed: int, seconds: float) -> list[Misfortune]:
    """What happens in so many seconds."""
    chance = random.Random(seed)
    found: list[Misfortune] = []
    at_s = FIRST_AT_S
    while True:
        at_s += chance.expovariate(1 / MEAN_PAUSE_S)
        what = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        # Long enough, now and then, to be taken for dead (1.5 s).
        lasts_s = chance.choice((0.3, 0.8, 2.0, 3.5)) * chance.uniform(0.7, 1.3)
        one = Misfortune(at_s, what, chance.choice(NAMES), chance.choice(EDGES), lasts_s, chance.random())
        if at_s >= seconds:
            return found
        found.append(one)


class Chaos:
    """Carries a plan out. `log` says what happened when."""

    def __init__(self, cluster: Cluster, crowd: Crowd, guest: str, guest_token: str) -> None:
        self.cluster = cluster
        self.crowd = crowd
        self.log: list[str] = []
        self._guest = guest
        """Whose role changes."""
        self._token = guest_token
        self._began_at = time.monotonic()
        self._edges = {edge.name: edge for edge in cluster.edges}
        self._busy: set[str] = set()
        self._down: set[str] = set()
        self._acts: dict[What, Callable[[Misfortune], Awaitable[None]]] = {
            What.KILL: self._end_and_start,
            What.PAUSE: self._pause,
            What.DRAIN: self._end_and_start,
            What.CUT: self._cut,
            What.ISOLATE: self._isolate,
            What.EMPTY_REDIS: self._empty_redis,
            What.KILL_REDIS: self._kill_redis,
            What.STALL_POSTGRES: self._stall_postgres,
            What.KILL_POSTGRES: self._kill_postgres,
            What.RECONNECT: self._reconnect,
            What.OFFLINE: self._offline,
            What.DEMOTE: self._demote,
            What.VISIT: self._visit,
        }

    async def run(self, misfortunes: Sequence[Misfortune]) -> None:
        """Returns when all is over; faults end by themselves, all of them."""
        self._began_at = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for one in misfortunes:
                await asyncio.sleep(max(0.0, one.at_s - (time.monotonic() - self._began_at)))
                group.create_task(self._happen(one))

    def note(self, text: str) -> None:
        """Put a line in the log."""
        self.log.append(f"{time.monotonic() - self._began_at:7.2f} {text}")

    @contextlib.contextmanager
    def _taking(self, *things: str) -> Iterator[bool]:
        """Two faults at once are fine, but not two of one thing, since the first to end would end both."""
        free = not self._busy & set(things)
        if free:
            self._busy.update(things)
        try:
            yield free
        finally:
            if free:
                self._busy.difference_update(things)

    async def _happen(self, one: Misfortune) -> None:
        things = self._things(one)
        with self._taking(*things) as free:
            if not free:
                return
            self.note(f"begin {one}")
            await self._acts.get(one.what, self._trouble)(one)
            self.note(f"end   {one}")

    def _things(self, one: Misfortune) -> list[str]:
        match one.what:
            case What.KILL | What.PAUSE | What.DRAIN:
                return [f"node {one.node}"]
            case What.ISOLATE:
                return [edge.name for edge in self._edges_of(one.node)]
            case What.RECONNECT | What.OFFLINE:
                return [f"clients at {one.node}"]
            case What.VISIT:
                return []
        return [SHARED.get(one.what, one.edge)]

    def _edges_of(self, name: str) -> list[Edge]:
        node = self.cluster[name]
        return [node.to_postgres, node.to_redis, *self.cluster.links_of(name)]

    # --- what may happen ----------------------------------------------------------------------------

    async def _pause(self, one: Misfortune) -> None:
        node = self.cluster[one.node]
        node.pause()
        await asyncio.sleep(one.lasts_s)
        node.resume()

    async def _isolate(self, one: Misfortune) -> None:
        edges = self._edges_of(one.node)
        for edge in edges:
            edge.blackhole()
        await asyncio.sleep(one.lasts_s)
        for edge in edges:
            edge.heal()

    async def _empty_redis(self, _one: Misfortune) -> None:
        await asyncio.to_thread(self.cluster.valkey.empty)

    async def _kill_redis(self, one: Misfortune) -> None:
        await asyncio.to_thread(self.cluster.valkey.kill)
        await asyncio.sleep(one.lasts_s)
        await asyncio.to_thread(self.cluster.valkey.start)

    async def _stall_postgres(self, one: Misfortune) -> None:
        await asyncio.to_thread(self.cluster.postgres.process.stall)
        await asyncio.sleep(one.lasts_s)
        await asyncio.to_thread(self.cluster.postgres.process.resume)

    async def _kill_postgres(self, one: Misfortune) -> None:
        await asyncio.to_thread(self.cluster.postgres.kill)
        await asyncio.sleep(one.lasts_s / 4)
        await asyncio.to_thread(self.cluster.postgres.start_again)

    async def _reconnect(self, one: Misfortune) -> None:
        await self.crowd.driver.call("drop", names=self._some(one))

    async def _offline(self, one: Misfortune) -> None:
        names = self._some(one)
        await self.crowd.driver.call("offline", names=names)
        await asyncio.sleep(one.lasts_s)
        await self.crowd.driver.call("online", names=names)

    async def _demote(self, one: Misfortune) -> None:
        await self.set_role("reader")
        await asyncio.sleep(one.lasts_s)
        await self.set_role("writer")

    async def _cut(self, one: Misfortune) -> None:
        self._edges[one.edge].cut(reset=one.share < 0.5)

    async def _trouble(self, one: Misfortune) -> None:
        edge = self._edges[one.edge]
        match one.what:
            case What.BREAK:
                edge.break_off()
            case What.BLACK_HOLE:
                edge.blackhole()
            case What.HALF_BLACK_HOLE:
                edge.blackhole(Direction.THERE if one.share < 0.5 else Direction.BACK)
            case What.DELAY:
                edge.delay(0.005 + 0.15 * one.share, jitter_s=0.05)
            case What.THROTTLE:
                edge.throttle(20_000 + 200_000 * one.share)
        await asyncio.sleep(one.lasts_s)
        edge.heal()
        if one.what is What.BLACK_HOLE and one.share < 0.5:
            edge.cut()  # what stood in between has forgotten the connections

    async def _end_and_start(self, one: Misfortune) -> None:
        node = self.cluster[one.node]
        assert node.service.is_alive, f"node {one.node} ended by itself: {node.service.output()[-4000:]}"
        self._down.add(one.node)
        self._balance()
        if one.what is What.KILL:
            node.kill()
        else:
            node.service.terminate()
            status = await asyncio.to_thread(node.service.wait, DRAIN_S)
            self.note(f"node {one.node} has drained and ended with {status}")
        await asyncio.sleep(one.lasts_s)
        await self.start(node)

    async def start(self, node: ClusterNode) -> None:
        """Start a node that does not run."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                await node.start()
                break
            except (RuntimeError, TimeoutError) as error:
                self.note(f"node {node.name} could not start: {str(error)[-200:]!r}")
                if time.monotonic() > deadline:
                    raise
                if node.service.is_alive:
                    node.kill()
                await asyncio.sleep(0.5)
        self._down.discard(node.name)
        self._balance()

    def _balance(self) -> None:
        """Send new clients of a node that is down to another one, as a load balancer does."""
        up = [node for node in self.cluster.nodes.values() if node.name not in self._down]
        for node in self.cluster.nodes.values():
            chosen = node if node in up or not up else up[ord(node.name) % len(up)]
            node.from_clients.upstream = f"127.0.0.1:{chosen.service.port}"

    def _some(self, one: Misfortune) -> list[str]:
        names = self.crowd.at(one.node)
        count = 1 + int(one.share * len(names) / 2)
        start = int(one.share * len(names))
        return (names + names)[start : start + count]

    async def set_role(self, role: str) -> None:
        """Change the guest's, at whichever node can do it; a database that is away makes it wait."""
        for _ in range(ROLE_TRIES):
            for name in NAMES:
                try:
                    async with Rest(self.cluster[name].service.url, timeout_s=REST_S) as rest:
                        model = self.crowd.places[0].model
                        await rest.set_role(self.crowd.person, model, self._guest, role)
                        return
                except httpx.HTTPError as error:
                    self.note(f"node {name} could not make the guest a {role}: {error!r:.120}")
            await asyncio.sleep(0.2)
        raise TimeoutError(f"the guest could not be made a {role}")

    async def _visit(self, one: Misfortune) -> None:
        """Somebody comes to a node, is seen, and goes, perhaps without a word."""
        kind = ("y-websocket-3.1", "hocuspocus-4.8", "y-websocket-2.1")[int(one.share * 3)]
        room = int(one.share * 1000) % len(self.crowd.places)
        name = f"visitor-{len(self.log)}"
        spec = spec_of(
            kind, name, self.cluster[one.node].collab, self.crowd.places[room].diagram, self._token
        )
        await self.crowd.driver.open([spec])
        await self.crowd.driver.call("presence", name=name, state={"visitor": name})
        with contextlib.suppress(DriverError):
            await self.crowd.driver.wait([name], "synced", one.lasts_s * 3)
        await asyncio.sleep(one.lasts_s / 2)
        if one.share < 0.5:
            await self.crowd.driver.call("drop", names=[name])
        await self.crowd.driver.close([name])
