"""Several processes on one port of one machine: `tmi serve --workers N`.

The parent serves nobody. It proves that the port is free, runs what all workers need (PostgreSQL and Valkey,
where none are configured), starts the workers and keeps them running. Each worker is a node of a deployment
like any other: it binds the same port (SO_REUSEPORT), owns rooms, and is linked to the others, here by Unix
sockets in a folder of mode 0700.

What it holds true:

- **Nobody outlives the parent.** The kernel kills its children when it ends, however that happens (prctl(2),
  PR_SET_PDEATHSIG): a worker that nobody supervises would go on owning rooms.
- **A worker takes connections when it is ready**, and no earlier: the kernel spreads new ones over all that
  listen.
- **Secrets travel in the environment**, which only this user can read, and never in arguments.
- **They end together.** Where they are all the nodes there are, none hands rooms over to one that ends too.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

from persistence.postgres.database import PostgresDatabase
from rooms.nodes.unix import SCHEME
from tmi.domain.errors import DatabaseUnavailable, StartupError
from tmi.embedded.account import ourselves
from tmi.embedded.children import LAUNCH, ended
from tmi.embedded.data_directory import locked
from tmi.embedded.postgres import embedded_postgres
from tmi.embedded.sockets import folder_for, make_private
from tmi.embedded.valkey import embedded_valkey
from tmi.serve import CLOSE_S, Exit, Part, Stop, certificate_of, url_of
from tmi.settings import Settings, as_environment
from tmi.starting import answering, open_port

log = logging.getLogger(__name__)

CONNECTIONS_BESIDE_POOL = 4
"""For the lock, for signals, and for tools."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
STEADY_S = 10.0
"""After so long a worker that ends is started again without a pause."""
BEYOND_DRAIN_S = 10.0
"""What a worker may take to end beside its `drain_s`, before it is killed."""
READY = b"1"

SOCKET_NAME = "worker-00.sock"


async def serve_workers(settings: Settings, announce: Callable[[str], None]) -> Exit:
    """Run `settings.workers` processes until SIGTERM or SIGINT; `announce` gets their URL when all are ready.

    Raises StartupError and DatabaseUnavailable when they can't start.
    """
    stop = Stop()
    try:
        return await _serve(settings, stop, announce)
    except asyncio.CancelledError:
        if not stop.came_early:
            raise
        log.info("stopped before it was ready")
        return Exit.OK


async def _serve(settings: Settings, stop: Stop, announce: Callable[[str], None]) -> Exit:
    async with AsyncExitStack() as stack:
        # Bound plainly first: a port that another service shares would be shared with that one.
        with closing(open_port(settings.host, settings.port)) as plain:
            port = int(plain.getsockname()[1])
            certificate = certificate_of(settings)
            if certificate is not None:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)  # while there is nobody to tell
            async with answering(plain, None if certificate is None else certificate.context):
                environment = await stack.enter_async_context(_surroundings(settings))
        # Bound and never listening: the port stays ours while workers come and go.
        stack.enter_context(closing(open_port(settings.host, port, is_shared=True, listens=False)))
        environment["TMI_PORT"] = str(port)
        part = Part.WORKER_ENDING_WITH_ALL if settings.redis_url is None else Part.WORKER
        workers = _Workers(settings, environment, part)
        async with workers.running():
            if certificate is not None:
                # They read it by themselves as they start and when it changes; at this signal, at once.
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, workers.hang_up)
            stop.waits_for_drain()
            announce(url_of(settings, port))
            await stop.requested.wait()
            log.info("stopping %d workers", settings.workers)
        return workers.outcome


@asynccontextmanager
async def _surroundings(settings: Settings) -> AsyncIterator[dict[str, str]]:
    """What all workers need, running; yields the environment from which they learn of it."""
    async with AsyncExitStack() as stack:
        changes: dict[str, object] = {"workers": 1, "node_url": None}
        if settings.database_url is None or settings.redis_url is None:
            data_dir = stack.enter_context(locked(settings.data_dir))
            folder = folder_for(data_dir / "links", SOCKET_NAME)
            make_private(folder, ourselves())
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tmi-links-")))
        changes["node_listen"] = f"{SCHEME}{folder}/worker-{{}}.sock"
        if settings.database_url is None:
            connections = settings.workers * (settings.database_max_connections + CONNECTIONS_BESIDE_POOL)
            url = await stack.enter_async_context(embedded_postgres(data_dir, connections))
            changes["database_url"] = url
        else:
            url = settings.database_url.get_secret_value()
        await _migrate(url)
        if settings.redis_url is None:
            changes["redis_url"] = await stack.enter_async_context(embedded_valkey(data_dir))
        yield as_environment(settings, os.environ, **changes)


async def _migrate(url: str) -> None:
    try:
        database = await PostgresDatabase.connect(url, max_connections=2)
    except DatabaseUnavailable as error:
        raise StartupError(f"The database can't be reached: {error}.") from None
    except ValueError:
        raise StartupError("The database URL is malformed.") from None
    try:
        for name in await database.migrate():
            log.info("applied migration %s", name)
    finally:
        await database.close()


class _Workers:
    """Starts them, starts those again that end, and ends all."""

    def __init__(self, settings: Settings, environment: Mapping[str, str], part: Part) -> None:
        self._settings = settings
        self._environment = environment
        self._part = part
        self._name = settings.node_name or socket.gethostname()
        python = sys.executable
        # -P: nothing in the working directory is taken for a part of the program.
        self._launcher = (python, "-I", "-S", "-c", LAUNCH, str(os.getpid()), python, "-P", "-m", "tmi.cli")
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._ready: set[int] = set()
        self.outcome = Exit.OK

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The body runs when all are ready. Raises StartupError if one does not become so."""
        numbers = range(1, self._settings.workers + 1)
        keepers: list[asyncio.Task[None]] = []
        try:
            started = await asyncio.gather(*map(self._start, numbers), return_exceptions=True)
            for failure in filter(None, started):
                raise failure
            keepers = [asyncio.create_task(self._keep(n), name=f"worker-{n}") for n in numbers]
            yield
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            await self._end_all()

    def hang_up(self) -> None:
        """SIGHUP to those that handle it by now."""
        for number in self._ready:
            process = self._running[number]
            if process.poll() is None:
                process.send_signal(signal.SIGHUP)

    async def _start(self, number: int) -> None:
        """Start a worker and wait until it takes connections. Raises StartupError."""
        name = f"{self._name}/worker-{number}"
        environment = {
            **self._environment,
            "TMI_NODE_NAME": name,
            "PYTHONPATH": os.pathsep.join(str(Path(place).resolve()) for place in sys.path if place),
            "TMI_NODE_LISTEN": self._environment["TMI_NODE_LISTEN"].format(number),
        }
        reading, writing = os.pipe()
        try:
            process = self._spawn(number, environment, writing)
        except OSError as error:
            os.close(reading)
            raise StartupError(f"Worker {number} can't be run: {error.strerror}.") from None
        finally:
            os.close(writing)
        self._running[number] = process
        if await _first_byte(reading) != READY:
            await ended(process)
            raise StartupError(
                f"Worker {number} ended with {process.returncode} while starting; its last lines say why."
            )
        self._ready.add(number)

    def _spawn(self, number: int, environment: Mapping[str, str], ready_fd: int) -> subprocess.Popen[bytes]:
        worker = ("--number", str(number), "--ready-fd", str(ready_fd), "--part", self._part.name)
        return subprocess.Popen(
            (*self._launcher, "worker", *worker),
            stdin=subprocess.DEVNULL,
            env=environment,
            pass_fds=(ready_fd,),
            start_new_session=True,
        )

    async def _keep(self, number: int) -> None:
        """Start it again whenever it ends; a drain by command makes it end, and so begin anew."""
        pause_s, began_at = FIRST_PAUSE_S, asyncio.get_running_loop().time()
        while True:
            process = self._running[number]
            await ended(process)
            self._ready.discard(number)
            now = asyncio.get_running_loop().time()
            if now - began_at > STEADY_S:
                pause_s = FIRST_PAUSE_S
            status = process.returncode
            log.error("worker %d has ended with %s; starting it again in %.1f s", number, status, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            try:
                await self._start(number)
            except (StartupError, OSError) as error:
                log.warning("%s", error)
            else:
                log.info("worker %d runs again", number)
            began_at = asyncio.get_running_loop().time()

    async def _end_all(self) -> None:
        """SIGTERM to all at once, and the time that a drain may take."""
        for process in self._running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        limit_s = self._settings.drain_s + 2 * CLOSE_S + BEYOND_DRAIN_S
        waiting = [asyncio.create_task(ended(process)) for process in self._running.values()]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=limit_s)
            for task in late:
                task.cancel()
        for number, process in self._running.items():
            if process.poll() is None:
                log.error("worker %d did not end in time and is killed", number)
                process.kill()
                await ended(process)
            self._judge(number, process.returncode)

    def _judge(self, number: int, status: int) -> None:
        if status == Exit.OK:
            return
        log.error("worker %d ended with %d", number, status)
        # The worst that can be said of any of them.
        is_unsaved = status in (Exit.UNSAVED, -signal.SIGKILL)
        self.outcome = Exit.UNSAVED if is_unsaved else max(self.outcome, Exit.FAILED)


async def _first_byte(reading: int) -> bytes:
    """What comes first out of a pipe; nothing if it is closed before."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    pipe = os.fdopen(reading, "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        return await reader.read(1)
    finally:
        transport.close()


def tell_ready(ready_fd: int) -> None:
    """A worker takes connections now."""
    with contextlib.suppress(BrokenPipeError):  # the parent has gone, and so will we
        os.write(ready_fd, READY)
    os.close(ready_fd)
