"""An endpoint of webhooks: a real HTTP server on a free port, which remembers what it was sent."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import h11

MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it arrived."""

    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def is_challenge(self) -> bool:
        return self.headers["x-webhook-event"] == "webhook.challenge"


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    after: asyncio.Event | None = None
    """Not before this is set."""
    never: bool = False
    """Nothing is answered."""


Answer = Callable[[Call], Reply]


def agreeable(call: Call) -> Reply:
    """Answers challenges, and takes all else."""
    if call.is_challenge:
        return Reply(body=json.dumps({"challenge": call.json["challenge"]}).encode())
    return Reply(204)


def echoing(call: Call) -> Reply:
    """Answers challenges as receivers of other TMI servers do: by the header, as plain text."""
    return Reply(body=call.headers["x-webhook-challenge"].encode()) if call.is_challenge else Reply()


@dataclass(slots=True)
class Endpoint:
    """A running server."""

    scheme: str
    port: int
    answer: Answer
    calls: list[Call] = field(default_factory=list)
    busy: int = 0
    busiest: int = 0
    """Calls at once."""

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/hook?of=test"

    @property
    def deliveries(self) -> list[Call]:
        """What was sent besides challenges."""
        return [call for call in self.calls if not call.is_challenge]

    async def delivered(self, count: int, timeout_s: float = 10) -> list[Call]:
        """Wait for so many deliveries at least."""
        await until(lambda: len(self.deliveries) >= count, f"{count} deliveries", timeout_s)
        return self.deliveries


async def until(condition: Callable[[], object], what: str, timeout_s: float = 10) -> None:
    """Wait until something holds. Raises AssertionError."""
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + timeout_s
    while not condition():
        assert loop.time() < ends_at, f"there was no {what} within {timeout_s} s"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def endpoint(
    answer: Answer = agreeable, context: ssl.SSLContext | None = None
) -> AsyncIterator[Endpoint]:
    """A server while the body runs."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        made.busy += 1
        made.busiest = max(made.busiest, made.busy)
        try:
            await _serve(made, reader, writer)
        except (ConnectionError, ssl.SSLError, asyncio.CancelledError):
            pass
        finally:
            made.busy -= 1
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    made = Endpoint("http" if context is None else "https", port, answer)
    try:
        yield made
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _serve(made: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection = h11.Connection(h11.SERVER)
    call = await _received(connection, reader)
    if call is None:
        return
    made.calls.append(call)
    reply = made.answer(call)
    if reply.never:
        await reader.read()  # the end of the connection
        return
    if reply.after is not None:
        await reply.after.wait()
    length = ("Content-Length", str(len(reply.body)))
    headers = [*reply.headers, *([] if reply.status == 204 else [length]), ("Connection", "close")]
    writer.write(connection.send(h11.Response(status_code=reply.status, headers=headers)) or b"")
    if reply.body:
        writer.write(connection.send(h11.Data(data=reply.body)) or b"")
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    await writer.drain()


async def _received(connection: h11.Connection, reader: asyncio.StreamReader) -> Call | None:
    request: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(64 * 1024))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
            assert len(body) < MAX_BYTES
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            headers = {name.decode().lower(): value.decode() for name, value in request.headers}
            return Call(request.target.decode(), headers, bytes(body))
        else:
            return None
