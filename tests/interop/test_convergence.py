"""All kinds of clients in one room, editing at random, with interruptions: they agree, and so does a reload.

`TMI_INTEROP_SEEDS` says how many seeds are tried (100), `TMI_INTEROP_FIRST_SEED` where they begin (1).
"""

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.harness.kinds import KINDS, spec_of
from tests.harness.node import NodeDriver
from tests.harness.pycrdt_client import PycrdtClient
from tests.harness.rest import Person, Place, Rest
from tests.harness.service import Service

SEEDS = int(os.environ.get("TMI_INTEROP_SEEDS", "100"))
FIRST = int(os.environ.get("TMI_INTEROP_FIRST_SEED", "1"))
AT_ONCE = 8
STEPS = 14
INTERRUPTIONS = 8
LONG_LIVED_TOKENS = {"TMI_COLLAB_TOKEN_TTL_S": "86400", "TMI_ACCESS_TOKEN_TTL_S": "86400"}
FAILED_ONCE: tuple[int, ...] = ()
"""Seeds that found a fault; they are tried whatever the range is."""

Json = Any


async def play_python(client: PycrdtClient, seed: int) -> None:
    """Edits, and one spell offline."""
    pick = random.Random(seed)
    offline_at = pick.randrange(STEPS)
    for step in range(STEPS):
        if step == offline_at:
            await client.offline()
            client.edit()
            client.edit()
            await client.online()
        client.edit()
        await asyncio.sleep(pick.random() / 50)


class Seed:
    """One seed: a diagram, its clients and what they agreed on."""

    def __init__(self, number: int, place: Place, driver: NodeDriver, collab: str, token: str) -> None:
        self.number = number
        self.place = place
        self._driver = driver
        self._collab = collab
        self._token = token
        self.expected: dict[str, Json] = {}

    async def run(self, shared: str) -> None:
        """Open, play, agree, close."""
        names = {f"{self.number}-{kind}": kind for kind in KINDS}
        names[f"{self.number}-twin"] = "hocuspocus-4.8-session"
        specs = [
            spec_of(
                kind,
                name,
                self._collab,
                self.place.diagram,
                self._token,
                seed=self.number * 100 + index,
                socket=shared if kind.endswith("-shared") else str(self.number),
            )
            for index, (name, kind) in enumerate(names.items())
        ]
        python = PycrdtClient(self._collab, self.place.diagram, self._token, self.number)
        await self._driver.open(specs)
        await asyncio.gather(self._driver.wait(list(names), "synced"), python.online())
        await asyncio.gather(
            self._driver.call("play", names=list(names), steps=STEPS, interruptions=INTERRUPTIONS),
            play_python(python, self.number),
        )
        await self._agree(list(names), python)
        for name in names:
            report = await self._driver.report(name)
            assert ([], None) == (report["violations"], report["pending"]), f"seed {self.number}: {name}"
        await python.offline()
        await self._driver.close(list(names), [f"{self.number}-session"])

    async def _agree(self, names: list[str], python: PycrdtClient) -> None:
        """Wait until all hold the same. Python may still be sending when the others agree."""
        deadline = asyncio.get_running_loop().time() + 30
        while True:
            agreed = await self._driver.call("agree", groups=[names], timeout_ms=30_000)
            assert [] == agreed["unequal"], f"seed {self.number}"
            self.expected = agreed["reports"][0]
            held = {"content": python.content(), "state_vector": python.state_vector()}
            if held == {key: self.expected[key] for key in held}:
                return
            if asyncio.get_running_loop().time() > deadline:
                assert self.expected["content"] == held["content"]
                assert self.expected["state_vector"] == held["state_vector"]
            await asyncio.sleep(0.05)

    async def reload(self) -> None:
        """A fresh client of the restarted service holds the same."""
        name = f"{self.number}-reloaded"
        await self._driver.open(
            [spec_of(KINDS[self.number % 4], name, self._collab, self.place.diagram, self._token)]
        )
        await self._driver.wait([name], "synced")
        report = await self._driver.report(name)
        assert self.expected["content"] == report["content"], f"seed {self.number}"
        assert self.expected["state_vector"] == report["state_vector"], f"seed {self.number}"
        await self._driver.close([name])

    async def compare_rest(self, rest: Rest, person: Person) -> None:
        """REST shows the cells that the clients hold."""
        shown = {cell["id"]: cell for cell in (await rest.diagram(person, self.place))["cells"]}
        held: dict[str, dict[str, Json]] = self.expected["content"]["cells"]
        assert held.keys() == shown.keys(), f"seed {self.number}"
        for cell_id, cell in held.items():
            assert cell == {key: shown[cell_id].get(key) for key in cell}, f"seed {self.number}"


async def run_all(seeds: list[Seed], driver: NodeDriver) -> list[str]:
    """Run seeds a few at a time; returns the failures in words, so that one does not hide the others."""
    failures: list[str] = []
    for start in range(0, len(seeds), AT_ONCE):
        batch = seeds[start : start + AT_ONCE]
        shared = f"batch-{start}"
        outcomes = await asyncio.gather(*(seed.run(shared) for seed in batch), return_exceptions=True)
        failures += [
            f"seed {seed.number}: {outcome!r}"
            for seed, outcome in zip(batch, outcomes, strict=True)
            if isinstance(outcome, BaseException)
        ]
        await driver.close([], [f"{shared}-{kind}" for kind in KINDS if kind.endswith("-shared")])
    return failures


@pytest.mark.timeout(60 + 10 * (SEEDS + len(FAILED_ONCE)))
async def test_all_kinds_of_clients_agree_and_so_does_a_restarted_service(tmp_path: Path) -> None:
    numbers = list(dict.fromkeys((*FAILED_ONCE, *range(FIRST, FIRST + SEEDS))))
    with Service(tmp_path / "data", LONG_LIVED_TOKENS) as service, NodeDriver() as driver:
        async with Rest(service.url) as rest:
            alice = await rest.sign_in("alice")
            model = await rest.create_model(alice)
            token = await rest.collab_token(alice)
            seeds = [
                Seed(number, await rest.create_diagram(alice, model), driver, service.collab, token)
                for number in numbers
            ]
        assert [] == await run_all(seeds, driver)
        assert 0 == await asyncio.to_thread(service.stop)
        await asyncio.to_thread(service.start)
        async with Rest(service.url) as rest:
            for seed in seeds:
                await seed.compare_rest(rest, alice)
        for start in range(0, len(seeds), AT_ONCE):
            await asyncio.gather(*(seed.reload() for seed in seeds[start : start + AT_ONCE]))
        assert [] == [line for line in driver.complaints if "already imported" in line]
