"""A name that is this machine's when it is checked, and leads elsewhere when it is looked up once more."""

import datetime as dt
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import WSMsgType, web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.measuring import new_client
from bench.servers import Deployment, ServerError
from bench.servers.base import HOST
from bench.target import Target, addresses_of
from bench.yjs import EMPTY_UPDATE

NAME = "rebinding.test"
ELSEWHERE = "198.51.100.7"
ANOTHER = "another.test"
NOBODY = "127.0.0.99"
"""An address of this machine at which nothing listens."""


class Service:
    """As much of the service as a deployment needs to open a diagram and a client to join it. It notes which
    host was asked for.
    """

    def __init__(self, certificate: ssl.SSLContext | None) -> None:
        self.hosts: list[str] = []
        self.server_names: list[str] = []
        self._certificate = certificate
        if certificate is not None:
            certificate.sni_callback = lambda _socket, name, _context: self.server_names.append(name)

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/ws/{diagram}", self._join)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, 0, ssl_context=self._certificate).start()

    async def stop(self) -> None:
        await self._runner.cleanup()

    @property
    def authority(self) -> str:
        return f"{NAME}:{self._runner.addresses[0][1]}"

    def url(self, scheme: str) -> str:
        return f"{scheme}{'s' if self._certificate else ''}://{self.authority}"

    async def _answer(self, request: web.Request) -> web.Response:
        self.hosts.append(request.host)
        sockets = {"y_websocket_url": f"{self.url('ws')}/ws", "token": "secret"}
        return web.json_response({"id": "a", "threat_models": [], **sockets}, status=201)

    async def _join(self, request: web.Request) -> web.WebSocketResponse:
        self.hosts.append(request.host)
        joined = web.WebSocketResponse()
        await joined.prepare(request)
        async for message in joined:
            if message.type is WSMsgType.BINARY and message.data.startswith(b"\x00\x00"):
                await joined.send_bytes(b"\x00\x01" + bytes([len(EMPTY_UPDATE)]) + EMPTY_UPDATE)
        return joined


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Of names; the first one leads here (as one of two addresses), and every other elsewhere."""
    resolve, seen = socket.getaddrinfo, list[str]()

    def getaddrinfo(host: str, *more: object, **options: int) -> list[object]:
        if host != NAME:
            return list(resolve(host, *more, **options))  # type: ignore[arg-type]
        seen.append(host)
        found = (NOBODY, HOST) if len(seen) == 1 else (ELSEWHERE,)
        return [entry for one in found for entry in resolve(one, *more, **options)]  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    addresses_of.cache_clear()
    yield seen
    addresses_of.cache_clear()


def _certificate(folder: Path, name: str) -> Path:
    """Of one name and no address, with its key, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{name}.pem"
    plain = serialization.NoEncryption()
    written = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + written)
    return file


@pytest.fixture(params=["plain", "TLS", "TLS of another"])
async def service(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Service]:
    certificate = None
    if request.param != "plain":
        file = _certificate(tmp_path, ANOTHER if "another" in request.param else NAME)
        certificate = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.load_cert_chain(file)
        trusting = ssl.create_default_context(cafile=file)
        for module in ("bench.client", "bench.servers.rest"):
            monkeypatch.setattr(f"{module}.checking", lambda: trusting)
    running = Service(certificate)
    await running.start()
    yield running
    await running.stop()


async def _opened_and_joined(service: Service) -> None:
    deployment = Deployment(Target(service.url("http"), "a token"))
    try:
        await deployment.start(0)
        room = await deployment.room()
        client = new_client(0, room)
        await client.join(room.url)
        await client.leave()
    finally:
        await deployment.stop()


@pytest.mark.parametrize("service", ["plain", "TLS"], indirect=True)
async def test_what_was_checked_is_connected_to_and_addressed_by_its_name(
    service: Service, lookups: list[str]
) -> None:
    await _opened_and_joined(service)
    assert [NAME] == lookups
    assert {service.authority} == set(service.hosts)
    assert 7 == len(service.hosts), "two tokens, a model, a diagram, its socket, and tidying up"
    assert set(service.server_names) <= {NAME}
    assert bool(service.server_names) == service.url("http").startswith("https")


@pytest.mark.parametrize("service", ["TLS of another"], indirect=True)
async def test_a_certificate_has_to_be_that_of_the_name(service: Service, lookups: list[str]) -> None:
    with pytest.raises(ServerError, match="CERTIFICATE_VERIFY_FAILED"):
        await _opened_and_joined(service)
    assert ([NAME], []) == (lookups, service.hosts)


@pytest.mark.parametrize("service", ["TLS"], indirect=True)
async def test_sockets_are_checked_against_the_name_too(
    service: Service, lookups: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a context that trusts nobody, which the sockets alone have."""
    monkeypatch.setattr("bench.client.checking", ssl.create_default_context)
    with pytest.raises(ssl.SSLCertVerificationError):
        await _opened_and_joined(service)
    assert [NAME] == lookups
