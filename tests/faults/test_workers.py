"""Several processes on one port: real clients of both, figures of both, and what becomes of a killed one."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from persistence.postgres.single_writer import LOCK as WRITER_LOCK
from tests.faults.conftest import OwnPostgres
from tests.harness.kinds import spec_of
from tests.harness.ledger import Ledger, Writers, loaded_by_a_fresh_client
from tests.harness.node import NodeDriver
from tests.harness.rest import Place, Rest
from tests.harness.service import (
    ADMINISTRATOR,
    Service,
    children_of,
    free_port,
    is_running,
    running,
    wait_for,
)

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


async def test_nobody_outlives_a_killed_parent_and_the_next_one_answers_from_the_first_moment_on(
    service: Service,
) -> None:
    children = children_of(service.pid)
    assert len(children) >= WORKERS + 2, "workers, PostgreSQL and Valkey"
    os.kill(service.pid, signal.SIGKILL)
    service.wait(10)
    await asyncio.to_thread(
        wait_for, lambda: not any(map(is_running, children)), 15, "the end of all children"
    )
    is_ready = asyncio.Event()
    asking = asyncio.create_task(never_refused(service, is_ready))
    await asyncio.to_thread(service.start)
    is_ready.set()
    assert await asking > 10


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


# --- workers of two machines --------------------------------------------------------------------

EACH = 6
"""Clients of a room at each machine, at first: one in 32 times all come to the same worker."""
EACH_MAX = 40
"""More come until each worker has one; so many of one machine never come to the same worker."""
STOP_S = 10.0


def on_another_machine(folder: Path) -> list[str]:
    """A command's prefix: it takes this machine for another one. Nothing where that is not possible."""
    identity = folder / "boot-id"
    identity.write_text(f"{uuid4()}\n")
    mount = f"mount --bind {identity} /proc/sys/kernel/random/boot_id && exec "
    prefix = ["unshare", "--mount", "sh", "-c", f'{mount}"$@"', "sh"]
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as why:
        print(f"no mount namespaces ({why}): all workers are linked by Unix sockets")
        return []
    return prefix


def free_ports(count: int) -> list[int]:
    """Ports in a row that were free a moment ago."""
    while True:
        first = free_port()
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, OverflowError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return list(range(first, first + count))


def connections_to(ports: set[int]) -> int:
    """Established TCP connections to ports of the loopback interface, in both directions counted once."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return sum(row[3] == "01" and int(row[2].rpartition(":")[2], 16) in ports for row in rows)


async def never_refused(service: Service, until: asyncio.Event) -> int:
    """Ask a starting service whether it lives; returns how often it was asked once it had the port."""
    asked = 0
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as http:
        while not until.is_set():
            try:
                status = (await http.get("/livez", headers={"Connection": "close"})).status_code
            except httpx.ConnectError:
                assert not asked, "the port was refused after it had been answered"
            else:
                assert status == 200
                asked += 1
            await asyncio.sleep(0.005)
    return asked


async def test_workers_of_two_machines_are_one_deployment(
    tmp_path: Path, own_postgres: OwnPostgres, valkey_url: str, driver: NodeDriver
) -> None:
    ports = free_ports(2)
    here = {"TMI_NODE_LISTEN": f"127.0.0.1:{ports[0]}-{ports[-1]}"}
    there = {"TMI_NODE_LISTEN": "0.0.0.0:0", "TMI_NODE_URL": "ws://127.0.0.1:0"}
    common = {"TMI_WORKERS": "2", "TMI_REDIS_URL": valkey_url, "TMI_DRAIN_SPREAD_S": "1"}
    prefix = on_another_machine(tmp_path)
    one = Service(tmp_path / "one", {**common, **here, "TMI_NODE_NAME": "one"}, own_postgres.url)
    two = Service(
        tmp_path / "two", {**common, **there, "TMI_NODE_NAME": "two"}, own_postgres.url, prefix=prefix
    )
    with running(one, two):
        async with Rest(one.url) as rest:
            admin = await rest.sign_in(ADMINISTRATOR)
            place = await rest.create_place(admin)
            token = await rest.collab_token(admin)
        names: list[str] = []

        async def another_at_each() -> None:
            came = [f"{service.data.name}-{len(names) // 2}" for service in (one, two)]
            for name, service in zip(came, (one, two), strict=True):
                await driver.open([spec_of("y-websocket-3.1", name, service.collab, place.diagram, token)])
            names.extend(came)
            await driver.wait(came, "synced")

        for _ in range(EACH):
            await another_at_each()
        async with httpx.AsyncClient(base_url=two.url, headers=admin.headers, trust_env=False) as http:
            nodes = await known(http, 4)
            listening = {urlsplit(node["url"]).port for node in nodes}
            assert set(ports) < listening
            # The kernel chooses the worker by a hash of the client's port.
            while min(node["sessions"] for node in nodes) == 0:
                assert len(names) < 2 * EACH_MAX, "a worker gets no client"
                await another_at_each()
                nodes = await known(http, 4)
            for node in nodes:
                await driver.call("stream", stream="edits", names=names, per_second=50, prefix=node["name"])
                await asyncio.sleep(0.3)
                await own(http, place, node)
                await asyncio.sleep(0.3)
                await driver.call("stop_stream", stream="edits")
            await driver.wait(names, "settled", 60)
            ways = connections_to({port for port in listening if port is not None})
            assert bool(prefix) == bool(ways), "machines are linked by TCP, and workers by Unix sockets"
            assert [] == (await driver.call("agree", groups=[names], timeout_ms=60_000))["unequal"]
            assert {} == {name: closes for name in names if (closes := (await driver.report(name))["closes"])}
            # A whole machine stops: its rooms go to the other one, whose clients notice nothing.
            owner = next(node for node in nodes if node["name"].startswith("one/"))
            await own(http, place, owner)
            await driver.call("stream", stream="edits", names=names, per_second=50, prefix="stop")
            await asyncio.sleep(0.3)
            begun_at = time.monotonic()
            assert 0 == await asyncio.to_thread(one.stop)
            assert time.monotonic() - begun_at < STOP_S
            await driver.call("stop_stream", stream="edits")
            remaining = [name for name in names if name.startswith("two-")]
            await driver.wait(remaining, "settled", 60)
            assert {} == {
                name: closes for name in remaining if (closes := (await driver.report(name))["closes"])
            }
            rooms = (await http.get("/admin/rooms")).raise_for_status().json()["rooms"]
            assert ["two"] == [room["node_name"].partition("/")[0] for room in rooms]
        assert "could not be handed" not in one.output()
        ledger = await Ledger.read(driver, names)
        loaded = await loaded_by_a_fresh_client(driver, two, place, token)
        assert set() == ledger.acknowledged - loaded["content"]["meta"].keys()


async def own(http: httpx.AsyncClient, place: Place, node: dict[str, Any]) -> None:
    """Have this node own the room."""
    moved = await http.post(f"/admin/rooms/{place.diagram}/move", json={"node_id": node["id"]})
    if moved.status_code != 409:  # it is there already
        moved.raise_for_status()
    rooms = (await http.get("/admin/rooms")).raise_for_status().json()["rooms"]
    assert [node["id"]] == [room["node_id"] for room in rooms if room["id"] == place.diagram]


async def known(http: httpx.AsyncClient, count: int) -> list[dict[str, Any]]:
    """All nodes, once they know each other."""
    nodes: list[dict[str, Any]] = []
    async with asyncio.timeout(15):
        while len(nodes) != count:
            nodes = (await http.get("/admin/nodes")).raise_for_status().json()["nodes"]
            await asyncio.sleep(0.05)
    return nodes


# --- one service per database without Redis -----------------------------------------------------


async def test_a_second_service_is_refused_while_workers_run_and_they_end_when_one_takes_the_database(
    tmp_path: Path, own_postgres: OwnPostgres
) -> None:
    url = own_postgres.url

    async def refused(name: str, **environment: str) -> str:
        done = await asyncio.to_thread(
            run_to_its_end, tmp_path / name, TMI_DATABASE_URL=url, TMI_PORT="0", **environment
        )
        assert 1 == done.returncode
        return done.stderr.splitlines()[-1]

    said = "tmi: Another tmi service already uses this database. Several need TMI_REDIS_URL, each of them."
    with Service(tmp_path / "workers", {"TMI_WORKERS": "2"}, url) as workers:
        second, lone = await asyncio.gather(refused("second"), refused("lone", TMI_WORKERS="1"))
        assert (said, said) == (second, lone)
        children = children_of(workers.pid)
        other, killer = [await asyncpg.connect(own_postgres.admin_url) for _ in range(2)]
        taking = asyncio.create_task(other.execute("SELECT pg_advisory_lock($1)", WRITER_LOCK))
        await asyncio.sleep(0.2)
        await killer.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        )
        await taking
        assert 1 == await asyncio.to_thread(workers.wait, 30)
        assert not any(map(is_running, children))
        # The other way round.
        assert said == await refused("again")
        await killer.close()
        await other.close()
    told = [line for line in workers.output().splitlines() if "another tmi service has taken" in line]
    assert 1 == len(told)


async def test_what_cannot_be_saved_at_the_end_is_told_by_status_3(
    tmp_path: Path, own_postgres: OwnPostgres, driver: NodeDriver
) -> None:
    with Service(tmp_path / "data", {"TMI_WORKERS": "2", "TMI_DRAIN_S": "1"}, own_postgres.url) as service:
        writers = Writers(driver, service)
        await writers.open(1)
        own_postgres.kill()
        await driver.call("stream", stream="edits", names=writers.names, per_second=50, prefix="lost")
        await asyncio.sleep(0.3)
        await driver.call("stop_stream", stream="edits")
        status = await asyncio.to_thread(service.stop)
        assert 3 == status
        assert f"edits of room {writers.places[0].diagram} are unsaved" in service.output()


def run_to_its_end(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {"TMI_WORKERS": "2", **environment}
    return subprocess.run(
        [sys.executable, "-m", "tmi.cli", "serve", "--dev", "--data-dir", str(folder)],
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
