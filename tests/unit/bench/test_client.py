"""The load client's own sockets."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bench.client import DistantClient
from bench.protocols import y_websocket


def _sockets() -> set[str]:
    """Those that this process has open."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            target = str(entry.readlink())
            if target.startswith("socket:"):
                found.add(target)
    return found


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address at which nobody answers: the port is taken, and not listened at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"ws://127.0.0.1:{taken.getsockname()[1]}/room"


async def test_a_distant_client_that_nobody_answers_leaves_no_socket_open(nobody: str) -> None:
    before = _sockets()
    # As long as the refusal is held, so is all that its frames hold.
    with pytest.raises(ConnectionRefusedError) as refusal:
        await DistantClient(0, 7, y_websocket()).join(nobody)
    assert before == _sockets(), refusal


async def test_a_distant_client_that_gives_up_leaves_no_socket_open() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        url = f"ws://127.0.0.1:{full.getsockname()[1]}/room"
        with socket.socket() as first:
            first.connect(full.getsockname())  # fills the queue
            before = _sockets()
            joining = asyncio.create_task(DistantClient(0, 7, y_websocket()).join(url))
            while before == _sockets():
                await asyncio.sleep(0)
            joining.cancel()
            with pytest.raises(asyncio.CancelledError):
                await joining
            assert before == _sockets()
