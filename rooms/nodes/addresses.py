"""Where a node is reached, as one string: in the registry, in the rows of fences, and in what nodes say.

- `ws://host:port`: by TCP;
- `unix:/path`: by a Unix socket, from its own machine alone;
- `ws://host:port?unix=/path&machine=ID`: by either. Who is on that machine and may use the socket takes it.
  A node of an earlier version takes the whole for a URL whose query nobody reads, and goes by TCP.

Workers of one parent have their sockets in one folder, which is theirs alone: so they know each other.
"""

import functools
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Self
from urllib.parse import parse_qs, urlencode

from rooms.nodes.unix import SCHEME

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_WORKER = re.compile(r"worker-\d+\.sock")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node is reached; `machine` says where its Unix socket is, if it is reached by TCP as well."""

    tcp: str | None = None
    path: str | None = None
    machine: str | None = None

    @classmethod
    def of(cls, url: str) -> Self:
        """What a node's `url` says."""
        if url.startswith(SCHEME):
            return cls(path=url.removeprefix(SCHEME))
        tcp, _, query = url.partition("?")
        found = parse_qs(query)
        path, machine = found.get("unix"), found.get("machine")
        return cls(tcp, path[0], machine[0]) if path and machine else cls(tcp)

    def __str__(self) -> str:
        if self.tcp is None:
            return f"{SCHEME}{self.path}"
        if self.path is None:
            return self.tcp
        return f"{self.tcp}?{urlencode({'unix': self.path, 'machine': self.machine})}"

    @property
    def way(self) -> Self:
        """The part of it that this process takes: by TCP or by a Unix socket."""
        if self.tcp is None or self.path is None:
            return self
        is_here = self.machine == this_machine() and os.access(self.path, os.W_OK)
        return type(self)(path=self.path) if is_here else type(self)(self.tcp)


def socket_of_worker(folder: Path, number: int) -> str:
    """The path of a worker's socket in the folder of its parent."""
    return str(folder / f"worker-{number}.sock")


def are_siblings(one: str, other: str) -> bool:
    """Whether the nodes at these addresses are workers of one parent."""
    a, b = Address.of(one), Address.of(other)
    return is_worker(one) and is_worker(other) and _home(a) == _home(b)


def is_worker(url: str) -> bool:
    """Whether a node is one of several on a port."""
    path = Address.of(url).path
    return path is not None and _WORKER.fullmatch(PurePath(path).name) is not None


def _home(address: Address) -> tuple[str | None, PurePath]:
    return address.machine, PurePath(address.path or "").parent


@functools.cache
def this_machine() -> str:
    """Tells machines apart, and one from itself before it was started again."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return socket.gethostname()
