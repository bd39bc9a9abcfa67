"""The URL of a Redis: TLS with a certificate authority of one's own, and a user of its ACL."""

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from redis.exceptions import RedisError

from persistence.memory.ownership import MemoryOwnership
from persistence.memory.store import MemoryStore, RoomLog
from tests.harness.service import free_port
from tests.valkey import running_coordinator
from tmi.domain.ids import DiagramId
from tmi.embedded.binaries import find_valkey
from tmi.wiring.redis import connected

USER, ADMIN, PASSWORD = "tmi", "admin", "p@ss/word"
RULES = f"user {USER} on >{PASSWORD} ~tmi:* resetchannels -@all +get +set +del +zadd +zrem +zrange "
RULES += "+zremrangebyscore +pexpire +time +eval +client|setinfo +client|setname +hello +ping\n"
"""All that a node may do."""
START_S = 10.0


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that is its own authority."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    command += " -keyout key.pem -out cert.pem -subj /CN=valkey -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


@contextlib.asynccontextmanager
async def valkey(folder: Path, *options: str) -> AsyncIterator[int]:
    """A server on a port of the loopback interface."""
    (folder / "users.acl").write_text(f"user default off\nuser {ADMIN} on >{PASSWORD} ~* &* +@all\n{RULES}")
    port = free_port()
    command = [str(find_valkey()), "--port", str(port), "--aclfile", "users.acl", "--save", ""]
    server = subprocess.Popen(  # noqa: ASYNC220  (takes a moment, and nothing else runs here)
        [*command, "--bind", "127.0.0.1", *options],
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(START_S):
            while server.poll() is None:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    break
        assert server.poll() is None
        yield port
    finally:
        server.kill()
        server.wait(START_S)


@contextlib.asynccontextmanager
async def behind_tls(folder: Path, port: int) -> AsyncIterator[int]:
    """A port where TLS ends before the server, whose embedded build has none."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, to_server), pump(from_server, writer))

    async with await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context) as listening:
        yield listening.sockets[0].getsockname()[1]


async def claims(url: str) -> bool:
    """Claim a room and give it back; whether Redis had an owner meanwhile."""
    store = MemoryStore()
    diagram = DiagramId(uuid4())
    store.logs[diagram] = RoomLog()
    async with running_coordinator(url, MemoryOwnership(store)) as node, connected(url) as client:
        fence = await node.claim(diagram)
        owner = await client.get(f"tmi:room:{diagram}")
        await node.release(diagram, fence)
        assert await client.get(f"tmi:room:{diagram}") is None
        return owner is not None


async def test_a_user_who_may_only_what_a_node_needs_is_enough(tmp_path: Path) -> None:
    async with valkey(tmp_path) as port:
        assert await claims(f"redis://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/0")


async def test_a_wrong_password_is_refused(tmp_path: Path) -> None:
    async with valkey(tmp_path) as port, connected(f"redis://{USER}:x@127.0.0.1:{port}") as other:
        with pytest.raises(RedisError):
            await other.get("tmi:room:x")


async def test_tls_by_an_authority_of_ones_own(certificates: Path) -> None:
    async with valkey(certificates) as port, behind_tls(certificates, port) as tls_port:
        url = f"rediss://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{tls_port}/0"
        assert await claims(f"{url}?ssl_ca_certs={quote(str(certificates / 'cert.pem'))}")
        async with connected(url) as client:
            with pytest.raises(RedisError, match="certificate"):
                await client.get("tmi:room:x")


async def test_a_node_of_a_cluster_that_has_all_slots_serves_rooms(tmp_path: Path) -> None:
    """Every script and command of a pipeline touches one key, so that slots are never crossed."""
    async with valkey(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as port:
        url = f"redis://{ADMIN}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}"
        async with connected(url) as client:
            ask: Callable[..., Awaitable[Any]] = client.execute_command
            await ask("CLUSTER ADDSLOTSRANGE", 0, 16383)
            async with asyncio.timeout(START_S):
                while "ok" != (await ask("CLUSTER INFO"))["cluster_state"]:
                    await asyncio.sleep(0.05)
        assert await claims(url)
