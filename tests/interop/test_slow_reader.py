"""A client that stops reading costs a bounded queue, catches up by one difference, and harms nobody else."""

import asyncio
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pycrdt import Doc, Map, handle_sync_message

from tests.harness.kinds import spec_of
from tests.harness.node import NodeDriver
from tests.harness.raw_websocket import BINARY, frame, upgrade_head
from tests.harness.rest import Rest
from tests.harness.service import Service

KIB = 1024
MIB = 1024 * KIB
EDITS = 1000
EDIT_BYTES = 32 * KIB
QUEUED_MAX_BYTES = 1 * MIB
KERNEL_MAX_BYTES = 6 * MIB
"""What the kernel's own buffers of the two sockets may hold (`tcp_wmem` ends at 4 MiB)."""
GROWTH_MAX_BYTES = 24 * MIB
STEP_1 = b"\x00\x00\x01\x00"


class SlowReader:
    """A socket of our own, since every library reads ahead."""

    def __init__(self, port: int, path: str) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
        self.socket.settimeout(20)
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(upgrade_head(path))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.socket.recv(1)
        assert head.startswith(b"HTTP/1.1 101"), head
        self.socket.sendall(frame(BINARY, STEP_1))
        self.received = 0

    def messages(self, quiet_s: float) -> Iterator[bytes]:
        """Every message until nothing comes for so long."""
        self.socket.settimeout(quiet_s)
        stream = self.socket.makefile("rb")
        try:
            while head := stream.read(2):
                size = head[1]
                if size == 126:
                    size = struct.unpack(">H", stream.read(2))[0]
                elif size == 127:
                    size = struct.unpack(">Q", stream.read(8))[0]
                payload = stream.read(size)
                self.received += size
                if head[0] & 0x0F == BINARY:
                    yield payload
        except TimeoutError:
            return


@contextmanager
def slow_reader(port: int, path: str) -> Iterator[SlowReader]:
    reader = SlowReader(port, path)
    try:
        yield reader
    finally:
        reader.socket.close()


def catch_up(reader: SlowReader) -> dict[str, Any]:
    """Apply everything that was sent to it, as a Yjs client does."""
    doc: Doc[Any] = Doc()
    meta = doc.get("meta", type=Map[Any])
    for message in reader.messages(quiet_s=3):
        if message[0] == 0 and message[1] in (1, 2):
            handle_sync_message(message[1:], doc)
    return dict(meta.to_py() or {})


async def test_a_client_that_stops_reading_has_a_bounded_queue_and_catches_up(
    service: Service, rest: Rest, driver: NodeDriver
) -> None:
    alice = await rest.sign_in("alice")
    place = await rest.create_place(alice)
    token = await rest.collab_token(alice)
    tag = str(time.monotonic_ns())
    specs = [
        spec_of(kind, f"{kind}-{tag}", service.collab, place.diagram, token)
        for kind in ("y-websocket-3.1", "hocuspocus-4.8")
    ]
    writer, bystander = names = [spec["client"] for spec in specs]
    await driver.open(specs)
    await driver.wait(names, "settled")
    path = f"/collab/{place.diagram}?token={token}"
    with slow_reader(service.port, path) as reader:
        before = service.resident_bytes()
        await driver.call("flood", name=writer, edits=EDITS, bytes=EDIT_BYTES, in_flight=8)
        growth = service.resident_bytes() - before
        agreed = await driver.call("agree", groups=[names], timeout_ms=30_000)
        assert [] == agreed["unequal"]
        held = await asyncio.to_thread(catch_up, reader)
        assert agreed["reports"][0]["content"]["meta"] == held
        assert reader.received < QUEUED_MAX_BYTES + KERNEL_MAX_BYTES
        assert growth < GROWTH_MAX_BYTES
    report = await driver.report(bystander)
    assert ([], []) == (report["closes"], report["violations"])
    await driver.close(names)
