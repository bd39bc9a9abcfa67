"""What stands before several nodes: a TCP proxy that sends each connection to its favourite node, or to the
next one that takes it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

HOST = "127.0.0.1"
_CONNECT_S = 2.0


@contextlib.asynccontextmanager
async def balancer(ports: Sequence[int]) -> AsyncIterator[int]:
    """Listen on a free port of the loopback interface, for nodes on these ports, the favourite one first."""
    relays: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.current_task()
        assert relay is not None
        relays.add(relay)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                upstream = await _first(ports)
                if upstream is not None:
                    await _relay((reader, writer), upstream)
        finally:
            relays.discard(relay)
            writer.close()

    server = await asyncio.start_server(connected, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for relay in list(relays):
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _first(ports: Sequence[int]) -> Stream | None:
    for port in ports:
        with contextlib.suppress(OSError, TimeoutError):
            return await asyncio.wait_for(asyncio.open_connection(HOST, port), _CONNECT_S)
    return None


async def _relay(client: Stream, node: Stream) -> None:
    """Copy both ways; when one side is at its end, both are closed."""
    copying = [asyncio.create_task(_copy(client[0], node[1])), asyncio.create_task(_copy(node[0], client[1]))]
    try:
        await asyncio.wait(copying, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in copying:
            task.cancel()
        await asyncio.gather(*copying, return_exceptions=True)
        node[1].close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
