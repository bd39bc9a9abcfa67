"""Several processes on one port of one machine: `tmi serve --workers N`.

The parent serves nobody. It proves that the port is free, runs what all workers need (PostgreSQL and Valkey,
where none are configured), starts the workers and keeps them running. Each worker is a node of a deployment
like any other: it binds the same port (SO_REUSEPORT), owns rooms, and is linked to the others: to those of
this parent by Unix sockets in a folder of mode 0700, to nodes of other machines by TCP.

What it holds true:

- **Nobody outlives the parent.** The kernel kills its children when it ends, however that happens (prctl(2),
  PR_SET_PDEATHSIG): a worker that nobody supervises would go on owning rooms.
- **A worker takes connections when it is ready**, and no earlier: the kernel spreads new ones over all that
  listen. Until the first one is, the parent answers that the service is starting.
- **No start is waited for without a bound.** A worker that hangs is killed; one that fails is tried again
  after growing pauses; before all have been ready once, a few failures of one end the whole.
- **One lock for all**: the parent keeps other services off the database, and ends if one takes it.
- **Secrets travel in the environment**, which only this user can read, and never in arguments.
- **They end together**, and hand rooms over to other machines' nodes, never to each other.
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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

from persistence.postgres.database import PostgresDatabase
from rooms.nodes.addresses import socket_of_worker
from tmi.domain.errors import DatabaseUnavailable, StartupError
from tmi.embedded.account import ourselves
from tmi.embedded.children import LAUNCH, ended
from tmi.embedded.data_directory import locked
from tmi.embedded.postgres import embedded_postgres
from tmi.embedded.sockets import folder_for, make_private
from tmi.embedded.valkey import embedded_valkey
from tmi.serve import CLOSE_S, Exit, Stop, certificate_of, first_of, url_of
from tmi.settings import Settings, as_environment, split_ports
from tmi.starting import answering, open_port
from tmi.wiring import DATABASE_CLOSE_S, database_held

log = logging.getLogger(__name__)

CONNECTIONS_BESIDE_POOL = 9
"""Of a worker: two for appends, four for reads, one each for pings, signals and events."""
CONNECTIONS_OF_PARENT = 10
"""Its own, those of migrations and of tools, and the three that PostgreSQL keeps for superusers."""
BEYOND_DRAIN_S = 10.0
"""What a worker may take to end beside its `drain_s`, before it is killed."""
READY = b"1"

SOCKET_NAME = "worker-00.sock"


async def serve_workers(settings: Settings, announce: Callable[[str], None]) -> Exit:
    """Run `settings.workers` processes until SIGTERM or SIGINT; `announce` gets their URL when all are ready.

    Raises StartupError, DatabaseUnavailable and Conflict when they can't start.
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
        greeting = await stack.enter_async_context(AsyncExitStack())
        # Bound plainly first: a port that another service shares would be shared with that one.
        listening = open_port(settings.host, settings.port, is_shared_later=True)
        greeting.enter_context(closing(listening))
        port = int(listening.getsockname()[1])
        certificate = certificate_of(settings)
        if certificate is not None:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # while there is nobody to tell
        # Bound and never listening: the port stays ours while workers come and go.
        stack.enter_context(closing(open_port(settings.host, port, is_shared=True, listens=False)))
        await greeting.enter_async_context(
            answering(listening, None if certificate is None else certificate.context)
        )
        around = await stack.enter_async_context(_surroundings(settings))
        around.environment["TMI_PORT"] = str(port)
        limits = WorkersLimits(
            start_s=settings.worker_start_s, end_s=settings.drain_s + 2 * CLOSE_S + BEYOND_DRAIN_S
        )
        workers = Workers(settings.workers, _commands(settings, around), limits)
        # Whoever comes from now on is for the first worker; the others follow.
        workers.on_first_ready = greeting.aclose
        async with workers.running():
            if certificate is not None:
                # They read it by themselves as they start and when it changes; at this signal, at once.
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, workers.hang_up)
            stop.waits_for_drain()
            announce(url_of(settings, port))
            await first_of(stop.requested, around.taken_over)
            log.info("stopping %d workers", settings.workers)
        return Exit.FAILED if around.taken_over.is_set() else workers.outcome


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What all workers need, running."""

    environment: dict[str, str]
    """From which they learn of it."""
    folder: Path
    """Of their sockets."""
    taken_over: asyncio.Event = field(default_factory=asyncio.Event)
    """Another service has taken the database."""


@asynccontextmanager
async def _surroundings(settings: Settings) -> AsyncIterator[_Surroundings]:
    """Raises StartupError, DatabaseUnavailable and Conflict."""
    async with AsyncExitStack() as stack:
        changes: dict[str, object] = {"workers": 1}
        if settings.database_url is None or settings.redis_url is None:
            data_dir = stack.enter_context(locked(settings.data_dir))
            folder = folder_for(data_dir / "links", SOCKET_NAME)
            make_private(folder, ourselves())
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tmi-links-")))
        if settings.database_url is None:
            connections = settings.workers * (settings.database_max_connections + CONNECTIONS_BESIDE_POOL)
            url = await stack.enter_async_context(
                embedded_postgres(data_dir, connections + CONNECTIONS_OF_PARENT)
            )
            changes["database_url"] = url
        else:
            url = settings.database_url.get_secret_value()
        database = await stack.enter_async_context(_database(url))
        around = _Surroundings({}, folder)
        is_among_others = settings.redis_url is not None
        await stack.enter_async_context(
            database_held(database, around.taken_over, among_nodes=is_among_others)
        )
        if settings.redis_url is None:
            changes["redis_url"] = await stack.enter_async_context(embedded_valkey(data_dir))
        around.environment.update(as_environment(settings, os.environ, **changes))
        yield around


@asynccontextmanager
async def _database(url: str) -> AsyncIterator[PostgresDatabase]:
    """The workers' database, up to date."""
    try:
        database = await PostgresDatabase.connect(url, max_connections=1)
    except DatabaseUnavailable as error:
        raise StartupError(f"The database can't be reached: {error}.") from None
    except ValueError:
        raise StartupError("The database URL is malformed.") from None
    try:
        for name in await database.migrate():
            log.info("applied migration %s", name)
        yield database
    finally:
        await database.close(DATABASE_CLOSE_S)


# --- what a worker is told ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run as a worker."""

    line: Sequence[str]
    environment: Mapping[str, str]


Commands = Callable[[int, int], Command]
"""For a worker's number, from 1 on, and the file descriptor by which it says that it is ready."""


def _commands(settings: Settings, around: _Surroundings) -> Commands:
    name = settings.node_name or socket.gethostname()
    path = os.pathsep.join(str(Path(place).resolve()) for place in sys.path if place)
    is_among_others = settings.redis_url is not None

    def command(number: int, ready_fd: int) -> Command:
        environment = {**around.environment, "TMI_NODE_NAME": f"{name}/worker-{number}", "PYTHONPATH": path}
        # -P: nothing in the working directory is taken for a part of the program.
        line = [sys.executable, "-P", "-m", "tmi.cli", "worker", "--number", str(number)]
        line += ["--ready-fd", str(ready_fd), "--socket", socket_of_worker(around.folder, number)]
        if is_among_others:
            environment["TMI_NODE_LISTEN"] = _place_of(settings.node_listen, number)
            line.append("--is-among-others")
        return Command(line, environment)

    return command


def _place_of(node_listen: str, number: int) -> str:
    """Where a worker listens for nodes of other machines: it takes its port of a range."""
    host, ports = split_ports(node_listen)
    port = ports[number - 1] if ports[0] else 0
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# --- keeping them running -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorkersLimits:
    """Times in seconds."""

    start_s: float = 60.0
    """For a start; then the worker is killed."""
    end_s: float = 24.0
    """For an end by SIGTERM; then it is killed."""
    first_tries: int = 3
    """So often the first start of each worker is tried."""
    first_pause_s: float = 0.2
    longest_pause_s: float = 10.0
    """Pauses before a worker is started again double from the first up to the longest."""
    steady_s: float = 10.0
    """After so long a worker that ends is started again after the first pause."""


class WorkerFailed(StartupError):
    """A worker did not start."""

    def __init__(self, why: str, *, is_hopeless: bool = False) -> None:
        super().__init__(why)
        self.is_hopeless = is_hopeless
        """It would fail again."""


class Workers:
    """Starts them, starts those again that end, and ends all."""

    def __init__(self, count: int, commands: Commands, limits: WorkersLimits | None = None) -> None:
        self._count = count
        self._commands = commands
        self._limits = limits or WorkersLimits()
        self._launcher = (sys.executable, "-I", "-S", "-c", LAUNCH, str(os.getpid()))
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._ready: set[int] = set()
        self._is_any_ready = False
        self.on_first_ready: Callable[[], Awaitable[None]] | None = None
        """Called once, when the first of them takes connections."""
        self.outcome = Exit.OK

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The body runs when all are ready. Raises StartupError if one does not become so."""
        numbers = range(1, self._count + 1)
        tasks = [asyncio.create_task(self._first_start(n), name=f"worker-{n}") for n in numbers]
        try:
            await asyncio.gather(*tasks)
            tasks = [asyncio.create_task(self._keep(n), name=f"worker-{n}") for n in numbers]
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._end_all()

    def hang_up(self) -> None:
        """SIGHUP to those that handle it by now."""
        for number in self._ready:
            process = self._running[number]
            if process.poll() is None:
                process.send_signal(signal.SIGHUP)

    async def _first_start(self, number: int) -> None:
        """Start a worker, with some patience. Raises WorkerFailed."""
        for failures, pause_s in enumerate(self._pauses(), 1):
            try:
                await self._start(number)
            except WorkerFailed as failure:
                if failure.is_hopeless or failures >= self._limits.first_tries:
                    raise
                log.warning("%s It is tried again in %.1f s", failure, pause_s)
                await asyncio.sleep(pause_s)
            else:
                return

    def _pauses(self) -> Iterator[float]:
        pause_s = self._limits.first_pause_s
        while True:
            yield pause_s
            pause_s = min(pause_s * 2, self._limits.longest_pause_s)

    async def _start(self, number: int) -> None:
        """Start a worker and wait until it takes connections. Raises WorkerFailed."""
        reading, writing = os.pipe()
        try:
            process = self._spawn(self._commands(number, writing), writing)
        except OSError as error:
            os.close(reading)
            raise WorkerFailed(f"Worker {number} can't be run: {error.strerror}.") from None
        finally:
            os.close(writing)
        self._running[number] = process
        try:
            async with asyncio.timeout(self._limits.start_s):
                is_ready = await _first_byte(reading) == READY
                if not is_ready:
                    await ended(process)
        except TimeoutError:
            await self._kill(number)
            raise WorkerFailed(
                f"Worker {number} was not ready within {self._limits.start_s:g} s and is killed."
            ) from None
        except BaseException:  # it has nothing to save yet
            await self._kill(number)
            raise
        if not is_ready:
            del self._running[number]
            status = process.returncode
            raise WorkerFailed(
                f"Worker {number} ended with {status} while starting; its last lines say why.",
                is_hopeless=status == Exit.BAD_SETTING,
            )
        self._ready.add(number)
        if not self._is_any_ready:
            self._is_any_ready = True
            if self.on_first_ready is not None:
                await self.on_first_ready()

    def _spawn(self, command: Command, ready_fd: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            (*self._launcher, *command.line),
            stdin=subprocess.DEVNULL,
            env=command.environment,
            pass_fds=(ready_fd,),
            start_new_session=True,
        )

    async def _keep(self, number: int) -> None:
        """Start it again whenever it ends; a drain by command makes it end, and so begin anew."""
        clock = asyncio.get_running_loop().time
        pauses, began_at = self._pauses(), clock()
        while True:
            process = self._running.get(number)
            if process is not None:
                await ended(process)
                self._ready.discard(number)
                status = process.returncode
                if clock() - began_at > self._limits.steady_s:
                    pauses = self._pauses()
            pause_s = next(pauses)
            if process is not None:
                log.log(
                    logging.INFO if status == Exit.OK else logging.ERROR,
                    "worker %d has ended with %s; starting it again in %.1f s",
                    number,
                    status,
                    pause_s,
                )
            await asyncio.sleep(pause_s)
            began_at = clock()
            try:
                await self._start(number)
            except WorkerFailed as failure:
                log.warning("%s", failure)
            except Exception:
                log.exception("worker %d could not be started; it is tried again", number)
            else:
                log.info("worker %d runs again", number)

    async def _kill(self, number: int) -> None:
        process = self._running.pop(number)
        process.kill()
        await ended(process)

    async def _end_all(self) -> None:
        """SIGTERM to all at once, and the time that a drain may take."""
        running = {number: process for number, process in self._running.items() if process.poll() is None}
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        waiting = [asyncio.create_task(ended(process)) for process in running.values()]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=self._limits.end_s)
            for task in late:
                task.cancel()
        for number, process in running.items():
            if process.poll() is None:
                log.error("worker %d did not end in time and is killed", number)
                await self._kill(number)
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
