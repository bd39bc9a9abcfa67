"""What a live socket may cost: before it is authenticated, and when it does not read."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack

import pytest

from api.live.options import LiveOptions
from api.live.socket import binary_frame
from api.live.y_websocket import FRAMING
from crdt import y_websocket
from crdt.lib0 import var_string
from crdt.messages import SyncStep1
from persistence.memory.access import MemoryAccessControl
from rooms.effects import Broadcast
from rooms.peer import Member
from tests.harness.echo_socket import EchoSocket, echo_server
from tests.harness.live_service import LiveService, an_update, live_service
from tests.harness.raw_websocket import BINARY, PING, connected, frame, upgrade_head, upgraded
from tmi.domain.ports import Entrant, Standing
from tmi.domain.roles import Role

STEP_1 = y_websocket.sync_step1(b"\x00")
DIAGRAM = "00000000-0000-4000-8000-000000000001"
MIB = 1024 * 1024


@pytest.fixture
async def service() -> AsyncIterator[LiveService]:
    options = LiveOptions(
        sweep_s=0.1,
        waiting_max_bytes=10_000,
        waiting_max_frames=50,
        documents_per_socket_max=5,
        denials_max=5,
        auth_timeout_s=0.3,
        unused_max_s=1.0,
        handshakes_max=4,
    )
    async with live_service(options) as running:
        yield running


async def test_frames_before_auth_are_bounded_in_bytes(service: LiveService) -> None:
    async with upgraded(service.port, "/collab") as raw:
        raw.send_binary(var_string(DIAGRAM) + y_websocket.update(bytes(9000)))
        raw.send_binary(var_string(DIAGRAM + "\0s") + y_websocket.update(bytes(2000)))
        assert 1013 == (await raw.receive_close()).close_code
    assert {"waiting": 1} == service.live.sockets.refusals


async def test_frames_before_auth_are_bounded_in_number(service: LiveService) -> None:
    async with upgraded(service.port, "/collab") as raw:
        for _ in range(51):
            raw.send_binary(var_string(DIAGRAM) + STEP_1)
        assert 1013 == (await raw.receive_close()).close_code
    assert {"waiting": 1} == service.live.sockets.refusals


async def test_documents_of_a_socket_are_bounded(service: LiveService) -> None:
    async with upgraded(service.port, "/collab") as raw:
        for n in range(6):
            raw.send_binary(var_string(f"{DIAGRAM}\0{n}") + STEP_1)
        assert 4400 == (await raw.receive_close()).close_code
    assert {"documents_per_socket": 1} == service.live.sockets.refusals


async def test_traffic_does_not_extend_the_time_for_auth(service: LiveService) -> None:
    async with upgraded(service.port, "/collab") as raw, asyncio.TaskGroup() as group:

        async def chat() -> None:
            while True:
                raw.send_binary(var_string(DIAGRAM) + b"\x03")
                await asyncio.sleep(0.05)

        chatting = group.create_task(chat())
        denied = var_string(DIAGRAM) + b"\x02\x01" + var_string("authenticate first")
        assert denied == await raw.receive_binary()
        assert 4401 == (await raw.receive_close()).close_code
        chatting.cancel()


async def test_a_socket_that_never_says_anything_is_closed(service: LiveService) -> None:
    async with upgraded(service.port, "/collab") as raw:
        assert 4401 == (await raw.receive_close()).close_code


async def test_refusals_on_one_socket_are_bounded(service: LiveService) -> None:
    async with upgraded(service.port, "/collab") as raw:
        for _ in range(6):
            raw.send_binary(var_string(DIAGRAM) + b"\x02\x00" + var_string("bad"))
            await asyncio.sleep(0.01)
        assert 4401 == (await raw.receive_close()).close_code


async def test_sockets_without_a_document_are_bounded_and_an_open_one_makes_room(
    service: LiveService,
) -> None:
    diagram = await service.diagram()
    async with (
        upgraded(service.port, "/collab") as first,
        upgraded(service.port, "/collab"),
        upgraded(service.port, "/collab"),
        upgraded(service.port, "/collab"),
    ):
        async with connected(service.port) as refused:
            refused.send(upgrade_head("/collab"))
            assert 503 == (await refused.answer()).status
        token = await service.token("alice")
        first.send_binary(var_string(str(diagram)) + b"\x02\x00" + var_string(token))
        await first.receive_binary()
        async with upgraded(service.port, "/collab"):
            pass


async def test_sockets_in_all_and_documents_of_a_user_are_bounded() -> None:
    async with live_service(LiveOptions(sockets_max=3, documents_per_user_max=2)) as service:
        diagram = await service.diagram()
        path = f"/collab/{diagram}?token={await service.token('alice', diagram)}"
        async with upgraded(service.port, path):
            async with upgraded(service.port, path) as second:
                async with connected(service.port) as third:
                    third.send(upgrade_head(path))
                    assert 429 == (await third.answer()).status
                async with upgraded(service.port, "/collab"), connected(service.port) as fourth:
                    fourth.send(upgrade_head(path))
                    assert 503 == (await fourth.answer()).status
                await second.aclose()
            await asyncio.sleep(0.05)
            async with upgraded(service.port, path):
                pass


class Slow(MemoryAccessControl):
    """Answers nobody at the door until it may."""

    may: asyncio.Event

    async def standings(self, entrants: Sequence[Entrant]) -> Sequence[Standing]:
        await self.may.wait()
        return await super().standings(entrants)


async def test_sockets_without_a_document_are_bounded_and_each_that_ends_makes_room(
    service: LiveService,
) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(upgraded(service.port, "/collab"))
        for refused in (1, 2):
            async with upgraded(service.port, "/collab"), connected(service.port) as fifth:
                fifth.send(upgrade_head("/collab"))
                answer = await fifth.answer()
                assert (503, "2", True) == (
                    answer.status, answer.headers["retry-after"], b"being opened" in answer.body
                )  # fmt: skip
                assert {"handshakes": refused} == service.live.sockets.refusals
            await until(lambda: service.live._handshakes == 3)
    await until(lambda: service.live._handshakes == 0)


async def test_sockets_at_the_upgrade_count_among_all() -> None:
    Slow.may = asyncio.Event()
    async with live_service(LiveOptions(sockets_max=2), access_over=Slow) as service:
        diagram = await service.diagram()
        path = f"/collab/{diagram}?token={await service.token('alice', diagram)}"
        async with (
            connected(service.port) as one,
            connected(service.port) as two,
            connected(service.port) as three,
        ):
            for raw in (one, two):
                raw.send(upgrade_head(path))
            await until(lambda: service.live._handshakes == 2)
            three.send(upgrade_head(path))
            assert 503 == (await three.answer()).status
            assert 1 == service.live.sockets.refusals["sockets"]
            Slow.may.set()
            for raw in (one, two):
                assert 101 == (await raw.answer()).status


async def test_a_client_that_does_not_read_is_paused_and_comes_back() -> None:
    async with echo_server(LiveOptions(sweep_s=3600)) as server, upgraded(server.port, "/") as raw:
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        message = frame(BINARY, bytes(100_000))
        while not server.sockets or not server.last.pauses:
            raw.send(message)
            await asyncio.sleep(0)
        raw.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert 100_000 == len(await raw.receive_binary())
        async with asyncio.timeout(10):
            while not server.last.resumes:
                await raw.receive_binary()
        assert not server.last.is_closing


async def test_what_is_written_to_a_client_that_does_not_read_is_bounded() -> None:
    options = LiveOptions(sweep_s=3600, close_timeout_s=0.2)
    async with echo_server(options) as server, upgraded(server.port, "/") as raw:
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        most = 0
        async with asyncio.timeout(10):
            while not server.sockets or not server.last.is_closing:
                raw.send(frame(BINARY, bytes(10_000)))
                await asyncio.sleep(0)
                if server.sockets and server.last._tcp is not None:
                    most = max(most, server.last._tcp.get_write_buffer_size())
            await server.registry.none_left()
        assert most < MIB + 64 * 1024
        assert 1 == server.last.endings
        assert 1 == server.registry.refusals["outbox"]


async def test_pings_of_a_client_that_does_not_read_are_not_answered() -> None:
    options = LiveOptions(sweep_s=3600, edits_burst=1_000_000)
    async with echo_server(options) as server, upgraded(server.port, "/") as raw:
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            while not server.sockets or not server.last.pauses:
                raw.send(frame(BINARY, bytes(10_000)))
                await asyncio.sleep(0)
            while raw.writer.transport.get_write_buffer_size():
                await asyncio.sleep(0.001)
        socket = server.last
        await quiet(socket)
        queued, received = socket.queued_bytes, socket.messages_in
        for _ in range(20):
            raw.send(frame(PING, bytes(125)) * 10)
            await asyncio.sleep(0)
        await until(lambda: socket.messages_in == received + 200)
        assert queued == socket.queued_bytes
        assert not socket.is_closing


async def quiet(socket: EchoSocket) -> None:
    """Wait until all that was sent has been handled."""
    async with asyncio.timeout(5):
        before = -1
        while socket.messages_in != before:
            before = socket.messages_in
            await asyncio.sleep(0.02)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


class Turns:
    """How many messages a socket handles in one turn of the loop, at most."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = self.all = 0
        self._turn = self._turn_of = self._here = 0

        def received(_: EchoSocket, message: bytes) -> None:
            if self._turn != self._turn_of:
                self._turn_of, self._here = self._turn, 0
            self.all += 1
            self._here += 1
            self.most = max(self.most, self._here)

        monkeypatch.setattr(EchoSocket, "received", received)

    async def count(self) -> None:
        while True:
            self._turn += 1
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("begin", "end", "read_bytes"),
    [
        (frame(BINARY, bytes(MIB)), b"", 4096),
        (frame(BINARY, bytes(MIB))[:-100], frame(BINARY, bytes(MIB))[-100:], 16 * 1024),
    ],
    ids=["whole", "partial"],
)
async def test_of_many_small_frames_few_are_handled_at_once_however_large_one_was(
    begin: bytes, end: bytes, read_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """picows' read buffer grows with a large message, and all that is in it is handled in one go."""
    turns = Turns(monkeypatch)
    options = LiveOptions(sweep_s=3600, edits_burst=1_000_000)
    async with echo_server(options) as server, upgraded(server.port, "/") as raw:
        counting = asyncio.create_task(turns.count())
        raw.send(begin)
        await until(lambda: turns.all or (end and server.last.since_frame == len(begin)))
        raw.send(end + frame(BINARY) * 10_000)
        await until(lambda: turns.all == 10_001)
        counting.cancel()
    assert turns.most <= read_bytes // len(frame(BINARY)) + 1


async def test_of_many_pings_at_once_the_first_and_the_last_are_answered() -> None:
    async with echo_server(LiveOptions(sweep_s=3600)) as server, upgraded(server.port, "/") as raw:
        raw.send(b"".join(frame(PING, bytes((n,))) for n in range(60)))
        assert [b"\x00", bytes((59,))] == [(await raw.receive()).payload for _ in range(2)]
        raw.send(frame(PING, b"later"))
        assert b"later" == (await raw.receive()).payload
        assert 61 == server.last.messages_in


async def test_a_client_that_is_to_be_closed_since_it_does_not_read_is_not_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served: list[bool] = []

    def received(socket: EchoSocket, _: bytes) -> None:
        served.append(server.registry.refusals["outbox"] == 0)
        socket.write(binary_frame(bytes(100_000)))

    monkeypatch.setattr(EchoSocket, "received", received)
    options = LiveOptions(sweep_s=3600, close_timeout_s=0.2)
    async with echo_server(options) as server, upgraded(server.port, "/") as raw:
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        raw.send(frame(BINARY) * 2_000)
        async with asyncio.timeout(5):
            while not server.sockets:
                await asyncio.sleep(0)
            await server.registry.none_left()
    assert served
    assert all(served)


async def test_a_client_that_stalls_for_too_long_is_dropped() -> None:
    options = LiveOptions(sweep_s=0.1, stall_max_s=0.3)
    async with echo_server(options) as server, upgraded(server.port, "/") as raw:
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            while not server.sockets or not server.last.pauses:
                raw.send(frame(BINARY, bytes(100_000)))
                await asyncio.sleep(0)
            await server.registry.none_left()


async def test_a_room_is_not_held_up_by_a_client_that_does_not_read() -> None:
    async with live_service(LiveOptions(sweep_s=3600)) as service:
        diagram = await service.diagram()
        path = f"/collab/{diagram}?token={await service.token('alice', diagram)}"
        async with (
            upgraded(service.port, path) as slow,
            upgraded(service.port, path) as writer,
            upgraded(service.port, path) as reader,
        ):
            for raw in (slow, writer, reader):
                raw.send_binary(STEP_1)
                await raw.receive_binary()
            slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
            for n in range(100):
                writer.send_binary(y_websocket.update(an_update(f"k{n}", "x" * 100_000)))
                while (await reader.receive_binary())[:2] != b"\x00\x02":
                    pass
            slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
            total = 0
            async with asyncio.timeout(10):
                while total < 100 * 100_000:
                    total += len(await slow.receive_binary())


class Recorder:
    """Somebody in the room whose socket takes everything."""

    framing = FRAMING
    wants_acknowledgements = False

    def __init__(self) -> None:
        self.wires: list[bytes] = []

    def frame(self, body: bytes) -> bytes:
        return binary_frame(body)

    def write_state(self, *wires: bytes) -> None:
        for wire in wires:
            self.write(wire)

    def write(self, wire: bytes) -> None:
        self.wires.append(wire)

    def acknowledge(self, syncs: int, updates: int) -> None: ...
    def refuse(self, reason: str) -> None: ...
    def role_changed(self, role: Role) -> None: ...
    def answered(self, size: int) -> None: ...

    def hold_back(self) -> None: ...

    def go_on(self) -> None: ...
    def close(self, code: int, reason: str) -> None: ...


async def test_a_client_that_overflows_in_the_middle_of_a_broadcast_ends_alone() -> None:
    async with live_service(LiveOptions(sweep_s=3600)) as service:
        diagram, alice = await service.diagram(), await service.someone("alice")
        path = f"/collab/{diagram}?token={await service.token('alice', diagram)}"
        async with upgraded(service.port, path) as slow:
            slow.send_binary(STEP_1)
            await slow.receive_binary()
            slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
            recorder = Recorder()
            session = await service.rooms.join(diagram, Member(alice.id, alice.sign_in, Role.OWNER), recorder)
            session.receive(SyncStep1(b"\x00"))
            recorder.wires.clear()
            runner = service.rooms.owned(diagram)
            assert runner is not None
            bodies = [y_websocket.update(an_update(str(n), "x" * 8 * MIB)) for n in range(2)]
            # In one turn of the loop: the room learns only afterwards that somebody reads too slowly.
            runner.perform(map(Broadcast, bodies))
            assert list(map(binary_frame, bodies)) == recorder.wires
            async with asyncio.timeout(5):
                while service.rooms.sessions > 1:
                    await asyncio.sleep(0.01)
            assert 1 == service.live.sockets.closes[1013]
            session.leave()
