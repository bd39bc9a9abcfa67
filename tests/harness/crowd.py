"""Real clients at all nodes of a cluster, in a few rooms, and when each of their edits was acknowledged."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.harness.cluster import Cluster
from tests.harness.kinds import spec_of
from tests.harness.node import NodeDriver
from tests.harness.rest import Person, Place, Rest

Json = Any

ALL_KINDS = (
    "y-websocket-3.1",
    "y-websocket-2.1",
    "hocuspocus-3.4",
    "hocuspocus-4.8",
    "hocuspocus-4.8-session",
)


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit of a client; times in seconds since the epoch."""

    id: str
    made_at: float
    acknowledged_at: float | None


@dataclass(frozen=True, slots=True)
class Client:
    """A client of the crowd."""

    name: str
    node: str
    room: int


class Crowd:
    """All of them write, and retry every 100 ms."""

    def __init__(self, driver: NodeDriver, cluster: Cluster) -> None:
        self.driver = driver
        self.cluster = cluster
        self.places: list[Place] = []
        self.clients: list[Client] = []
        self.person: Person
        self.token: str

    async def open(self, rooms: int, kinds: Mapping[str, Sequence[str]]) -> None:
        """One client of each kind at each node in each of so many rooms; the first node owns the rooms."""
        first = next(iter(kinds))
        async with Rest(self.cluster[first].service.url) as rest:
            self.person = await rest.sign_in("alice")
            model = await rest.create_model(self.person)
            self.places = [await rest.create_diagram(self.person, model) for _ in range(rooms)]
            self.token = await rest.collab_token(self.person)
        for node in kinds:
            await self.add(node, range(rooms), kinds[node], self.token)
            await self.driver.wait(self.at(node), "synced")

    async def add(
        self, node: str, rooms: Iterable[int], kinds: Sequence[str], token: str, by: str = ""
    ) -> None:
        """Open further clients at a node; `by` tells their names apart."""
        specs = []
        for room in rooms:
            for kind in kinds:
                name = f"{node}{room}{by}-{kind}"
                self.clients.append(Client(name, node, room))
                spec = spec_of(
                    kind,
                    name,
                    self.cluster[node].collab,
                    self.places[room].diagram,
                    token,
                    seed=len(self.clients),
                    socket=f"{node}{room}{by}",
                )
                specs.append({**spec, "saved": True})
        await self.driver.open(specs)

    @property
    def names(self) -> list[str]:
        return [client.name for client in self.clients]

    def at(self, *nodes: str) -> list[str]:
        """The clients of these nodes."""
        return [client.name for client in self.clients if client.node in nodes]

    def in_room(self, room: int) -> list[str]:
        """The clients of a room."""
        return [client.name for client in self.clients if client.room == room]

    async def stream(self, stream: str, names: Sequence[str], per_second: int, mixed: int = 0) -> None:
        """Edit until `stop`, all of them together at this rate."""
        await self.driver.call(
            "stream", stream=stream, names=list(names), per_second=per_second, prefix=stream, mixed=mixed
        )

    async def stop(self, stream: str) -> None:
        """End a stream of edits."""
        await self.driver.call("stop_stream", stream=stream)

    async def until_acknowledged(self, names: Sequence[str], timeout_s: float) -> float:
        """Wait until everything that these clients made is acknowledged; returns the seconds that took."""
        began = time.monotonic()
        await self.driver.call("wait_acknowledged", names=list(names), timeout_ms=timeout_s * 1000)
        return time.monotonic() - began

    async def edits(self, names: Sequence[str]) -> dict[str, list[Edit]]:
        """Everything that these clients made."""
        found = await self.driver.call("ledger", names=list(names))
        return {
            name: [_edit(edit) for edit in ledger["edits"]] for name, ledger in found.items()
        }

    async def violations(self) -> list[str]:
        """What the servers said that no server may say."""
        found = await self.driver.call("ledger", names=self.names)
        return [f"{name}: {text}" for name, ledger in found.items() for text in ledger["violations"]]

    async def closes(self, names: Sequence[str]) -> dict[str, list[Json]]:
        """How often and why the connections of these clients were closed; without those that never were."""
        reports = await self.driver.call("closes", names=list(names))
        return {name: closes for name, closes in reports.items() if closes}


def _edit(edit: Json) -> Edit:
    acknowledged = edit["acknowledged_at"]
    return Edit(edit["id"], edit["made_at"] / 1000, None if acknowledged is None else acknowledged / 1000)


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that so many of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
