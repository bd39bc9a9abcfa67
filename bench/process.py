"""CPU time and memory of processes and cores, and pinning.

Linux's /proc is read directly, in one pass of about two milliseconds, since it is read while a load runs.
"""

import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

DATABASE = "postgres"
_LIBC = ctypes.CDLL(None)
_PROC = Path("/proc")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Process(NamedTuple):
    pid: int
    parent: int
    name: str
    own_s: float
    reaped_s: float
    resident: int


@dataclass(frozen=True)
class Usage:
    """CPU seconds of a server and of its database since they started; the server's resident bytes now."""

    server_s: float
    database_s: float
    server_rss: int


def usage(pid: int, database_pid: int | None = None) -> Usage:
    """The tree under `pid`, with every `postgres` in it (and under `database_pid`) counted as the database.

    Reaped children count with their parents, so that a worker that ends within a window is not lost: one of
    PostgreSQL with the database, one of the server with the server.
    """
    server = database = 0.0
    resident = 0
    for process in _tree(pid, database_pid):
        spent_s = finer(process) + process.reaped_s
        if process.name == DATABASE:
            database += spent_s
        else:
            server += spent_s
            resident += process.resident
    return Usage(server, database, resident)


def _tree(pid: int, database_pid: int | None) -> list[Process]:
    processes = {process.pid: process for process in _all_processes()}
    members = {root for root in (pid, database_pid) if root in processes}
    grown = True
    while grown:
        more = {p.pid for p in processes.values() if p.parent in members} - members
        members |= more
        grown = bool(more)
    return [processes[member] for member in members]


def finer(process: Process) -> float:
    """Its own CPU seconds to the nanosecond, where the kernel tells them of each thread (CONFIG_SCHED_INFO).

    What /proc/PID/stat says counts hundredths of a second, of which a quiet load takes twenty; it still has
    the threads that have ended, so it is right where it says more.
    """
    try:
        threads = (_PROC / str(process.pid) / "task").iterdir()
        exact_s = sum(int((thread / "schedstat").read_bytes().split()[0]) for thread in threads) / 1e9
    except (OSError, ValueError, IndexError):
        return process.own_s
    return exact_s if exact_s > process.own_s - 2 * _TICK_S else process.own_s


def _all_processes() -> Iterator[Process]:
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            try:
                yield parse_stat((folder / "stat").read_text(encoding="utf-8", errors="replace"))
            except OSError:
                continue


def name_of(pid: int) -> str | None:
    """What a process is called; None for one that has ended, be it reaped or not."""
    try:
        line = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return None if line.rsplit(") ", 1)[1].startswith("Z") else parse_stat(line).name


def parse_stat(line: str) -> Process:
    """One line of /proc/PID/stat (proc_pid_stat(5)); the name may hold spaces and brackets."""
    pid, rest = line.split(" (", 1)
    name, fields = rest.rsplit(") ", 1)
    values = fields.split()
    user, system, reaped_user, reaped_system = (int(value) * _TICK_S for value in values[11:15])
    return Process(
        pid=int(pid), parent=int(values[1]), name=name, own_s=user + system,
        reaped_s=reaped_user + reaped_system, resident=int(values[21]) * _PAGE,
    )  # fmt: skip


def core_busy_s(core: int) -> float:
    """Seconds that a core has been busy since the machine started, whoever it was (proc_stat(5))."""
    for line in (_PROC / "stat").read_text(encoding="ascii").splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _idle, _wait, irq, softirq, steal = map(int, line.split()[1:9])
            return (user + nice + system + irq + softirq + steal) * _TICK_S
    raise ValueError(f"no core {core}")


def cores() -> tuple[int, int]:
    """The generator's core and the server's; the same one where there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def open_files_limit() -> int:
    """Raises what this process and its children may open as far as the system allows; says how far."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def pin(core: int) -> None:
    os.sched_setaffinity(0, {core})


def pinned_to(core: int | None) -> Callable[[], None]:
    """For a child process, before it runs its program. None: to all cores there are.

    It does not outlive this process: see `ends_with_this`.
    """
    cores, ends = range(os.cpu_count() or 1) if core is None else {core}, ends_with_this()

    def prepare() -> None:
        os.sched_setaffinity(0, cores)
        ends()

    return prepare


def ends_with_this() -> Callable[[], None]:
    """For a child process, before it runs its program.

    It gets SIGTERM when this process ends, however that happens (prctl(2), PR_SET_PDEATHSIG is 1).
    """
    parent = os.getpid()

    def prepare() -> None:
        _LIBC.prctl(1, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


@dataclass(frozen=True)
class Moment:
    """Everything that is read at one end of a window."""

    at: float
    generator_s: float
    generator_core_s: float
    server_core_s: float
    usage: Usage | None
    """None for a server whose processes are not on this machine."""


@dataclass(frozen=True)
class Probe:
    """Reads the clocks of one server, the generator and their cores."""

    pid: int | None
    database_pid: int | None
    generator_core: int
    server_core: int

    def read(self) -> Moment:
        return Moment(
            at=time.perf_counter(),
            generator_s=time.process_time(),
            generator_core_s=core_busy_s(self.generator_core),
            server_core_s=core_busy_s(self.server_core),
            usage=None if self.pid is None else usage(self.pid, self.database_pid),
        )
