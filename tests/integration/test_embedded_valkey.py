"""The embedded Valkey: who may enter, and how it lives and ends."""

import asyncio
import contextlib
import logging
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.exceptions import RedisError

from tests.harness.service import is_running, wait_for
from tests.valkey import valkeys
from tmi.domain.errors import StartupError
from tmi.embedded.sockets import folder_for
from tmi.embedded.valkey import SOCKET_NAME, embedded_valkey
from tmi.wiring.redis import connected

WAIT_S = 10.0

PARENT = """
import asyncio, pathlib, sys
from tmi.embedded.valkey import embedded_valkey

async def main():
    async with embedded_valkey(pathlib.Path(sys.argv[1])):
        print("ready", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition without holding the loop."""
    await asyncio.to_thread(wait_for, condition, WAIT_S, what)


async def answers(url: str) -> bool:
    """Whether a PING is answered."""
    async with connected(url) as redis:
        with contextlib.suppress(RedisError):
            return bool(await redis.ping())
    return False


async def test_it_keeps_nothing_on_disk_and_takes_a_bounded_amount_of_memory(valkey_url: str) -> None:
    expected = {
        "port": "0",
        "save": "",
        "appendonly": "no",
        "maxmemory": str(64 * 1024 * 1024),
        "maxmemory-policy": "noeviction",
    }
    async with connected(valkey_url) as redis:
        assert expected == await redis.config_get(*expected)


async def test_only_our_own_user_reaches_its_socket(valkey_url: str) -> None:
    folder = Path(urlsplit(valkey_url).path).parent.stat()

    assert (0o700, os.geteuid()) == (stat.S_IMODE(folder.st_mode), folder.st_uid)


async def test_a_socket_whose_path_would_be_too_long_lies_in_a_private_folder_elsewhere(
    tmp_path: Path,
) -> None:
    data = tmp_path / ("long-" * 20)
    data.mkdir()
    async with embedded_valkey(data) as url:
        folder = Path(urlsplit(url).path).parent
        assert (Path(tempfile.gettempdir()), 0o700) == (folder.parent, stat.S_IMODE(folder.stat().st_mode))
        assert await answers(url)
    folder.rmdir()


async def test_a_folder_that_is_somebody_elses_is_not_used(tmp_path: Path) -> None:
    folder = folder_for(tmp_path / "valkey", SOCKET_NAME)
    folder.symlink_to(tmp_path)
    try:
        with pytest.raises(StartupError, match=f"^{folder} is not "):
            async with embedded_valkey(tmp_path):
                pass
    finally:
        folder.unlink()


async def test_a_server_that_dies_is_started_again(
    valkey_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tmi.embedded")
    [before] = valkeys()
    os.kill(before, signal.SIGKILL)
    await eventually(lambda: "Valkey runs again" in caplog.messages, "a new server")

    assert await answers(valkey_url)
    assert [before] != valkeys()


async def test_it_ends_with_the_service(tmp_path: Path) -> None:
    async with embedded_valkey(tmp_path):
        [server] = valkeys()

    assert not is_running(server)


async def test_it_ends_with_a_service_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert b"ready\n" == await asyncio.to_thread(parent.stdout.readline)
        [server] = valkeys(parent.pid)
        parent.kill()
    await eventually(lambda: not is_running(server), "the end of the server")


async def test_secrets_of_the_service_do_not_reach_the_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMI_TEST_SECRET", "hidden")
    async with embedded_valkey(tmp_path):
        [server] = valkeys()
        assert b"hidden" not in Path(f"/proc/{server}/environ").read_bytes()
