"""Chaos: three nodes under load, everything that can go wrong, and a ledger of what clients know to be saved.

While it lasts, whatever a client was told is saved must be in PostgreSQL, asked by itself, at any moment.
When all is healed, every client, every node (a newcomer and REST) and PostgreSQL must have the same JSON and
state vectors, with every edit that anybody made; fences rise along the log; nobody sees clients who are gone.

`TMI_CHAOS_S` says for how many seconds things go wrong, `TMI_CHAOS_SEED` where seeds begin, `TMI_CHAOS_SEEDS`
how many are tried. A seed that failed gets a name in NAMED, and is tried from then on by `make chaos`.
"""

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.chaos import Chaos, plan
from tests.faults.conftest import OwnPostgres
from tests.harness.cluster import NAMES, Cluster, running_cluster
from tests.harness.crowd import ALL_KINDS, Crowd, percentile
from tests.harness.kinds import spec_of
from tests.harness.ledger import Ledger
from tests.harness.node import NodeDriver
from tests.harness.rest import Rest, user
from tests.valkey import OwnValkey
from tmi.domain.errors import DatabaseUnavailable

CHAOS_S = float(os.environ.get("TMI_CHAOS_S", "300"))
SEED = int(os.environ.get("TMI_CHAOS_SEED", "1"))
SEEDS = int(os.environ.get("TMI_CHAOS_SEEDS", "1"))
NAMED: dict[str, int] = {"somebody-whom-nobody-sees": 1, "somebody-taken-for-anothers-own": 26}
"""Seeds that failed once, by what was wrong."""

ROOMS = 2
EDITS_PER_SECOND = 60
GUEST_EDITS_PER_SECOND = 6
WITNESS_EVERY_S = 4.0
HEALED_S = 60.0
"""For everything to be acknowledged and equal once nothing is wrong any more."""
GHOSTS_S = 60.0
"""Clients themselves forget others after 30 s."""

TELLING = ("awareness", "closes", "opened", "connected", "synced", "received", "authenticated", "scope")
"""What a client's report says about its presence."""

Json = Any


def cases() -> list[Any]:
    """The seeds to try."""
    some = [pytest.param(seed, id=f"seed-{seed}") for seed in range(SEED, SEED + SEEDS)]
    named = [pytest.param(seed, id=name) for name, seed in NAMED.items()] if SEEDS > 1 else []
    return named + some


class Run:
    """One seed on a cluster of its own."""

    def __init__(self, cluster: Cluster, crowd: Crowd) -> None:
        self.cluster = cluster
        self.crowd = crowd
        self.guests: list[str] = []
        self.chaos: Chaos
        self.looks = 0

    async def open(self) -> None:
        some = ("y-websocket-3.1", "hocuspocus-4.8", "y-websocket-2.1")
        await self.crowd.open(ROOMS, {"a": ALL_KINDS, "b": some, "c": some})
        everyone = self.crowd.names
        async with Rest(self.cluster["a"].service.url) as rest:
            guest = await rest.sign_in("bob")
            model = self.crowd.places[0].model
            await rest.grant(self.crowd.person, model, user("bob", "writer"))
            token = await rest.collab_token(guest)
        for node, kind in zip(NAMES, ("y-websocket-3.1", "hocuspocus-4.8", "hocuspocus-3.4"), strict=True):
            await self.crowd.add(node, [0], [kind], token, by="-guest")
        self.guests = [name for name in self.crowd.names if name not in everyone]
        await self.crowd.driver.wait(self.guests, "synced")
        for name in self.crowd.names:
            await self.crowd.driver.call("presence", name=name, state={"name": name})
        self.chaos = Chaos(self.cluster, self.crowd, "bob", self.crowd.token)

    async def suffer(self, seed: int, seconds: float) -> None:
        """Edit while things go wrong."""
        await self.crowd.stream("edits", [n for n in self.crowd.names if n not in self.guests],
                                EDITS_PER_SECOND, mixed=5)  # fmt: skip
        await self.crowd.stream("guests", self.guests, GUEST_EDITS_PER_SECOND)
        async with self._witness():
            await self.chaos.run(plan(seed, seconds))
        self.chaos.note("all is healed")
        await self.crowd.stop("edits")
        await self.crowd.stop("guests")

    @contextlib.asynccontextmanager
    async def _witness(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._look_again_and_again())
            yield
            task.cancel()

    async def _look_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(WITNESS_EVERY_S)
            await self.assert_what_is_acknowledged_is_saved()

    async def assert_what_is_acknowledged_is_saved(self) -> None:
        """Ask PostgreSQL itself, past all nodes; later, if it is away."""
        for room, place in enumerate(self.crowd.places):
            ledger = await Ledger.read(self.crowd.driver, self.crowd.in_room(room))
            assert [] == await self.crowd.violations()
            with contextlib.suppress(DatabaseUnavailable):
                stored = await self.cluster.stored(place)
                assert frozenset() == ledger.acknowledged - stored["content"]["meta"].keys()
                self.looks += 1

    # --- when all is healed -------------------------------------------------------------------------

    async def check(self) -> str:
        """Returns the figures, in words."""
        self.cluster.heal()
        for node in self.cluster.nodes.values():
            assert node.service.is_alive, f"node {node.name} ended: {node.service.output()[-4000:]}"
        await self.chaos.set_role("writer")
        # What they made as readers was refused; a new connection offers it.
        await self.crowd.driver.call("drop", names=self.guests)
        healed_s = await self.crowd.until_acknowledged(self.crowd.names, HEALED_S)
        groups = [self.crowd.in_room(room) for room in range(ROOMS)]
        agreed = await self.crowd.driver.call("agree", groups=groups, timeout_ms=HEALED_S * 1000)
        assert [] == agreed["unequal"]
        await self.assert_what_is_acknowledged_is_saved()
        assert [] == await self.cluster.stale_writes()
        for room, report in enumerate(agreed["reports"]):
            await self._check_room(room, report)
        await self._check_presence(groups)
        assert [] == self.cluster.own_bugs()
        assert self.looks > 0
        # Guests' edits wait for their role.
        others = [name for name in self.crowd.names if name not in self.guests]
        edits = [edit for some in (await self.crowd.edits(others)).values() for edit in some]
        waits_s = [(edit.acknowledged_at or 0.0) - edit.made_at for edit in edits]
        return (
            f"{len(edits)} edits, {self.looks} looks at PostgreSQL, all acknowledged {healed_s:.1f} s after "
            f"the end; an edit waited {percentile(waits_s, 0.5):.3f} s (p50), "
            f"{percentile(waits_s, 0.99):.1f} s (p99), {max(waits_s):.1f} s (longest)"
        )

    async def _check_room(self, room: int, report: Json) -> None:
        """What all clients have, newcomers are given by each node, REST shows, and PostgreSQL holds."""
        place = self.crowd.places[room]
        held = {key: report[key] for key in ("content", "state_vector")}
        made = (await Ledger.read(self.crowd.driver, self.crowd.in_room(room))).made
        assert frozenset() == made - held["content"]["meta"].keys()
        stored = await self.cluster.stored(place)
        assert held == stored
        vectors = set()
        for node in self.cluster.nodes.values():
            name = f"fresh-{room}-{node.name}"
            await self.crowd.driver.open(
                [spec_of("y-websocket-3.1", name, node.collab, place.diagram, self.crowd.token)]
            )
            await self.crowd.driver.wait([name], "synced")
            fresh = await self.crowd.driver.report(name)
            await self.crowd.driver.close([name])
            assert held == {key: fresh[key] for key in held}, f"a newcomer at node {node.name}"
            async with Rest(node.service.url) as rest:
                shown = await rest.diagram(self.crowd.person, place)
            vectors.add(shown["update_vector"])
            cells = {cell["id"]: cell for cell in shown["cells"]}
            assert held["content"]["cells"].keys() == cells.keys(), f"REST at node {node.name}"
            for cell_id, cell in held["content"]["cells"].items():
                assert cell == {key: cells[cell_id].get(key) for key in cell}, f"REST at node {node.name}"
        assert 1 == len(vectors)

    async def _check_presence(self, groups: list[list[str]]) -> None:
        """Everybody sees whoever is here, and nobody who has gone."""
        deadline = time.monotonic() + GHOSTS_S
        while wrong := [text for names in groups for text in await self._wrong_presence(names)]:
            assert time.monotonic() < deadline, "\n".join(wrong)
            await asyncio.sleep(1)

    async def _wrong_presence(self, names: list[str]) -> list[str]:
        reports = await self.crowd.driver.call("report", names=names)
        ids = {str(report["client_id"]): name for name, report in reports.items()}
        wrong = []
        for name, report in reports.items():
            missing = [ids[key] for key in ids.keys() - report["awareness"].keys()]
            ghosts = [report["awareness"][key] for key in report["awareness"].keys() - ids.keys()]
            if missing or ghosts:
                about = {one: {k: v for k, v in reports[one].items() if k in TELLING} for one in missing}
                wrong.append(f"{name} misses {about} and sees {ghosts}")
        return wrong


@pytest.mark.timeout(CHAOS_S + 300)
@pytest.mark.parametrize("seed", cases())
async def test_whatever_goes_wrong_what_is_acknowledged_is_saved_and_in_the_end_all_agree(
    seed: int,
    tmp_path: Path,
    own_postgres: OwnPostgres,
    own_valkey: OwnValkey,
    driver: NodeDriver,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with running_cluster(tmp_path, own_postgres, own_valkey) as cluster:
        run = Run(cluster, Crowd(driver, cluster))
        await run.open()
        try:
            await run.suffer(seed, CHAOS_S)
            words = await run.check()
        except BaseException:
            file = Path(tempfile.gettempdir()) / f"tmi-chaos-{seed}-{int(time.time())}.log"
            file.write_text("\n".join(run.chaos.log) + "\n")
            with capsys.disabled():
                print(f"\nTMI_CHAOS_SEED={seed} TMI_CHAOS_S={CHAOS_S:g} failed; what happened: {file}")
                print("\n".join(run.chaos.log[-200:]))
                print(f"the nodes' logs: {tmp_path}")
            raise
    with capsys.disabled():
        print(f"\nseed {seed}, {CHAOS_S:g} s, {len(run.chaos.log)} events: {words}")


def test_a_plan_depends_on_its_seed_alone_and_a_shorter_one_begins_a_longer_one() -> None:
    long, short = plan(7, 300), plan(7, 60)
    assert long == plan(7, 300) != plan(8, 300)
    assert short == long[: len(short)]
