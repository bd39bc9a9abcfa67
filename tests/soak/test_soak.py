"""200 clients, 10 reconnects a second, edits and cursors: nothing may grow but the log on disk.

Two minutes here; `make soak` takes two hours, and only that is long enough to tell a slope of memory.
"""

import asyncio
import json
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.harness.rest import Rest
from tests.harness.service import Service, children_of
from tests.soak.crowd import Crowd, Work

SOAK_S = float(os.environ.get("TMI_SOAK_S", "120"))
REPORT = os.environ.get("TMI_SOAK_REPORT")
IS_LONG = SOAK_S >= 3600
WARM_UP_S = SOAK_S / 4
SAMPLES = 240
ROOM_LIFE_S = 300.0 if IS_LONG else 20.0
SLOPE_MAX_BYTES_PER_H = 1024 * 1024
GROWTH_MAX_BYTES = 1536 * 1024
"""From half to half of a short run, 45 s. Measured: 0.04 MiB; 2.5 MiB while closed rooms were not freed."""
SETTLE_S = 30.0
ENVIRONMENT = {
    "TMI_ROOM_IDLE_S": "2",
    "TMI_ACCESS_TOKEN_TTL_S": "86400",
    "TMI_COLLAB_TOKEN_TTL_S": "86400",
    "TMI_LOG_LEVEL": "warning",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """The service at one moment."""

    at_s: float
    resident_bytes: float
    descriptors: float
    tasks: float
    sockets: float
    rooms: float
    connections: float
    backends: int
    """Processes of PostgreSQL, of which each connection has one."""


class Observer:
    """Takes samples from /metrics and /proc."""

    def __init__(self, service: Service, http: httpx.AsyncClient) -> None:
        self._service = service
        self._http = http
        self._began = asyncio.get_running_loop().time()

    async def sample(self) -> Sample:
        answer = (await self._http.get(f"{self._service.url}/metrics")).raise_for_status()
        told = {
            sample.name: sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
            if not sample.labels
        }
        return Sample(
            asyncio.get_running_loop().time() - self._began,
            told["process_resident_memory_bytes"],
            told["process_open_fds"],
            told["tmi_tasks"],
            told["tmi_sockets"],
            told["tmi_rooms"],
            told["tmi_database_connections"],
            sum(len(children_of(postgres.pid)) for postgres in self._service.embedded_postgres()),
        )

    async def while_working(self, for_s: float) -> list[Sample]:
        taken: list[Sample] = []
        for _ in range(SAMPLES):
            await asyncio.sleep(for_s / SAMPLES)
            taken.append(await self.sample())
        return taken


def slope_per_h(samples: Sequence[Sample]) -> float:
    """Growth of the resident memory by least squares, in bytes an hour."""
    line = statistics.linear_regression(
        [sample.at_s for sample in samples], [sample.resident_bytes for sample in samples]
    )
    return line.slope * 3600


def report(samples: Sequence[Sample], crowd: Crowd, slope: float) -> None:
    """Print what was seen, and keep the samples where `TMI_SOAK_REPORT` says."""
    first, last = samples[0], samples[-1]
    print(
        f"{SOAK_S:.0f} s: {crowd.edits} edits, {crowd.reconnects} reconnects, {crowd.moves} rooms left; "
        f"resident {first.resident_bytes / 2**20:.1f} -> {last.resident_bytes / 2**20:.1f} MiB, "
        f"slope {slope / 2**20:+.2f} MiB/h"
    )
    if REPORT is not None:
        Path(REPORT).write_text(json.dumps([asdict(sample) for sample in samples]))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with Service(tmp_path / "data", ENVIRONMENT) as service:
        yield service


@pytest.mark.timeout(SOAK_S + 300)
async def test_nothing_grows_while_two_hundred_clients_come_and_go(service: Service) -> None:
    async with Rest(service.url) as rest, httpx.AsyncClient(trust_env=False, timeout=30) as http:
        alice = await rest.sign_in("alice")
        token = await rest.collab_token(alice)
        observer = Observer(service, http)
        before = await observer.sample()
        work = Work(room_life_s=ROOM_LIFE_S)
        crowd = Crowd(rest, alice, token, service.port, work)
        try:
            await crowd.gather()
            async with crowd.at_work():
                warm_up = await observer.while_working(WARM_UP_S)
                samples = await observer.while_working(SOAK_S - WARM_UP_S)
            await crowd.agree(SETTLE_S)
            await crowd.disperse()
        finally:
            await crowd.vanish()
        after = await until_all_is_gone(observer, before)

    slope = slope_per_h(samples)
    report([*warm_up, *samples], crowd, slope)
    assert [] == [what for client in crowd.clients for what in client.unexpected]
    assert crowd.edits >= 0.8 * work.edits_per_s * SOAK_S
    assert crowd.reconnects >= 0.8 * work.reconnects_per_s * SOAK_S
    assert (0, 0) == (after.sockets, after.rooms)
    # What a keep-alive connection of our own, or a pool that has grown to its size, may add.
    assert after.tasks <= before.tasks + 2
    assert after.descriptors <= before.descriptors + 12
    assert after.backends <= before.backends + 12
    for sample in samples:
        assert sample.connections <= 12
        assert sample.descriptors - sample.sockets <= before.descriptors + 12 + 60
        assert sample.tasks <= before.tasks + 150
    half = len(samples) // 2
    early, late = (
        statistics.fmean(s.resident_bytes for s in part) for part in (samples[:half], samples[half:])
    )
    assert late - early < GROWTH_MAX_BYTES
    if IS_LONG:
        assert slope < SLOPE_MAX_BYTES_PER_H


async def until_all_is_gone(observer: Observer, before: Sample) -> Sample:
    """A sample once every room is closed and every task has ended, or the last one in time."""
    deadline = asyncio.get_running_loop().time() + SETTLE_S
    while True:
        sample = await observer.sample()
        is_gone = sample.rooms == 0 == sample.sockets and sample.tasks <= before.tasks + 2
        if is_gone or asyncio.get_running_loop().time() > deadline:
            return sample
        await asyncio.sleep(0.25)
