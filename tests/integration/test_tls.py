"""TLS on the one port: REST, both kinds of sockets by stock clients, and a certificate that changes."""

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from api import headers
from api.headers import StrictTransport
from api.live.options import LiveOptions
from crdt import y_websocket
from tests.harness.certificates import Authority, Pair
from tests.harness.kinds import spec_of
from tests.harness.live_service import LiveService, an_update, live_service
from tests.harness.node import NodeDriver
from tests.harness.raw_websocket import RawWebSocket, upgrade_head
from tests.harness.rest import Rest
from tests.harness.service import Service, children_of
from tmi.listener import ListenerOptions
from tmi.tls import Certificate

KINDS = ("y-websocket-3.1", "hocuspocus-4.8")
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Server:
    """A listener with TLS in this process, and the files that it reads."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.files = folder / "tls.pem", folder / "tls.key"
        self.pair = self.renew()
        self.certificate = Certificate.load(*self.files)
        self.service: LiveService

    def renew(self) -> Pair:
        pair = self.authority.issue()
        pair.write(*self.files)
        return pair

    @contextlib.asynccontextmanager
    async def connected(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawWebSocket]:
        tls = tls or self.authority.trusting()
        raw = RawWebSocket(*await asyncio.open_connection("127.0.0.1", self.service.port, ssl=tls))
        try:
            yield raw
        finally:
            await raw.aclose()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(tmp_path)
    limits = ListenerOptions(tls=server.certificate.for_next, handshake_timeout_s=0.5, handshakes_max=3)
    async with live_service(LiveOptions(sweep_s=3600, hsts=StrictTransport(60)), limits) as server.service:
        yield server


async def serial_at(port: int, tls: ssl.SSLContext) -> int:
    """The number of the certificate that a new connection is shown."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return x509.load_der_x509_certificate(shown).serial_number


async def test_older_versions_are_refused(server: Server) -> None:
    old = server.authority.trusting(ssl.TLSVersion.TLSv1_2)
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        async with server.connected(old):
            pass
    async with server.connected() as raw:
        assert "TLSv1.3" == raw.writer.get_extra_info("ssl_object").version()


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), (["h2"], None)]
)
async def test_http_1_1_is_all_that_is_agreed_on(
    offered: list[str], chosen: str | None, server: Server
) -> None:
    tls = server.authority.trusting()
    tls.set_alpn_protocols(offered)
    async with server.connected(tls) as raw:
        assert chosen == raw.writer.get_extra_info("ssl_object").selected_alpn_protocol()


async def test_rest_is_served_and_pipelined_requests_too(server: Server) -> None:
    async with server.connected() as raw:
        raw.send(LIVEZ * 2)
        assert [b"ok"] * 2 == [(await raw.answer()).body for _ in range(2)]


async def test_a_large_body_arrives_whole(server: Server) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n"
    async with server.connected() as raw:
        raw.send(head + b"b" * 300_000)
        assert b"b" * 300_000 == (await raw.answer()).body


async def test_plain_http_gets_no_answer(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.service.port)
    writer.write(LIVEZ)
    with contextlib.suppress(ConnectionResetError):
        assert b"HTTP" not in await asyncio.wait_for(reader.read(), 5)
    writer.close()


async def test_refusals_before_the_application_have_the_headers_of_all_others(server: Server) -> None:
    requests = {
        400: b"nonsense\r\n\r\n",
        426: b"GET /collab HTTP/1.1\r\nHost: x\r\n\r\n",
        401: upgrade_head("/collab/00000000-0000-4000-8000-00000000000a?token=x"),
        431: b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000,
    }
    for status, request in requests.items():
        async with server.connected() as raw:
            raw.send(request)
            answer = await raw.answer()
            assert status == answer.status
            assert "max-age=60" == answer.headers["strict-transport-security"]
            for name, value in headers.ALWAYS.items():
                assert value == answer.headers[name.lower()]


async def test_who_does_not_finish_the_handshake_is_dropped_and_others_are_served(server: Server) -> None:
    idle = [socket.create_connection(("127.0.0.1", server.service.port)) for _ in range(3)]
    try:
        await asyncio.sleep(0.1)
        with pytest.raises((ConnectionError, ssl.SSLError)):  # as many as may be are under way
            async with server.connected():
                pass
        assert 1 == server.service.live.sockets.refusals["tls_handshakes"]
        await asyncio.sleep(0.6)
        async with server.connected() as raw:
            raw.send(LIVEZ)
            assert b"ok" == (await raw.answer()).body
        for connection in idle:
            connection.settimeout(2)
            assert b"" == connection.recv(1)
    finally:
        for connection in idle:
            connection.close()


async def test_a_new_certificate_is_for_new_connections_and_open_ones_stay(server: Server) -> None:
    diagram = await server.service.diagram()
    path = f"/collab/{diagram}?token={await server.service.token('alice', diagram)}"
    async with server.connected() as raw, server.connected() as rest:
        raw.send(upgrade_head(path))
        assert 101 == (await raw.answer()).status
        fresh = server.renew()
        server.certificate.refresh()
        assert fresh.serial == await serial_at(server.service.port, server.authority.trusting())
        raw.send_binary(y_websocket.sync_step1(b"\x00"))
        assert y_websocket.sync_step2(b"\x00\x00") == await raw.receive_binary()
        rest.send(LIVEZ)
        assert b"ok" == (await rest.answer()).body


async def test_a_large_document_goes_both_ways(server: Server) -> None:
    """More than a record of TLS, and more than a socket's buffers."""
    diagram = await server.service.diagram()
    path = f"/collab/{diagram}?token={await server.service.token('alice', diagram)}"
    update = an_update("big", "x" * 4_000_000)
    async with server.connected() as writer, server.connected() as reader:
        for raw in (writer, reader):
            raw.send(upgrade_head(path))
            assert 101 == (await raw.answer()).status
            raw.send_binary(y_websocket.sync_step1(b"\x00"))
            assert y_websocket.sync_step2(b"\x00\x00") == await raw.receive_binary()
        writer.send_binary(y_websocket.update(update))
        while len(await reader.receive_binary()) < len(update):  # the server's own SyncStep1 comes first
            pass


# --- the whole service --------------------------------------------------------------------------


class Deployment:
    """`tmi serve` with TLS and two workers, and the files that they read."""

    def __init__(self, folder: Path, workers: int, check_s: float) -> None:
        self.authority = Authority(folder)
        self.files = folder / "tls.pem", folder / "tls.key"
        self.pair = self.authority.issue()
        self.pair.write(*self.files)
        certificate, key = map(str, self.files)
        self.service = Service(
            folder / "data",
            {
                "TMI_TLS_CERT_FILE": certificate,
                "TMI_TLS_KEY_FILE": key,
                "TMI_TLS_CHECK_S": str(check_s),
                "TMI_WORKERS": str(workers),
            },
        )
        self.tls = self.authority.trusting()

    async def until_shown(self, serial: int, times: int = 1) -> None:
        """Wait until so many new connections in a row are shown this certificate."""
        deadline, seen = time.monotonic() + 10, 0
        while seen < times:
            assert time.monotonic() < deadline, "the new certificate is not shown"
            seen = seen + 1 if await serial_at(self.service.port, self.tls) == serial else 0
            await asyncio.sleep(0.02)


def figure(text: str, name: str) -> float:
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(name + " "))


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path, workers=1, check_s=0.2)
    with deployment.service:
        yield deployment


async def test_stock_clients_stay_while_the_certificate_changes_by_signal_and_by_file(
    deployment: Deployment,
) -> None:
    service, authority = deployment.service, deployment.authority
    with NodeDriver(authority=authority.file) as driver:
        async with Rest(service.url, tls=deployment.tls) as rest:
            alice = await rest.sign_in("alice")
            place = await rest.create_place(alice)
            token = await rest.collab_token(alice, place.diagram)
            figures = (await rest.http.get("/metrics")).text
        await driver.open(spec_of(kind, kind, service.collab, place.diagram, token) for kind in KINDS)
        await driver.wait(KINDS, "synced")
        by_file = authority.issue()
        by_file.write(*deployment.files)
        await deployment.until_shown(by_file.serial)
        # A broken pair stays out, at a signal too; the next good one does not.
        Pair(by_file.certificate, authority.issue().key, 0).write(*deployment.files)
        os.kill(service.pid, signal.SIGHUP)
        async with asyncio.timeout(10):
            while "the TLS certificate in use stays" not in service.output():
                await asyncio.sleep(0.05)
        await deployment.until_shown(by_file.serial)
        by_signal = authority.issue()
        by_signal.write(*deployment.files)
        os.kill(service.pid, signal.SIGHUP)
        await deployment.until_shown(by_signal.serial)
        await driver.call("stream", stream="s", names=list(KINDS), per_second=50, prefix="s", mixed=0)
        await asyncio.sleep(0.3)
        await driver.call("stop_stream", stream="s")
        await driver.wait(KINDS, "settled")
        for kind in KINDS:
            report = await driver.report(kind)
            assert (1, []) == (report["opened"], report["closes"])
    assert f"TMI is ready at {service.url}" in service.output()
    assert service.url.startswith("https://")
    ends_at = x509.load_pem_x509_certificate(deployment.pair.certificate).not_valid_after_utc.timestamp()
    assert (ends_at, 0.0) == (
        figure(figures, "tmi_tls_certificate_expires_seconds"),
        figure(figures, "tmi_tls_certificate_stale"),
    )
    assert 0 == service.stop()


async def test_all_workers_follow_a_signal_to_their_parent(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, workers=2, check_s=3600)
    with deployment.service as service:
        workers = set(children_of(service.pid))
        fresh = deployment.authority.issue()
        fresh.write(*deployment.files)
        os.kill(service.pid, signal.SIGHUP)
        await deployment.until_shown(fresh.serial, times=20)  # the kernel spreads connections over both
        assert workers == set(children_of(service.pid)), "nobody was started anew"
        async with Rest(service.url, tls=deployment.tls) as rest:
            assert 200 == (await rest.http.get("/livez")).status_code
        assert 0 == service.stop()


async def test_handshakes_of_one_address_are_bounded_and_given_back(tmp_path: Path) -> None:
    server = Server(tmp_path)
    limits = ListenerOptions(tls=server.certificate.for_next, handshake_timeout_s=0.3, per_address_max=1)
    async with live_service(LiveOptions(sweep_s=3600), limits) as server.service:
        with socket.create_connection(("127.0.0.1", server.service.port)):
            await asyncio.sleep(0.1)
            with pytest.raises((ConnectionError, ssl.SSLError)):
                async with server.connected():
                    pass
            await asyncio.sleep(0.4)
            async with server.connected() as raw:
                raw.send(LIVEZ)
                assert b"ok" == (await raw.answer()).body
                assert 1 == len(server.service.listener.by_address)
                # Who was refused is counted nowhere, and who has sent a request is being opened no more.
                assert (0, 0) == (
                    len(server.service.listener.opening), server.service.listener._opening_count
                )  # fmt: skip
        assert {"connections_per_address": 1} == server.service.live.sockets.refusals


async def test_who_is_at_the_handshake_when_the_port_is_closed_is_dropped_at_once(tmp_path: Path) -> None:
    server = Server(tmp_path)
    limits = ListenerOptions(tls=server.certificate.for_next, handshake_timeout_s=60)
    async with live_service(LiveOptions(sweep_s=3600), limits) as server.service:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.service.port)
        listener = server.service.listener
        async with asyncio.timeout(5):
            while not listener._opening_count:
                await asyncio.sleep(0.01)
            listener.stop_accepting()
            assert b"" == await reader.read(1)
            while listener._opening_count:
                await asyncio.sleep(0.01)
        writer.close()


@pytest.mark.parametrize(("heads", "handshakes"), [(80, 2_000), (2_000, 80)])
async def test_one_address_that_does_not_finish_its_handshakes_keeps_nobody_out(
    tmp_path: Path, heads: int, handshakes: int
) -> None:
    server = Server(tmp_path)
    limits = ListenerOptions(tls=server.certificate.for_next, heads_max=heads, handshakes_max=handshakes)
    async with (
        live_service(LiveOptions(sweep_s=3600), limits) as server.service,
        contextlib.AsyncExitStack() as stack,
    ):
        listener, refusals = server.service.listener, server.service.live.sockets.refusals
        for _ in range(60):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.service.port)))
        async with asyncio.timeout(5):
            while listener._opening_count + refusals["openings_per_address"] < 60:
                await asyncio.sleep(0.01)
        # Of 80, an address has 32 or half of all: 40.
        assert (40, 20) == (listener._opening_count, refusals["openings_per_address"])
        assert 0 == refusals["tls_handshakes"]
        assert "192.0.2.1" == listener.take(("192.0.2.1", 1)), "others come in"
        listener.opened("192.0.2.1")
        listener.by_address.give("192.0.2.1")
        await stack.aclose()
        async with asyncio.timeout(5):
            while listener._opening_count:
                await asyncio.sleep(0.01)
        assert (0, 0) == (len(listener.opening), len(listener.by_address))
        async with server.connected() as raw:
            raw.send(LIVEZ)
            assert b"ok" == (await raw.answer()).body
