"""Links between nodes of one machine go over Unix sockets: nobody else can reach those.

picows (2.3) takes every connection for one by TCP and sets options that a Unix socket does not have; so these
sockets ignore them.
"""

import socket
from pathlib import Path
from typing import Any

SCHEME = "unix:"
"""Begins the address of a node that is reached so; the path of its socket follows."""
BACKLOG = 128


class UnixSocket(socket.socket):
    """A stream socket of this machine, with which options of TCP have no effect."""

    def setsockopt(self, level: int, *arguments: Any) -> None:
        """As of `socket.socket`."""
        if level != socket.IPPROTO_TCP:
            super().setsockopt(level, *arguments)

    def getsockopt(self, level: int, *arguments: Any) -> Any:
        """As of `socket.socket`; every option of TCP is 0."""
        return 0 if level == socket.IPPROTO_TCP else super().getsockopt(level, *arguments)

    def accept(self) -> tuple[socket.socket, Any]:
        """As of `socket.socket`."""
        connection, address = super().accept()
        return UnixSocket(fileno=connection.detach()), address


def listening_at(path: str) -> socket.socket:
    """Listen at a path, in place of an earlier process. Raises OSError."""
    listening = UnixSocket(socket.AF_UNIX)
    try:
        Path(path).unlink(missing_ok=True)
        listening.bind(path)
        Path(path).chmod(0o600)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def connected_to(path: str) -> socket.socket:
    """Connect, which takes no time here: the kernel has the other end's queue. Raises OSError."""
    connection = UnixSocket(socket.AF_UNIX)
    try:
        connection.setblocking(False)
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection
