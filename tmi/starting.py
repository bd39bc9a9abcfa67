"""What the port answers while the service starts: it lives, and is not ready.

Recovering a database or migrating it may take minutes, in which a probe should neither take the port for
dead nor the service for ready. Every connection gets one answer.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tmi.domain.errors import StartupError

BACKLOG = 1024
UNSENT_MAX_BYTES = 256 * 1024
"""What the kernel takes of one connection before it is on its way (TCP_NOTSENT_LOWAT, tcp(7)).

Without a bound it copies up to 4 MiB in one call, and when 100 newcomers are sent a large diagram all other
rooms wait for that: 30 ms instead of 3 to 12 (`python -m bench stall`). What is on its way is not bounded by
it, so a distant client gets as much as its connection carries.
"""
HEAD_MAX_BYTES = 16 * 1024
HEAD_TIMEOUT_S = 5.0
CONNECTIONS_MAX = 200

_ALIVE = b'{"status":"ok"}'
_STARTING = b'{"error":"service_unavailable","error_description":"The service is starting."}'


def open_port(
    host: str, port: int, *, is_shared: bool = False, is_shared_later: bool = False, listens: bool = True
) -> socket.socket:
    """Bind, and listen, before anything else is started. Raises StartupError.

    A port that is shared (SO_REUSEPORT) has a socket in each of several processes of one user, and the kernel
    spreads connections over those that listen. `is_shared_later`: it is bound plainly, which proves that
    nobody else has it, and others may share it from then on.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartupError(f"Can't listen on {host}: {error.strerror}.") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # What is accepted inherits it.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_MAX_BYTES)
        listening.bind(address)
        if is_shared_later:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if listens:
            listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise StartupError(f"Can't listen on {host} port {port}: {error.strerror}.") from None
    return listening


@asynccontextmanager
async def answering(listening: socket.socket, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    """Answer for the service while the body runs; `listening` stays open for whoever comes next."""
    connections = asyncio.Semaphore(CONNECTIONS_MAX)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not connections.locked():
            async with connections:
                await _answer(reader, writer)
        writer.close()

    server = await asyncio.start_server(
        connected,
        sock=listening.dup(),
        limit=HEAD_MAX_BYTES,
        ssl=tls,
        ssl_handshake_timeout=None if tls is None else HEAD_TIMEOUT_S,
    )
    try:
        yield
    finally:
        server.close()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        async with asyncio.timeout(HEAD_TIMEOUT_S):
            head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ", 2)[1:2]
        is_alive = path == [b"/livez"]
        status, body = (b"200 OK", _ALIVE) if is_alive else (b"503 Service Unavailable", _STARTING)
        writer.write(
            b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"Retry-After: 1\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n%b"
            % (status, len(body), body)
        )
