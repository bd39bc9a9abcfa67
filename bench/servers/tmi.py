"""TMI from this checkout, with embedded Postgres and its own data directory; clients sign in as usual."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from bench.filling import Filling, FillingError, fill
from bench.machine import ROOT, UNKNOWN, program_of, revision, version_of
from bench.process import DATABASE, name_of
from bench.servers.base import HOST, Account, Room, Server, ServerError, free_port
from bench.servers.rest import MAIL_DOMAIN, Rest, hocuspocus_at, y_websocket_at

START_TIMEOUT_S = 90.0
SETTINGS = {
    "TMI_ACCESS_TOKEN_TTL_S": "14400",
    "TMI_ROOM_IDLE_S": "1",
    "TMI_SOCKETS_PER_ADDRESS_MAX": "20000",
    "TMI_DOCUMENTS_PER_USER_MAX": "20000",
    "TMI_USER_REQUESTS_PER_MIN": "60000000",
    "TMI_ADDRESS_REQUESTS_PER_MIN": "60000000",
    "TMI_SIGN_IN_REQUESTS_PER_MIN": "60000000",
    "TMI_CLIENT_EDITS_PER_S": "1000000",
}
"""Other than the defaults: no sign-in ends in mid-measurement, an empty room is soon evicted, all clients may
be one user at one address, and each may write and ask as fast as it can: it is counted, and below all limits.
"""
EVICTION_TIMEOUT_S = 30.0
EVICTION_POLL_S = 0.1
EVICTION_QUIET_S = 0.5
"""When the last room is gone, for what the service frees afterwards."""
DATABASE_STOP_TIMEOUT_S = 10.0


class Tmi(Server):
    """`tmi serve --dev` and its y-websocket endpoint. Its rooms keep their journal in Postgres, as always."""

    name = "tmi"
    persistence = "Postgres, embedded"
    offers = frozenset({"rest", "acknowledgements", "durable", "filling"})
    workers = 1

    def __init__(self) -> None:
        super().__init__()
        self._rest: Rest | None = None
        self._folder: Path | None = None
        self._fillings: dict[tuple[int, int], Filling] = {}

    async def start(self, core: int) -> None:
        self.port = free_port()
        self._fillings = {}
        self._folder = Path(tempfile.mkdtemp(prefix="tmi-bench-"))
        # The database runs as another user when we are root, and has to reach its files.
        self._folder.chmod(0o755)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TMI_")}
        clean |= SETTINGS | {"TMI_WORKERS": str(self.workers)}
        await self._spawn([
            sys.executable, "-m", "tmi.cli", "serve", "--dev", "--host", HOST, "--port", str(self.port),
            "--data-dir", str(self._folder / "data"),
        ], core if self.workers == 1 else None, clean, ROOT)  # fmt: skip
        self._rest = Rest(self._url)
        await self._until_ready()
        await self._rest.sign_in("load")

    async def stop(self) -> None:
        if self._rest is not None:
            await self._rest.aclose()
        await super().stop()
        if self._folder is not None:
            await self._end_database()
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _end_database(self) -> None:
        """A service that was killed leaves its database running, in a session of its own."""
        pid = self.database_pid
        if pid is None or name_of(pid) != DATABASE:
            return
        deadline = asyncio.get_running_loop().time() + DATABASE_STOP_TIMEOUT_S
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)
            while name_of(pid) == DATABASE and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.05)
            os.killpg(pid, signal.SIGKILL)

    async def room(self) -> Room:
        assert self._rest is not None
        return await self._rest.y_websocket_room()

    def room_at(self, diagram: str, collab: Mapping[str, str]) -> Room:
        return y_websocket_at(diagram, collab)

    async def until_evicted(self, inhabited: int = 0) -> None:
        """Asks its `/metrics`, all workers': rooms, and replicas of those that another worker owns. Of those
        that somebody stays in each worker may have one.
        """
        assert self._rest is not None
        deadline = asyncio.get_running_loop().time() + EVICTION_TIMEOUT_S
        while (rooms := await self._rest.rooms_in_memory()) > inhabited * self.workers:
            if asyncio.get_running_loop().time() > deadline:
                over = rooms - inhabited * self.workers
                raise ServerError(
                    f"{over} rooms are in memory {EVICTION_TIMEOUT_S:g} s after everybody left them"
                )
            await asyncio.sleep(EVICTION_POLL_S)
        await asyncio.sleep(EVICTION_QUIET_S)

    async def account(self, who: str) -> Account:
        rest = Rest(self._url)
        try:
            return Account(self._url, await rest.sign_in(who), f"{who}@{MAIL_DOMAIN}")
        finally:
            await rest.aclose()

    async def filled(self, models: int, threats: int) -> Filling:
        wanted = models, threats
        if wanted not in self._fillings:
            account = await self.account(f"rest-{uuid.uuid4()}")
            try:
                self._fillings[wanted] = await fill(self._database_url, account, *wanted)
            except FillingError as error:
                raise ServerError(str(error)) from error
        return self._fillings[wanted]

    @property
    def _database_url(self) -> str:
        """Of the embedded Postgres; the fifth line of its lock file names the folder of its socket."""
        assert self._folder is not None
        for file in self._folder.glob("data/**/postmaster.pid"):
            folder = file.read_text(encoding="utf-8").splitlines()[4]
            return f"postgresql://tmi@/tmi?host={quote(folder, safe='/')}"
        raise ServerError(f"{self.name} has no Postgres of its own to fill")

    @property
    def _url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def database_pid(self) -> int | None:
        assert self._folder is not None
        for file in self._folder.glob("data/**/postmaster.pid"):
            return int(file.read_text(encoding="ascii").splitlines()[0])
        return None

    def runs_on(self) -> dict[str, str]:
        """The process of the database tells which of the machine's it is."""
        program = program_of(self.database_pid) if self.database_pid is not None else None
        return {"PostgreSQL": version_of(program) if program is not None else UNKNOWN}

    def version(self) -> str:
        return f"tmi {revision()}"

    async def _until_ready(self) -> None:
        assert self._rest is not None
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while asyncio.get_running_loop().time() < deadline:
            assert self.pid
            if await self._rest.ready():
                return
            await asyncio.sleep(0.1)
        raise ServerError(f"tmi is not ready after {START_TIMEOUT_S:.0f} s.{self.last_words()}")


class TmiTwoWorkers(Tmi):
    """The same service with two workers on its port and on all cores: the kernel spreads the clients of each
    room over both of them.
    """

    name = "tmi-2"
    workers = 2


class TmiHocuspocus(Tmi):
    """The same service, with Hocuspocus clients, whose every edit is acknowledged after its commit."""

    name = "tmi-hocuspocus"

    async def room(self) -> Room:
        assert self._rest is not None
        return await self._rest.hocuspocus_room()

    def room_at(self, diagram: str, collab: Mapping[str, str]) -> Room:
        return hocuspocus_at(diagram, collab)
