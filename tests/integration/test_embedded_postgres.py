"""The embedded PostgreSQL: who may enter, what a kill leaves behind, and whom it runs as."""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest

from tests.harness.service import Service, is_running, wait_for
from tmi.domain.errors import StartupError
from tmi.embedded.account import choose_account
from tmi.embedded.data_directory import locked
from tmi.embedded.postgres import Places, embedded_postgres
from tmi.embedded.processes import postmaster_pid, processes_of

AS_ROOT = os.geteuid() == 0
WAIT_S = 30.0


@contextlib.asynccontextmanager
async def running(data: Path) -> AsyncIterator[str]:
    """An embedded server; yields its URL."""
    with locked(data) as folder:
        async with embedded_postgres(folder) as url:
            yield url


async def ask(url: str, sql: str) -> object:
    """The first value of a query's answer."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition without holding the loop."""
    await asyncio.to_thread(wait_for, condition, WAIT_S, what)


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A data directory that does not exist yet."""
    return tmp_path / "data"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a new cluster, for copying: making one takes a second."""
    data = tmp_path_factory.mktemp("made") / "data"

    async def make() -> None:
        async with running(data):
            pass

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, make()).result()
    return data


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """A data directory of the test's own, with a cluster."""
    subprocess.run(["cp", "-a", str(made), str(tmp_path)], check=True)
    return tmp_path / "data"


@pytest.fixture
def leftover(data: Path) -> Iterator[int]:
    """The postmaster of a service that was killed; it still runs."""
    with Service(data) as service:
        service.kill()
        pid = postmaster_pid(data / "postgres")
        assert pid is not None
        assert is_running(pid)
        yield pid


# --- who may enter ------------------------------------------------------------------------------


async def test_the_service_is_no_superuser_and_owns_its_database_alone(fresh: Path) -> None:
    async with running(fresh) as url:
        assert "tmi false false false" == await ask(
            url,
            "SELECT concat_ws(' ', rolname, rolsuper::text, rolcreaterole::text, rolcreatedb::text)"
            " FROM pg_roles WHERE rolname = current_user",
        )
        assert "tmi" == await ask(
            url,
            "SELECT string_agg(datname, ' ') FROM pg_database d WHERE pg_get_userbyid(datdba) = current_user",
        )
        assert "on on " == await ask(
            url,
            "SELECT concat_ws(' ', current_setting('fsync'), current_setting('data_checksums'),"
            " current_setting('listen_addresses'))",
        )


async def test_there_is_no_other_way_in_than_as_tmi(data: Path) -> None:
    async with running(data) as url:
        for user, database in (("postgres", "postgres"), ("postgres", "tmi"), ("tmi", "postgres")):
            with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
                await ask(url.replace("tmi@/tmi", f"{user}@/{database}"), "SELECT 1")


async def test_another_user_of_the_machine_does_not_reach_the_socket(data: Path) -> None:
    async with running(data) as url:
        folder = Path(url.partition("host=")[2])
        assert 0o700 == stat.S_IMODE(folder.stat().st_mode)
        assert choose_account(data / "postgres").uid == folder.stat().st_uid


async def test_a_socket_whose_path_would_be_too_long_lies_in_a_private_folder_elsewhere(
    tmp_path: Path,
) -> None:
    data = tmp_path / ("long-" * 20) / "data"
    async with running(data) as url:
        folder = Path(url.partition("host=")[2])
        assert (Path(tempfile.gettempdir()), 0o700) == (folder.parent, stat.S_IMODE(folder.stat().st_mode))
        assert 1 == await ask(url, "SELECT 1")
    folder.rmdir()


async def test_a_socket_folder_that_is_somebody_elses_is_not_used(tmp_path: Path) -> None:
    data = tmp_path / ("long-" * 20) / "data"
    data.mkdir(parents=True)
    folder = Places(data).sockets
    folder.symlink_to(tmp_path)
    try:
        with pytest.raises(StartupError, match=f"^{folder} is not "):
            async with running(data):
                pass
    finally:
        folder.unlink()


# --- life ---------------------------------------------------------------------------------------


async def test_what_was_written_is_there_at_the_next_start(data: Path) -> None:
    async with running(data) as url:
        await ask(url, "CREATE TABLE kept AS SELECT 42 AS number")
    assert set() == processes_of(data / "postgres")
    async with running(data) as url:
        assert 42 == await ask(url, "SELECT number FROM kept")


async def test_a_data_directory_in_use_is_refused_in_one_line(data: Path) -> None:
    with locked(data), pytest.raises(StartupError, match=f"^The data directory {data} is in use by another"):
        async with running(data):
            pass


async def test_a_server_that_dies_is_started_again(data: Path) -> None:
    async with running(data) as url:
        before = postmaster_pid(data / "postgres")
        assert before is not None
        os.kill(before, signal.SIGKILL)

        def is_back() -> bool:
            now = postmaster_pid(data / "postgres")
            return now not in (None, before) and len(processes_of(data / "postgres")) > 1

        await eventually(is_back, "a new server")
        async with asyncio.timeout(WAIT_S):
            while True:
                with contextlib.suppress(OSError, asyncpg.PostgresError):
                    assert 1 == await ask(url, "SELECT 1")
                    break
                await asyncio.sleep(0.05)


async def test_a_kill_while_the_cluster_is_made_heals_by_itself(fresh: Path) -> None:
    for delay_s in (0.05, 0.3, 0.6):
        process = await asyncio.to_thread(begin_service, fresh)
        begun = lambda: any(fresh.glob("postgres.new-*/*"))  # noqa: E731
        await eventually(begun, "the making of a cluster")
        await asyncio.sleep(delay_s)
        os.killpg(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.wait)
        stop_embedded(fresh)
    async with running(fresh) as url:
        assert 1 == await ask(url, "SELECT 1")
    assert [] == list(fresh.glob("postgres.new-*"))


def begin_service(data: Path) -> subprocess.Popen[bytes]:
    """A service that nobody waits for."""
    command = [sys.executable, "-m", "tmi.cli", "serve", "--port", "0", "--data-dir", str(data)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)


def stop_embedded(data: Path) -> None:
    """End the server that a killed service left, if it came so far, and forget its cluster."""
    cluster = data / "postgres"
    if cluster.exists():
        for pid in processes_of(cluster):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGQUIT)
        wait_for(lambda: not processes_of(cluster), WAIT_S, "the end of Postgres")
        shutil.rmtree(cluster)


# --- leftovers ----------------------------------------------------------------------------------


async def test_a_leftover_of_a_killed_service_is_ended_first(data: Path, leftover: int) -> None:
    async with running(data) as url:
        assert not is_running(leftover)
        assert True is await ask(url, "SELECT count(*) > 0 FROM pg_tables WHERE tableowner = 'tmi'")


async def test_a_leftover_that_stands_still_is_ended_as_well(data: Path, leftover: int) -> None:
    for pid in processes_of(data / "postgres"):
        with contextlib.suppress(ProcessLookupError):  # backends end by themselves, too
            os.kill(pid, signal.SIGSTOP)
    async with running(data):
        assert not is_running(leftover)


async def test_backends_that_outlived_their_postmaster_are_ended_before_the_next_starts(
    data: Path, leftover: int
) -> None:
    stopped = set()
    for pid in processes_of(data / "postgres") - {leftover}:
        with contextlib.suppress(ProcessLookupError):  # a backend without a client is about to end anyway
            os.kill(pid, signal.SIGSTOP)
            stopped.add(pid)
    orphans = stopped & processes_of(data / "postgres")
    assert orphans
    os.kill(leftover, signal.SIGKILL)
    await eventually(lambda: not is_running(leftover), "the end of the postmaster")
    assert orphans <= processes_of(data / "postgres")
    async with running(data) as url:
        assert [False] * len(orphans) == [is_running(pid) for pid in orphans]
        assert 1 == await ask(url, "SELECT 1")


async def test_a_stale_pid_file_that_names_another_process_harms_nobody(data: Path) -> None:
    async with running(data):
        contents = (data / "postgres" / "postmaster.pid").read_text().splitlines()
    account = choose_account(data / "postgres")
    user = account.uid if account.is_other else None
    bystander = await asyncio.to_thread(subprocess.Popen, ["sleep", "600"], user=user, cwd="/")
    try:
        stale = data / "postgres" / "postmaster.pid"
        stale.write_text("\n".join([str(bystander.pid), *contents[1:]]) + "\n")
        account.own(stale)
        async with running(data) as url:
            assert 1 == await ask(url, "SELECT 1")
            assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


async def test_a_damaged_pid_file_does_not_keep_the_server_from_starting(data: Path) -> None:
    for content in ("", "not a number\n", "99999999999\n"):
        (data / "postgres" / "postmaster.pid").write_text(content)
        async with running(data) as url:
            assert 1 == await ask(url, "SELECT 1")


async def test_crash_recovery_keeps_what_was_committed(data: Path) -> None:
    async with running(data) as url:
        await ask(url, "CREATE TABLE kept (number int)")
        await ask(url, "INSERT INTO kept SELECT generate_series(1, 20000)")
        for pid in processes_of(data / "postgres"):
            with contextlib.suppress(ProcessLookupError):  # gone with the first one
                os.kill(pid, signal.SIGKILL)
    async with running(data) as url:
        assert 20000 == await ask(url, "SELECT count(*) FROM kept")


# --- whom it runs as ----------------------------------------------------------------------------


def modes(folders: list[Path]) -> list[tuple[int, int, int]]:
    """Owner, group and the permissions of others."""
    found = [folder.stat() for folder in folders]
    return [(entry.st_uid, entry.st_gid, entry.st_mode & 0o007) for entry in found]


if AS_ROOT:  # only root changes to another user

    async def test_started_by_root_it_runs_as_an_unprivileged_user_and_opens_only_the_way(
        tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "tmi.embedded")
        outer = tmp_path / "outer"
        data = outer / "data"
        for folder in (outer, data):
            folder.mkdir(mode=0o700)
        before = modes([outer, data])
        async with running(data):
            owners = {Path(f"/proc/{pid}").stat().st_uid for pid in processes_of(data / "postgres")}
            assert {choose_account(data / "postgres").uid} == owners
            assert 0 not in owners
        assert before == modes([outer, data])
        said = [record.message for record in caplog.records if "runs as user" in record.message]
        assert (1, True, True) == (len(said), str(outer) in said[0], str(data) in said[0])

    async def test_it_goes_on_as_the_owner_of_the_data(data: Path) -> None:
        async with running(data):
            pass
        nobody = 65534
        for path in (data / "postgres", *(data / "postgres").rglob("*"), data / "run"):
            os.chown(path, nobody, nobody, follow_symlinks=False)
        async with running(data) as url:
            assert 1 == await ask(url, "SELECT 1")
            assert {nobody} == {Path(f"/proc/{p}").stat().st_uid for p in processes_of(data / "postgres")}

    def test_data_of_root_is_refused_in_one_line(tmp_path: Path) -> None:
        with pytest.raises(StartupError, match=r"belongs to root"):
            choose_account(tmp_path)


async def test_secrets_of_the_service_do_not_reach_the_server(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMI_TEST_SECRET", "hidden")
    async with running(data):
        for pid in processes_of(data / "postgres"):
            assert b"hidden" not in Path(f"/proc/{pid}/environ").read_bytes()
