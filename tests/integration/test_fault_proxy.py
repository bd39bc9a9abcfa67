"""The proxy by which other tests break networks does what they rely on."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.harness.fault_proxy import Direction, Edge, FaultProxy, dialled_by, proxied

SILENCE_S = 0.2
ANSWER_S = 5.0


async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that says what it hears, and ends when its client does."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


def place_of(server: asyncio.Server) -> str:
    return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


class Way:
    """A client of the repeating server, through an edge."""

    def __init__(self, edge: Edge, port: int) -> None:
        self.edge = edge
        self.port = port
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter
        self._opened: list[asyncio.StreamWriter] = []

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._opened.append(self.writer)

    def close(self) -> None:
        for writer in self._opened:
            writer.close()

    async def open_and_ask(self, data: bytes) -> bytes:
        await self.open()
        return await self.ask(data)

    async def ask(self, data: bytes) -> bytes:
        self.writer.write(data)
        async with asyncio.timeout(ANSWER_S):
            return await self.reader.readexactly(len(data))

    async def hears_nothing(self) -> bool:
        try:
            async with asyncio.timeout(SILENCE_S):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False


@asynccontextmanager
async def way_to(upstream: str) -> AsyncIterator[Way]:
    async with proxied("edge", upstream) as (edge, port):
        way = Way(edge, port)
        await way.open()
        try:
            yield way
        finally:
            way.close()


@pytest.fixture
async def way() -> AsyncIterator[Way]:
    async with await asyncio.start_server(repeat, "127.0.0.1", 0) as server, way_to(place_of(server)) as way:
        yield way


async def test_bytes_pass_in_order_and_in_any_amount(way: Way) -> None:
    data = os.urandom(3_000_000)
    sending = asyncio.create_task(way.ask(data))
    assert data == await sending


async def test_a_server_on_a_unix_socket_is_reached(tmp_path: Path) -> None:
    path = f"/tmp/tmi-proxy-{os.getpid()}.sock"
    async with await asyncio.start_unix_server(repeat, path), way_to(path) as way:
        assert b"hello" == await way.ask(b"hello")
    Path(path).unlink(missing_ok=True)


async def test_a_delay_is_added_each_way_and_keeps_the_order(way: Way) -> None:
    way.edge.delay(0.1, jitter_s=0.05)
    began = time.monotonic()
    for number in range(10):
        way.writer.write(bytes([number]))
        await asyncio.sleep(0)
    assert bytes(range(10)) == await way.reader.readexactly(10)
    assert 0.2 <= time.monotonic() - began < 2


async def test_a_throttled_edge_carries_so_many_bytes_a_second(way: Way) -> None:
    way.edge.throttle(100_000)
    began = time.monotonic()
    await way.ask(bytes(20_000))
    assert 0.2 <= time.monotonic() - began < 3


async def test_a_black_hole_swallows_everything_and_gives_it_back_when_it_heals(way: Way) -> None:
    assert b"before" == await way.ask(b"before")
    way.edge.blackhole()
    way.writer.write(b"during")
    assert await way.hears_nothing()
    way.edge.heal()
    assert b"during" == await way.reader.readexactly(6)


async def test_a_black_hole_of_one_direction_lets_the_other_through() -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.put_nowait(await reader.read(100))
        writer.write(b"answer")
        writer.close()

    async with await asyncio.start_server(hear, "127.0.0.1", 0) as server, way_to(place_of(server)) as way:
        way.edge.blackhole(Direction.BACK)
        way.writer.write(b"question")
        assert b"question" == await heard.get()
        assert await way.hears_nothing()


async def test_in_a_black_hole_the_end_of_a_connection_is_not_heard_of(way: Way) -> None:
    assert b"before" == await way.ask(b"before")
    way.edge.blackhole(Direction.BACK)
    way.writer.write_eof()
    assert await way.hears_nothing()
    way.edge.heal()
    assert b"" == await way.reader.read(1)


async def test_a_connection_into_a_black_hole_opens_and_stays_silent(way: Way) -> None:
    way.edge.blackhole()
    await way.open()
    way.writer.write(b"x")
    assert await way.hears_nothing()


async def test_a_cut_by_rst_is_a_reset_and_by_fin_an_end(way: Way) -> None:
    await way.ask(b"x")
    way.edge.cut(reset=False)
    assert b"" == await way.reader.read(1)
    await way.open()
    await way.ask(b"x")
    way.edge.cut()
    with pytest.raises(ConnectionResetError):
        await way.reader.read(1)


async def test_who_connects_while_it_refuses_is_reset_and_later_let_in(way: Way) -> None:
    way.edge.break_off()
    with pytest.raises(OSError):  # at the connection or at its first use
        await way.open_and_ask(b"x")
    way.edge.heal()
    assert b"x" == await way.open_and_ask(b"x")


async def test_each_process_may_have_an_edge_of_its_own_through_one_port() -> None:
    async with await asyncio.start_server(repeat, "127.0.0.1", 0) as server:
        upstream = place_of(server)
        ours, theirs = Edge("ours", upstream), Edge("theirs", upstream)
        processes = {"theirs": 1, "ours": os.getpid()}
        edges = {"ours": ours, "theirs": theirs}
        async with FaultProxy(lambda port: edges[dialled_by(port, processes)]) as proxy:
            way = Way(ours, proxy.port)
            await way.open()
            assert b"x" == await way.ask(b"x")
            assert (1, 0) == (ours.open_connections, theirs.open_connections)
            way.close()
