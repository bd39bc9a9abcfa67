"""Limits on what a connection sends and on where connections come from, on real sockets."""

import asyncio
import contextlib
import mmap
from collections.abc import AsyncIterator, Callable

import pytest
from pycrdt import Doc, Map, Text

from api.live.options import LiveOptions
from api.live.socket import LiveSocket
from crdt import awareness, hocuspocus, y_websocket
from crdt.awareness import Entry
from crdt.lib0 import var_string
from crdt.reading import CELLS
from tests.harness.live_service import LiveService, live_service
from tests.harness.raw_websocket import BINARY, CONTINUATION, PING, connected, frame, upgrade_head, upgraded
from tmi.domain.ids import DiagramId

KIB = 1024
KEPT = 64 * KIB


class Author:
    """Edits, one after another, of one Yjs client."""

    def __init__(self) -> None:
        self.doc: Doc[Map[object]] = Doc()
        self._cells = self.doc.get(CELLS, type=Map[object])

    def edit(self, key: str, value: str = "x") -> bytes:
        """An Update message."""
        before = self.doc.get_state()
        self._cells[key] = value
        return y_websocket.update(self.doc.get_update(before))

    def many(self, keys: int) -> bytes:
        """An Update message with so many edits."""
        before = self.doc.get_state()
        with self.doc.transaction():
            for n in range(keys):
                self._cells[str(n)] = "x"
        return y_websocket.update(self.doc.get_update(before))


async def keys_of(service: LiveService, diagram: DiagramId) -> set[str]:
    _, document = await service.rooms.read(diagram)
    return set(document.doc.get(CELLS, type=Map[object]).keys())


async def arrived(service: LiveService, diagram: DiagramId, keys: int) -> None:
    """Wait until the room knows so many keys."""
    async with asyncio.timeout(10):
        while len(await keys_of(service, diagram)) < keys:
            await asyncio.sleep(0.005)


async def test_a_client_over_its_rate_is_read_later_and_loses_nothing() -> None:
    options = LiveOptions(edits_per_s=200, edits_burst=20)
    async with live_service(options) as service:
        diagram, author = await service.diagram(), Author()
        async with upgraded(service.port, f"/collab/{diagram}?token={await service.token('alice')}") as raw:
            for n in range(120):
                raw.send_binary(author.edit(f"k{n}"))
            await arrived(service, diagram, 120)
            assert 0 < service.live.sockets.throttles
            raw.send_binary(y_websocket.sync_step1(b"\x00"))
            while not (await raw.receive_binary()).startswith(b"\x00\x01"):
                pass
        assert 0 == service.live.sockets.refusals["rate"]


@pytest.mark.parametrize(
    "options",
    [
        LiveOptions(edits_per_s=50, edits_burst=10, rate_patience_s=0.3),
        LiveOptions(bytes_per_s=50 * KIB, bytes_burst=10 * KIB, rate_patience_s=0.3),
    ],
)
async def test_a_client_that_stays_over_its_rate_is_told_to_come_back(options: LiveOptions) -> None:
    async with live_service(options) as service:
        diagram, author = await service.diagram(), Author()
        async with upgraded(service.port, f"/collab/{diagram}?token={await service.token('alice')}") as raw:
            raw.send(b"".join(frame(BINARY, author.edit(f"k{n}", "x" * KIB)) for n in range(500)))
            assert 1013 == (await raw.receive_close()).close_code
        assert 1 == service.live.sockets.refusals["rate"]
        assert 0 < len(await keys_of(service, diagram)) < 500


@pytest.mark.parametrize(
    "message",
    [var_string("x") + b"\x05" + var_string("y"), hocuspocus.PING],
    ids=["stateless", "ping"],
)
async def test_what_means_nothing_here_is_bounded_by_the_rate_before_anybody_signs_in(message: bytes) -> None:
    options = LiveOptions(edits_per_s=10, edits_burst=50, rate_patience_s=0.2)
    async with live_service(options) as service, upgraded(service.port, "/collab") as raw:
        raw.send(frame(BINARY, message) * 20)  # a burst of edits would be larger
        assert 1013 == (await raw.receive_close()).close_code
        assert 1 == service.live.sockets.refusals["rate"]


@pytest.mark.parametrize(
    "sent",
    [frame(PING) * 20, frame(BINARY, y_websocket.sync_step1(b"\x00") * 60)],
    ids=["pings", "many in a frame"],
)
async def test_what_costs_more_than_an_edit_counts_as_more(sent: bytes) -> None:
    options = LiveOptions(edits_per_s=10, edits_burst=50, rate_patience_s=0.2)
    async with live_service(options) as service:
        path = f"/collab/{await service.diagram()}?token={await service.token('alice')}"
        async with upgraded(service.port, path) as raw:
            raw.send(sent)
            assert 1013 == (await raw.receive_close()).close_code
        assert 1 == service.live.sockets.refusals["rate"]


QUESTIONS = {
    "state": y_websocket.sync_step1(b"\x00"),
    "difference": y_websocket.sync_step1(b"\x01\x07\x01"),
    "presence": y_websocket.QUERY_AWARENESS,
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
@pytest.mark.parametrize("is_hocuspocus", [False, True], ids=["y-websocket", "hocuspocus"])
async def test_who_asks_again_and_again_pays_for_the_answers(question: bytes, is_hocuspocus: bool) -> None:
    options = LiveOptions(bytes_per_s=100 * KIB, bytes_burst=200 * KIB, rate_patience_s=0.2)
    async with live_service(options) as service:
        diagram, author = await service.diagram(), Author()
        token = await service.token("alice")
        async with upgraded(service.port, f"/collab/{diagram}?token={token}") as raw:
            raw.send_binary(author.edit("text", "x" * 60_000))
            entry = Entry(7, 1, b'{"x":"%s"}' % (b"x" * 60_000))
            raw.send_binary(y_websocket.awareness(awareness.encode([entry])))
            await arrived(service, diagram, 1)
            async with upgraded(
                service.port, "/collab" if is_hocuspocus else f"/collab/{diagram}?token={token}"
            ) as asker:
                key = var_string(str(diagram)) if is_hocuspocus else b""
                if is_hocuspocus:
                    asker.send_binary(key + b"\x02\x00" + var_string(token))
                asker.send_binary(key + y_websocket.sync_step1(b"\x00"))
                await asyncio.sleep(0.02)
                assert 0 == service.live.sockets.throttles
                received = 0
                with contextlib.suppress(AssertionError):
                    for _ in range(1000):
                        asker.send_binary(key + question)
                        while len(message := await asker.receive_binary()) < 60_000:
                            pass
                        received += len(message)
                assert 1013 == service_closes(service)
                assert 100 * KIB < received < 600 * KIB


async def test_an_edit_that_takes_long_to_apply_is_paid_for() -> None:
    """Its author is not read for a while, and loses nothing."""
    async with live_service(LiveOptions(bytes_burst=1024 * KIB, bytes_per_s=1024 * KIB)) as service:
        diagram, author = await service.diagram(), Author()
        async with upgraded(service.port, f"/collab/{diagram}?token={await service.token('alice')}") as raw:
            raw.send_binary(author.edit("one", "x" * 600 * KIB))
            await arrived(service, diagram, 1)
            assert 0 == service.live.sockets.throttles, "as large, and no work"
            raw.send_binary(author.many(20_000))
            raw.send_binary(author.edit("last"))
            await arrived(service, diagram, 20_002)
        assert (1, 0) == (service.live.sockets.throttles, service.live.sockets.refusals["rate"])


async def test_an_edit_that_makes_the_document_be_built_anew_is_paid_for() -> None:
    """It comes between the halves of a character; see tests/unit/crdt/test_pairs.py."""
    typed, between, later = map(
        bytes.fromhex,
        ("01010700040104746578740661f09f98806200", "01010704c407010702017800", "0101070584070303656e6400"),
    )
    async with live_service(LiveOptions(bytes_burst=1024 * KIB)) as service:
        diagram, author = await service.diagram(), Author()
        path = f"/collab/{diagram}?token={await service.token('alice')}"
        async with upgraded(service.port, path) as other, upgraded(service.port, path) as raw:
            other.send_binary(author.edit("large", "x" * 500 * KIB))
            await arrived(service, diagram, 1)
            raw.send_binary(y_websocket.update(typed))
            await _shown(service, diagram, "a😀b")
            assert 0 == service.live.sockets.throttles
            raw.send_binary(y_websocket.update(between))
            await _shown(service, diagram, "a\ufffdx\ufffdb")
            assert 1 == service.live.sockets.throttles
            raw.send_binary(y_websocket.update(later))
            await _shown(service, diagram, "a\ufffdx\ufffdbend")
        assert (1, 0) == (service.live.sockets.throttles, service.live.sockets.refusals["rate"])


async def _shown(service: LiveService, diagram: DiagramId, text: str) -> None:
    async with asyncio.timeout(10):
        while text != str((await service.rooms.read(diagram))[1].doc.get("text", type=Text)):
            await asyncio.sleep(0.005)


def service_closes(service: LiveService) -> int:
    """The one code with which a socket was closed."""
    (code,) = [code for code, times in service.live.sockets.closes.items() if times]
    return code


async def test_a_newcomer_is_sent_the_document_for_nothing() -> None:
    options = LiveOptions(bytes_per_s=KIB, bytes_burst=10 * KIB)
    async with live_service(LiveOptions()) as service:
        diagram, author = await service.diagram(), Author()
        async with upgraded(service.port, f"/collab/{diagram}?token={await service.token('alice')}") as raw:
            raw.send_binary(author.edit("text", "x" * 60_000))
            await arrived(service, diagram, 1)
            service.live._options = options
            path = f"/collab/{diagram}?token={await service.token('alice')}"
            async with upgraded(service.port, path) as late:
                late.send_binary(y_websocket.sync_step1(b"\x01\x07\x01"))
                while len(await late.receive_binary()) < 60_000:
                    pass
                late.send_binary(Author().edit("mine"))
                await arrived(service, diagram, 2)
        assert 0 == service.live.sockets.throttles


async def test_a_large_first_frame_is_taken_however_low_the_rate() -> None:
    options = LiveOptions(bytes_per_s=KIB, bytes_burst=KIB, rate_patience_s=0.2)
    async with live_service(options) as service:
        diagram, author = await service.diagram(), Author()
        async with upgraded(service.port, f"/collab/{diagram}?token={await service.token('alice')}") as raw:
            raw.send_binary(author.edit("large", "x" * 500 * KIB))
            assert 1013 == (await raw.receive_close()).close_code
        assert {"large"} == await keys_of(service, diagram)


async def test_what_a_throttled_client_sends_waits_outside_this_process() -> None:
    options = LiveOptions(edits_per_s=1, edits_burst=5, rate_patience_s=1.0)
    async with live_service(options) as service:
        diagram, author = await service.diagram(), Author()
        path = f"/collab/{diagram}?token={await service.token('alice')}"
        async with upgraded(service.port, path) as raw:
            for n in range(400):
                raw.send_binary(author.edit(f"k{n}", "x" * 64 * KIB))
            await asyncio.sleep(0.3)
            # The kernel's buffers are full, so the sender's own fills up.
            assert 0 < raw.writer.transport.get_write_buffer_size()
            (socket,) = service.live.sockets
            assert socket.messages_in < 200
            assert 1013 == (await raw.receive_close_only()).close_code


async def test_a_throttled_client_is_not_read_until_its_pause_is_over() -> None:
    options = LiveOptions(edits_per_s=5, edits_burst=5, rate_patience_s=60.0)
    async with live_service(options) as service:
        diagram, author = await service.diagram(), Author()
        async with upgraded(service.port, f"/collab/{diagram}?token={await service.token('alice')}") as raw:
            raw.send(b"".join(frame(BINARY, author.edit(f"k{n}")) for n in range(15)))
            await until(lambda: service.live.sockets.throttles == 1)
            # The first pause is for the first frame too many; the next one is for all that came with it.
            raw.send_binary(author.edit("more"))
            await until(lambda: service.live.sockets.throttles == 2)
            (socket,) = service.live.sockets
            before = socket.messages_in
            raw.send_binary(author.edit("later"))
            await asyncio.sleep(0.5)
            assert before == socket.messages_in
            await arrived(service, diagram, 17)


async def test_another_client_is_served_meanwhile() -> None:
    options = LiveOptions(edits_per_s=5, edits_burst=5, rate_patience_s=2.0)
    async with live_service(options) as service:
        diagram, author = await service.diagram(), Author()
        path = f"/collab/{diagram}?token={await service.token('alice')}"
        async with upgraded(service.port, path) as busy, upgraded(service.port, path) as quiet:
            for n in range(100):
                busy.send_binary(author.edit(f"k{n}"))
            quiet.send_binary(Author().edit("quiet"))
            async with asyncio.timeout(1.5):
                while "quiet" not in await keys_of(service, diagram):
                    await asyncio.sleep(0.01)


async def test_a_throttled_client_does_not_count_as_silent() -> None:
    options = LiveOptions(sweep_s=3600, edits_per_s=1, edits_burst=5, rate_patience_s=60.0, ping_after_s=1e9)
    async with live_service(options) as service:
        diagram, author = await service.diagram(), Author()
        async with upgraded(service.port, f"/collab/{diagram}?token={await service.token('alice')}") as raw:
            raw.send(b"".join(frame(BINARY, author.edit(f"k{n}")) for n in range(20)))
            await until(lambda: service.live.sockets.throttles > 0)
            (socket,) = service.live.sockets
            now = asyncio.get_running_loop().time()
            for n in range(4):
                socket.visit(now + n * options.silence_max_s)
            raw.send_binary(author.edit("more"))
            await asyncio.sleep(0.02)
            assert [socket] == list(service.live.sockets)


async def test_a_throttled_socket_is_closed_at_once_when_the_node_drains() -> None:
    options = LiveOptions(edits_per_s=1, edits_burst=5, rate_patience_s=60.0)
    async with live_service(options) as service:
        diagram, author = await service.diagram(), Author()
        path = f"/collab/{diagram}?token={await service.token('alice')}"
        async with upgraded(service.port, path) as raw:
            for n in range(50):
                raw.send_binary(author.edit(f"k{n}"))
            await asyncio.sleep(0.1)
            await asyncio.gather(service.rooms.drain(2), service.live.drain(2), raw.receive_close())


def begun(size: int, claimed: int) -> bytes:
    """The beginning of a message that is never whole."""
    return frame(BINARY, b"x" * size, claimed=claimed)


async def test_of_who_has_not_signed_in_no_large_message_is_kept() -> None:
    async with live_service(LiveOptions(waiting_max_bytes=256 * KIB)) as service:
        for sent in (
            begun(300 * KIB, 16 * 1024 * KIB),
            frame(BINARY, b"x" * 200 * KIB, fin=False) + frame(CONTINUATION, b"x" * 100 * KIB, fin=False),
        ):
            async with upgraded(service.port, "/collab") as raw:
                raw.send(sent)
                assert 1013 == (await raw.receive_close_only()).close_code
        assert 2 == service.live.sockets.refusals["waiting"]
        await until(lambda: service.live.sockets.partial_bytes == 0)


@pytest.mark.parametrize("is_hocuspocus", [False, True], ids=["y-websocket", "hocuspocus"])
async def test_of_who_has_signed_in_a_message_that_grows_too_large_is_refused_for_its_size(
    is_hocuspocus: bool,
) -> None:
    """In fragments: the parts that are kept are over the limit before the last one is whole."""
    async with live_service(LiveOptions(frame_max_bytes=256 * KIB)) as service:
        diagram = await service.diagram()
        token = await service.token("alice")
        path = "/collab" if is_hocuspocus else f"/collab/{diagram}?token={token}"
        async with upgraded(service.port, path) as raw:
            if is_hocuspocus:
                raw.send_binary(var_string(str(diagram)) + b"\x02\x00" + var_string(token))
                await raw.receive_binary()
            raw.send(frame(BINARY, b"x" * 200 * KIB, fin=False))
            raw.send(frame(CONTINUATION, b"x" * 200 * KIB, fin=False)[:-1])
            closed = await raw.receive_close_only()
        assert (1009, b"the message is too large") == (closed.close_code, closed.payload[2:])
        refusals = service.live.sockets.refusals
        assert (1, 0) == (refusals["frame"], refusals["waiting"])


async def test_messages_that_are_not_whole_are_bounded_for_all_together() -> None:
    options = LiveOptions(partial_total_max_bytes=1024 * KIB)
    async with live_service(options) as service:
        diagram, author = await service.diagram(), Author()
        path = f"/collab/{diagram}?token={await service.token('alice')}"
        async with upgraded(service.port, path) as one, upgraded(service.port, path) as two:
            one.send(begun(700 * KIB, 8 * 1024 * KIB))
            await until(lambda: service.live.sockets.partial_bytes > 650 * KIB)
            two.send(begun(700 * KIB, 8 * 1024 * KIB))
            assert 1013 == (await two.receive_close_only()).close_code
            assert 1 == service.live.sockets.refusals["partial"]
        await until(lambda: service.live.sockets.partial_bytes == 0)
        async with upgraded(service.port, path) as whole:
            for key in ("a", "b"):  # what was whole counts no more
                whole.send_binary(author.edit(key, "x" * 900 * KIB))
                await until(lambda: service.live.sockets.partial_bytes == 0)
            await arrived(service, diagram, 2)
        assert 1 == service.live.sockets.refusals["partial"]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def few() -> AsyncIterator[LiveService]:
    async with live_service(LiveOptions(sockets_per_address_max=2)) as running:
        yield running


async def test_connections_of_an_address_are_bounded(few: LiveService) -> None:
    diagram = await few.diagram()
    path = f"/collab/{diagram}?token={await few.token('alice')}"
    async with upgraded(few.port, path), upgraded(few.port, "/collab"), connected(few.port) as third:
        third.send(upgrade_head(path))
        answer = await third.answer()
        assert (429, "2") == (answer.status, answer.headers["retry-after"])
        assert b"this address has too many connections" in answer.body.lower()
        assert 1 == few.live.sockets.refusals["sockets_per_address"]


async def test_a_connection_that_ended_or_was_refused_counts_no_more(few: LiveService) -> None:
    diagram = await few.diagram()
    path = f"/collab/{diagram}?token={await few.token('alice')}"
    for _ in range(4):
        async with connected(few.port) as raw:
            raw.send(upgrade_head(f"/collab/{diagram}?token=wrong"))
            assert 401 == (await raw.answer()).status
    for _ in range(4):
        async with upgraded(few.port, path):
            pass
        async with asyncio.timeout(5):
            while few.live.sockets.connections_of("127.0.0.1"):
                await asyncio.sleep(0.005)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(upgraded(few.port, path))
        assert 2 == few.live.sockets.connections_of("127.0.0.1")


@pytest.mark.parametrize("fragments", [1, 2])
async def test_the_place_of_a_large_message_that_is_through_does_not_stay_in_memory(fragments: int) -> None:
    """picows never makes its read buffer smaller."""
    async with live_service() as service:
        path = f"/collab/{await service.diagram()}?token={await service.token('alice')}"
        async with upgraded(service.port, path) as raw:
            state = awareness.encode([Entry(n, 1, b'{"x":"%s"}' % (b"x" * 60_000)) for n in range(100)])
            message = y_websocket.awareness(state)
            half = len(message) // fragments
            raw.send(frame(BINARY, message[:half], fin=fragments == 1))
            if fragments == 2:
                raw.send(frame(CONTINUATION, message[half:]))
            (socket,) = service.live.sockets
            await until(lambda: socket.messages_in == fragments)
            raw.send_binary(b"\x03")  # QueryAwareness
            assert (await raw.receive_binary()).startswith(b"\x01")
            assert isinstance(socket, LiveSocket)
            assert socket._tcp is not None
            buffer = bytes(socket._tcp.get_protocol().unused())  # type: ignore[attr-defined]
            assert len(buffer) > len(message) // 2
            assert 0 == sum(map(bool, buffer[KEPT + mmap.PAGESIZE : -mmap.PAGESIZE]))
