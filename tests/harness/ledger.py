"""What clients know to be saved, and whether a reload from Postgres alone has it."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.harness.kinds import spec_of
from tests.harness.node import NodeDriver
from tests.harness.rest import Person, Place, Rest
from tests.harness.service import Service

Json = Any


@dataclass(frozen=True, slots=True)
class Ledger:
    """The edits of some writers at one moment, by id."""

    made: frozenset[str]
    acknowledged: frozenset[str]
    violations: tuple[str, ...]

    @classmethod
    async def read(cls, driver: NodeDriver, names: Sequence[str]) -> "Ledger":
        """Ask the driver; an edit is acknowledged by a SyncStatus 01 or a `saved` frame."""
        found = (await driver.call("ledger", names=list(names))).values()
        edits = [edit for one in found for edit in one["edits"]]
        return cls(
            frozenset(edit["id"] for edit in edits),
            frozenset(edit["id"] for edit in edits if edit["acknowledged"]),
            tuple(violation for one in found for violation in one["violations"]),
        )


async def loaded_by_a_fresh_client(
    driver: NodeDriver, service: Service, place: Place, token: str
) -> dict[str, Json]:
    """What a client that knows nothing receives: content, state vector and the rest of its report."""
    name = f"fresh-{time.monotonic_ns()}"
    await driver.open([spec_of("y-websocket-3.1", name, service.collab, place.diagram, token)])
    try:
        await driver.wait([name], "synced", 60)
        return await driver.report(name)
    finally:
        await driver.close([name])


async def returns(rest: Rest, timeout_s: float = 60) -> None:
    """Wait until REST answers /readyz with 200."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        try:
            status, _ = await rest.ready()
        except OSError:
            status = 0
        if status == 200:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError("the service did not become ready")
        await asyncio.sleep(0.05)


class Writers:
    """Writers of all kinds in a few rooms, streaming edits at a fixed rate together."""

    KINDS = (
        "y-websocket-3.1",
        "y-websocket-2.1",
        "hocuspocus-3.4",
        "hocuspocus-4.8",
        "hocuspocus-4.8-session",
    )

    def __init__(self, driver: NodeDriver, service: Service) -> None:
        self.driver = driver
        self.service = service
        self.places: list[Place] = []
        self.names: list[str] = []
        self._by_place: dict[str, list[str]] = {}
        self.person: Person
        self.token: str

    async def open(self, rooms: int, name: str = "alice") -> None:
        """One writer of each kind in each of so many rooms."""
        async with Rest(self.service.url) as rest:
            self.person = await rest.sign_in(name)
            model = await rest.create_model(self.person)
            self.places = [await rest.create_diagram(self.person, model) for _ in range(rooms)]
            self.token = await rest.collab_token(self.person)
        specs = []
        for index, place in enumerate(self.places):
            names = [f"w{index}-{kind}" for kind in self.KINDS]
            self._by_place[place.diagram] = names
            self.names += names
            for kind, writer in zip(self.KINDS, names, strict=True):
                spec = spec_of(
                    kind, writer, self.service.collab, place.diagram, self.token, socket=f"w{index}"
                )
                specs.append({**spec, "saved": True})
        await self.driver.open(specs)
        await self.driver.wait(self.names, "synced")

    def of(self, place: Place) -> list[str]:
        """The writers in one room."""
        return self._by_place[place.diagram]

    async def ledger(self, place: Place) -> Ledger:
        """The ledger of one room's writers."""
        return await Ledger.read(self.driver, self.of(place))

    async def renew_token(self) -> None:
        """Fresh collab tokens, as an editor fetches them before the old ones end."""
        async with Rest(self.service.url) as rest:
            self.token = await rest.collab_token(self.person)
        await self.driver.call("set_token", names=self.names, token=self.token)

    async def assert_nothing_acknowledged_is_lost(self, ledgers: dict[str, Ledger]) -> None:
        """Compare ledgers taken earlier with what fresh clients load now."""
        for place in self.places:
            ledger = ledgers[place.diagram]
            loaded = await loaded_by_a_fresh_client(self.driver, self.service, place, self.token)
            lost = ledger.acknowledged - loaded["content"]["meta"].keys()
            assert (frozenset(), ()) == (lost, ledger.violations)
