"""`python -m bench` as one runs it: against servers of its own, and against a service that runs already."""

import asyncio
import datetime as dt
import ipaddress
import json
import os
import re
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.machine import ROOT
from tests.harness.rest import Json, Rest
from tests.harness.service import Service, free_port

TINY = ("fanout", "--clients", "4", "--writers", "2", "--seconds", "0.5", "--warm-up-s", "0.2")
LONG = ("fanout", "--clients", "4", "--writers", "2", "--seconds", "60")
ENOUGH = ("fanout", "--clients", "4", "--writers", "2", "--rate", "100", "--seconds", "2", "--settle-s", "60")
"""Two hundred edits a second: they cost the server hundredths of a second, in which its clocks count."""

WAIT_S = 180.0
"""Starting a database, too, on a machine that is busy with other things."""

FIGURES = {"p50_ms", "p99_ms", "max_ms", "copies_per_s", "copies_per_frame"}


class Bench:
    """The command, and a folder in which the servers that it starts have their files."""

    def __init__(self, folder: Path, json_file: Path) -> None:
        self.folder = folder
        self.json_file = json_file

    async def start(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> asyncio.subprocess.Process:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TMI_")}
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench", *arguments, "--json", str(self.json_file)),
            cwd=ROOT, env={**clean, "TMPDIR": str(self.folder), **(environment or {})},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip

    async def run(self, *arguments: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Exit status and output."""
        return await self.end_of(await self.start(*arguments, environment=environment))

    async def end_of(self, process: asyncio.subprocess.Process) -> tuple[int, str]:
        async with asyncio.timeout(WAIT_S):
            output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()

    @property
    def document(self) -> Json:
        return json.loads(self.json_file.read_text())

    @property
    def left(self) -> list[str]:
        """The files and processes of servers that it started."""
        files = [path.name for path in self.folder.iterdir()]
        return [*files, *(command for _, command in _commands() if str(self.folder) in command)]

    @property
    def servers_cores(self) -> set[int]:
        """Those on which their processes may run, the database's too."""
        found: set[int] = set()
        for pid, command in _commands():
            if str(self.folder) in command:
                with suppress(ProcessLookupError):
                    found |= os.sched_getaffinity(pid)
        return found


def _commands() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                yield int(entry.name), command.decode(errors="replace")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with TemporaryDirectory(prefix="tmi-b-") as folder:  # short, since sockets lie in it
        Path(folder).chmod(0o755)
        yield Bench(Path(folder), tmp_path / "bench.json")


@pytest.fixture
def service(tmp_path: Path, database_url: str) -> Iterator[Service]:
    with Service(tmp_path / "data", database_url=database_url) as running:
        yield running


async def _models(service: Service) -> dict[str, int]:
    """The load tester's threat models by name, and how many diagrams each has."""
    async with Rest(service.url) as rest:
        person = await rest.sign_in("load")
        models = (await rest.http.get("/threat_models", headers=person.headers)).json()["threat_models"]
        return {model["name"]: model["diagram_count"] for model in models}


async def _until_there_are_diagrams(service: Service, count: int) -> str:
    """The name of the threat model."""
    async with asyncio.timeout(WAIT_S):
        while count not in (models := await _models(service)).values():
            await asyncio.sleep(0.1)
    return next(iter(models))


def _sound_run(document: Json, server: str) -> dict[str, Any]:
    assert document["is_complete"]
    assert [server] == [run["server"] for run in document["runs"]]
    run: dict[str, Any] = document["runs"][0]
    assert ([], {"clients": 4, "writers": 2}) == (
        run["faults"], {name: run["parameters"][name] for name in ("clients", "writers")}
    )  # fmt: skip
    assert run["figures"].keys() >= FIGURES
    return run


# --- servers of its own -----------------------------------------------------------------------------


async def test_tmi_is_started_measured_and_stopped(bench: Bench) -> None:
    status, output = await bench.run(*ENOUGH, "--servers", "tmi")
    assert (0, []) == (status, bench.left), output
    run = _sound_run(bench.document, "tmi")
    assert run["figures"]["cpu_us"] > 0
    assert run["figures"]["server_rss_mib"] > 10
    assert bench.document["servers"]["tmi"]["persistence"] == "Postgres, embedded"
    assert "sound" in output
    version = bench.document["about"]["versions"]["PostgreSQL"]
    assert re.fullmatch(r"\d+\.\d+", version)
    assert f"PostgreSQL {version}" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_leaves_no_server_and_writes_what_is_known(
    bench: Bench, number: signal.Signals
) -> None:
    process = await bench.start(*LONG, "--servers", "tmi")
    async with asyncio.timeout(WAIT_S):
        while not list(bench.folder.rglob("postmaster.pid")):
            await asyncio.sleep(0.05)
    allowed = os.sched_getaffinity(0)
    assert {min(allowed)} == os.sched_getaffinity(process.pid)
    assert {max(allowed)} == bench.servers_cores
    process.send_signal(number)
    status, output = await bench.end_of(process)
    assert (128 + number, []) == (status, bench.left), output
    assert (False, []) == (bench.document["is_complete"], bench.document["runs"])
    assert [f"Not complete: ended by {number.name}."] == bench.document["notes"]


# --- a service that runs already --------------------------------------------------------------------


async def test_a_running_service_is_measured_and_left_as_it_was(bench: Bench, service: Service) -> None:
    status, output = await bench.run(*TINY, "--url", service.url)
    assert (0, {}) == (status, await _models(service)), output
    run = _sound_run(bench.document, "deployment")
    assert not run["figures"].keys() & {"cpu_us", "database_us", "server_rss_mib", "server_core_noise"}
    assert service.is_alive


async def test_a_signal_and_a_limit_leave_no_threat_model(bench: Bench, service: Service) -> None:
    process = await bench.start(*TINY, "--repeat", "100", "--url", service.url)
    await _until_there_are_diagrams(service, 2)
    process.send_signal(signal.SIGINT)
    status, output = await bench.end_of(process)
    assert (130, {}) == (status, await _models(service)), output
    assert (False, []) == (bench.document["is_complete"], bench.document["runs"][0]["faults"])

    status, output = await bench.run(*LONG, "--url", service.url, "--at-most-s", "2")
    assert (1, {}) == (status, await _models(service)), output
    assert ["Not complete: ended after 2 s, as --at-most-s says."] == bench.document["notes"]


async def test_a_token_is_used_and_written_nowhere(bench: Bench, service: Service, tmp_path: Path) -> None:
    async with Rest(service.url) as rest:
        token = (await rest.sign_in("load")).access_token
    file = tmp_path / "token"
    file.write_text(token)
    status, output = await bench.run(*TINY, "--url", service.url, "--token-file", str(file))
    assert (0, {}) == (status, await _models(service)), output
    _sound_run(bench.document, "deployment")

    file.write_text(token[:-4] + "AAAA")
    status, refused = await bench.run(*TINY, "--url", service.url, "--token-file", str(file))
    assert (1, True) == (status, "POST /collab/tokens was answered 401" in refused), refused
    written = output + refused + bench.json_file.read_text() + service.output()
    assert token[-40:-4] not in written
    assert "token=ey" not in written


async def test_a_limit_of_the_service_is_named_with_its_setting(
    bench: Bench, tmp_path: Path, database_url: str
) -> None:
    few = {"TMI_DOCUMENTS_PER_USER_MAX": "3"}
    with Service(tmp_path / "data", few, database_url) as service:
        status, output = await bench.run(*TINY, "--url", service.url)
        assert (1, {}) == (status, await _models(service)), output
    faults = bench.document["runs"][0]["faults"]
    told = "This user has too many open documents (the service's limit TMI_DOCUMENTS_PER_USER_MAX)"
    assert [f"broke off: refused with 429: {told}"] == faults


async def test_what_cannot_be_deleted_is_named(bench: Bench, service: Service) -> None:
    process = await bench.start(*LONG, "--url", service.url)
    name = await _until_there_are_diagrams(service, 1)
    service.kill()
    process.send_signal(signal.SIGINT)
    status, output = await bench.end_of(process)
    assert 130 == status, output
    assert f"the threat model {name!r} could not be deleted" in bench.document["notes"][0]


# --- TLS --------------------------------------------------------------------------------------------


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of localhost, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate_file, key_file


@asynccontextmanager
async def _proxy(port: int, to_port: int, context: ssl.SSLContext) -> AsyncIterator[None]:
    """Speaks TLS on a port and passes everything on."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", to_port)
        await asyncio.gather(copy(reader, onward_writer), copy(onward_reader, writer))

    async with await asyncio.start_server(accept, "127.0.0.1", port, ssl=context):
        yield


async def test_certificates_are_checked(bench: Bench, tmp_path: Path, database_url: str) -> None:
    certificate_file, key_file = _certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate_file, key_file)
    port = free_port()
    url = f"https://localhost:{port}"
    with Service(tmp_path / "data", {"TMI_PUBLIC_URL": url}, database_url) as service:
        async with _proxy(port, service.port, context):
            status, output = await bench.run(*TINY, "--url", url)
            assert (1, True) == (status, "CERTIFICATE_VERIFY_FAILED" in output), output
            assert "set SSL_CERT_FILE" in output, output
            assert "token" not in output, output
            trusting = {"SSL_CERT_FILE": str(certificate_file)}
            status, output = await bench.run(*TINY, "--url", url, environment=trusting)
            assert (0, {}) == (status, await _models(service)), output
    _sound_run(bench.document, "deployment")
