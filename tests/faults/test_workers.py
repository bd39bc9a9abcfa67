"""Several processes on one port: real clients of both, figures of both, and what becomes of a killed one."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.harness.ledger import Ledger, Writers
from tests.harness.node import NodeDriver
from tests.harness.rest import Rest
from tests.harness.service import ADMINISTRATOR, Service, children_of, is_running, wait_for

WORKERS = 2
ROOMS = 3
EDITS_PER_SECOND = 100


@pytest.fixture
def service(data: Path) -> Iterator[Service]:
    with Service(data, {"TMI_WORKERS": str(WORKERS)}) as service:
        yield service


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def workers_of(service: Service) -> list[int]:
    return [pid for pid in children_of(service.pid) if "tmi.cli worker" in command_of(pid)]


def by_worker(service: Service, name: str) -> dict[str, float]:
    """One figure of every worker; they hear of each other within a beat of their start."""
    found: dict[str, float] = {}

    def is_whole() -> bool:
        found.clear()
        found.update(_by_worker(service, name))
        return len(found) == WORKERS

    wait_for(is_whole, 15, f"{name} of every worker")
    return found


def _by_worker(service: Service, name: str) -> dict[str, float]:
    text = httpx.get(f"{service.url}/metrics", trust_env=False).raise_for_status().text
    return {
        sample.labels["worker"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and "worker" in sample.labels
    }


async def settled(driver: NodeDriver, writers: Writers) -> None:
    await driver.call("stop_stream", stream="edits")
    await settled_without_stream(driver, writers)


async def settled_without_stream(driver: NodeDriver, writers: Writers) -> None:
    await driver.wait(writers.names, "settled", 60)
    for place in writers.places:
        ledger = await writers.ledger(place)
        assert (ledger.made, ()) == (ledger.acknowledged, ledger.violations)
    groups = [writers.of(place) for place in writers.places]
    agreed = await driver.call("agree", groups=groups, timeout_ms=60_000)
    assert [] == agreed["unequal"]


async def test_clients_of_one_room_meet_whatever_worker_they_came_to(
    service: Service, driver: NodeDriver
) -> None:
    writers = Writers(driver, service)
    await writers.open(ROOMS)
    sockets = by_worker(service, "tmi_sockets")
    assert WORKERS == len(sockets)
    assert min(sockets.values()) > 0, "the kernel gave all connections to one"
    await driver.call(
        "stream", stream="edits", names=writers.names, per_second=EDITS_PER_SECOND, prefix="both"
    )
    await asyncio.sleep(2)
    await settled(driver, writers)
    rooms, replicas = by_worker(service, "tmi_rooms"), by_worker(service, "tmi_replicas")
    assert (ROOMS, 0) == (sum(rooms.values()), by_worker_silent(service))
    assert sum(replicas.values()) > 0, "nobody met anybody of another worker"
    # Whichever answers, the figures are those of all.
    assert {frozenset(sockets)} == {frozenset(by_worker(service, "tmi_sockets")) for _ in range(10)}


def by_worker_silent(service: Service) -> float:
    text = httpx.get(f"{service.url}/metrics", trust_env=False).text
    return next(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "tmi_workers_silent"
    )


async def test_a_killed_worker_loses_nothing_and_runs_again(service: Service, driver: NodeDriver) -> None:
    writers = Writers(driver, service)
    await writers.open(ROOMS)
    await driver.call(
        "stream", stream="edits", names=writers.names, per_second=EDITS_PER_SECOND, prefix="kill"
    )
    await asyncio.sleep(0.7)
    victim, survivor = workers_of(service)
    os.kill(victim, signal.SIGKILL)
    await asyncio.sleep(1)
    closed = {name: (await driver.report(name))["closes"] for name in writers.names}
    assert any(closed.values()), "nobody was with the killed worker"
    assert not all(closed.values()), "clients of the other worker were disconnected"
    await asyncio.to_thread(wait_for, lambda: len(workers_of(service)) == WORKERS, 20, "a second worker")
    await driver.wait(writers.names, "synced", 60)
    await settled(driver, writers)
    assert survivor in workers_of(service)
    assert victim not in workers_of(service)
    ledgers = {place.diagram: await writers.ledger(place) for place in writers.places}
    service.kill()
    await driver.call("offline", names=writers.names)
    await asyncio.to_thread(service.start)
    await writers.assert_nothing_acknowledged_is_lost(ledgers)


async def test_a_worker_that_is_drained_alone_hands_its_rooms_over(
    service: Service, driver: NodeDriver
) -> None:
    writers = Writers(driver, service)
    await writers.open(ROOMS)
    sockets = by_worker(service, "tmi_sockets")
    owner = max(sockets, key=lambda name: sockets[name])
    async with Rest(service.url) as rest:
        admin = await rest.sign_in(ADMINISTRATOR)
    async with httpx.AsyncClient(base_url=service.url, headers=admin.headers, trust_env=False) as http:
        nodes = (await http.get("/admin/nodes")).raise_for_status().json()["nodes"]
        drained = next(node["id"] for node in nodes if node["name"] == owner)
        (await http.post(f"/admin/nodes/{drained}/drain")).raise_for_status()
    number = int(owner.rpartition("-")[2])
    draining = '"draining", "level": "info", "logger": "tmi.serve"'
    await asyncio.to_thread(wait_for, lambda: draining in service.output(), 10, "the drain")
    begun_at = asyncio.get_running_loop().time()
    ended = f"worker {number} has ended with 0"
    await asyncio.to_thread(wait_for, lambda: ended in service.output(), 20, "the end of the worker")
    took_s = asyncio.get_running_loop().time() - begun_at
    assert took_s > 1, "its clients were closed at once, as if there was nobody else"
    await driver.wait(writers.names, "synced", 60)
    await settled_without_stream(driver, writers)


async def test_nobody_outlives_a_killed_parent(service: Service) -> None:
    children = children_of(service.pid)
    assert len(children) >= WORKERS + 2, "workers, PostgreSQL and Valkey"
    os.kill(service.pid, signal.SIGKILL)
    service.wait(10)
    await asyncio.to_thread(
        wait_for, lambda: not any(map(is_running, children)), 15, "the end of all children"
    )
    await asyncio.to_thread(service.start)


async def test_a_stop_commits_everything(service: Service, driver: NodeDriver) -> None:
    writers = Writers(driver, service)
    await writers.open(1)
    await driver.call(
        "stream", stream="edits", names=writers.names, per_second=EDITS_PER_SECOND, prefix="stop"
    )
    await asyncio.sleep(0.7)
    assert 0 == await asyncio.to_thread(service.stop)
    await driver.call("stop_stream", stream="edits")
    await driver.call("offline", names=writers.names)
    ledger: Ledger = await writers.ledger(writers.places[0])
    assert ledger.acknowledged
    await asyncio.to_thread(service.start)
    await writers.assert_nothing_acknowledged_is_lost({writers.places[0].diagram: ledger})


def run_to_its_end(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tmi.cli", "serve", "--dev", "--data-dir", str(folder), "--workers", "2"],
        env={**{k: v for k, v in os.environ.items() if not k.startswith("TMI_")}, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_port_that_is_taken_is_not_shared(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = run_to_its_end(tmp_path / "data", TMI_PORT=str(port))
    assert 1 == done.returncode
    assert f"Can't listen on 127.0.0.1 port {port}" in done.stderr


