"""`tmi serve` as an operator meets it: what it prints, what it answers, how it ends."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest

from persistence.postgres.migrate import LOCK as MIGRATION_LOCK
from persistence.postgres.single_writer import LOCK as WRITER_LOCK
from tests.harness.service import Service, free_port, wait_for

NO_ANSWER = "postgresql://tmi:hidden@127.0.0.1:1/tmi"
WAIT_S = 30.0


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without its settings."""
    return {key: value for key, value in os.environ.items() if not key.startswith("TMI_")} | dict(extra)


def tmi(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "tmi.cli", *arguments],
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_refused(done: subprocess.CompletedProcess[str], status: int, line: str) -> None:
    """It ended with one line for people, besides logs, and no traceback."""
    said = [text for text in done.stderr.splitlines() if not text.startswith("{")]
    assert ([], status, "") == (said[1:], done.returncode, done.stdout)
    assert line in said[0]
    assert "Traceback" not in done.stderr
    assert "hidden" not in done.stderr


@contextmanager
def listening() -> Iterator[int]:
    """A port that is taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


# --- when it can't start ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "settings", "status", "line"),
    [
        (["--dev", "--host", "0.0.0.0"], {}, 2, "--dev-insecure-host"),
        ([], {"TMI_DRAIN": "3"}, 2, "There is no setting TMI_DRAIN. Did you mean TMI_DRAIN_S?"),
        ([], {"TMI_DRAIN_S": "soon"}, 2, "TMI_DRAIN_S: "),
        (["--port", "65536"], {}, 2, "TMI_PORT: "),
        (
            [],
            {"TMI_DATABASE_URL_FILE": "/nowhere/url"},
            2,
            "TMI_DATABASE_URL_FILE /nowhere/url can't be read",
        ),
        (["--port", "0"], {"TMI_DATABASE_URL": NO_ANSWER}, 1, "The database can't be reached: "),
        (["--port", "0"], {"TMI_DATABASE_URL": f"{NO_ANSWER}?sslmode=odd"}, 1, "URL is malformed"),
        (["--port", "0"], {"TMI_DATABASE_URL": "postgresql://tmi:hidden@h:odd/tmi"}, 1, "URL is malformed"),
        (
            ["--port", "0", "--data-dir", "/proc/nowhere"],
            {},
            1,
            "The data directory /proc/nowhere can't be used",
        ),
        (["--host", "192.0.2.1", "--port", "0"], {}, 1, "Can't listen on 192.0.2.1"),
        (["--host", "no such host", "--port", "0"], {}, 1, "Can't listen on no such host"),
    ],
)
def test_what_keeps_it_from_starting_is_one_line_and_a_status(
    arguments: list[str], settings: dict[str, str], status: int, line: str
) -> None:
    assert_refused(tmi("serve", *arguments, **settings), status, line)


def test_a_taken_port_is_found_before_anything_is_made(tmp_path: Path) -> None:
    with listening() as port:
        done = tmi("serve", "--port", str(port), "--data-dir", str(tmp_path / "data"))
    assert_refused(done, 1, f"Can't listen on 127.0.0.1 port {port}: Address already in use.")
    assert not (tmp_path / "data").exists()


def test_a_second_service_on_the_same_data_or_database_says_so(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Service(data):
        assert_refused(
            tmi("serve", "--port", "0", "--data-dir", str(data)), 1, f"{data} is in use by another"
        )
        url = f"postgresql://tmi@/tmi?host={data}/run"
        assert_refused(tmi("serve", "--port", "0", TMI_DATABASE_URL=url), 1, "Another tmi service")


# --- when it runs -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_ready_and_ends_with_0_on_a_signal(
    database_url: str, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "tmi.cli", "serve", "--dev", "--port", "0"]
    process = subprocess.Popen(
        command,
        env=environment({"TMI_DATABASE_URL": database_url}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert line.startswith("TMI is ready at http://127.0.0.1:")
        url = line.split()[-1]
        for path in ("/livez", "/readyz", "/openapi.json"):
            assert 200 == httpx.get(url + path, trust_env=False).status_code
        process.send_signal(number)
        _, logs = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
        process.communicate()
    assert 0 == process.returncode
    assert ["draining"] == [json.loads(entry)["event"] for entry in logs.decode().splitlines()]


def test_stopped_while_starting_it_ends_with_0_and_leaves_no_server(tmp_path: Path) -> None:
    data = tmp_path / "data"
    command = [sys.executable, "-m", "tmi.cli", "serve", "--port", "0", "--data-dir", str(data)]
    process = subprocess.Popen(command, env=environment({}), stderr=subprocess.DEVNULL)
    wait_for(lambda: any(data.glob("postgres.new-*")), WAIT_S, "the making of a cluster")
    process.terminate()
    assert 0 == process.wait(WAIT_S)
    assert [] == list(data.glob("postgres*/"))


async def test_it_lives_and_is_not_ready_until_migrations_are_checked(empty_database_url: str) -> None:
    other = await asyncpg.connect(empty_database_url)
    await other.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK)
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tmi.cli", "serve", "--port", str(port)),
        env=environment({"TMI_DATABASE_URL": empty_database_url}),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            async with asyncio.timeout(WAIT_S):
                while not await answers(client):
                    await asyncio.sleep(0.05)
            assert (200, 503, 503) == tuple(
                [(await client.get(path)).status_code for path in ("/livez", "/readyz", "/me")]
            )
            await other.execute("SELECT pg_advisory_unlock($1)", MIGRATION_LOCK)
            assert process.stdout is not None
            async with asyncio.timeout(WAIT_S):
                assert (await process.stdout.readline()).startswith(b"TMI is ready at ")
            ready = await client.get("/readyz")
            assert (200, "ok") == (ready.status_code, ready.json()["status"])
    finally:
        await other.close()
        process.terminate()
    assert 0 == await process.wait()


async def answers(client: httpx.AsyncClient) -> bool:
    """Whether anything listens."""
    try:
        await client.get("/livez")
    except httpx.TransportError:
        return False
    return True


async def test_a_service_whose_database_another_has_taken_ends_with_1(
    tmp_path: Path, database_url: str
) -> None:
    with Service(tmp_path / "data", database_url=database_url) as service:
        other = await asyncpg.connect(database_url)
        taking = asyncio.create_task(other.execute("SELECT pg_advisory_lock($1)", WRITER_LOCK))
        await asyncio.sleep(0.2)
        killer = await asyncpg.connect(database_url)
        await killer.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        )
        await taking
        assert 1 == await asyncio.to_thread(service.wait, WAIT_S)
        await other.close()
        await killer.close()
    assert "another tmi service has taken the database" in service.output()


def test_outside_development_nobody_signs_in_by_name(database_url: str) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "tmi.cli", "serve", "--port", str(port)],
        env=environment({"TMI_DATABASE_URL": database_url}),
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        query = {
            "idp": "tmi",
            "login_hint": "alice",
            "client_callback": "http://127.0.0.1/callback",
            "state": "s",
        }
        answer = httpx.get(f"http://127.0.0.1:{port}/oauth2/authorize", params=query, trust_env=False)
        assert answer.status_code in (400, 404)
        assert "location" not in answer.headers
    finally:
        process.terminate()
        process.communicate(timeout=WAIT_S)


# --- the other commands -------------------------------------------------------------------------


def test_migrate_applies_what_is_missing_once(empty_database_url: str) -> None:
    first = tmi("migrate", TMI_DATABASE_URL=empty_database_url)
    second = tmi("migrate", TMI_DATABASE_URL=empty_database_url)
    assert (0, 0, "The database is up to date.\n") == (first.returncode, second.returncode, second.stdout)
    assert first.stdout.startswith("Applied 0001_")


def test_the_version_is_shown() -> None:
    assert "tmi 0.1.0\n" == tmi("--version").stdout
