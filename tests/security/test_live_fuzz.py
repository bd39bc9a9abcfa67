"""Mutated frames over real sockets: a clean close at worst, and the room's other members notice nothing.

`TMI_FUZZ_FRAMES` says how many frames are tried in all fuzz tests; a twentieth of them goes over sockets.
"""

import asyncio
import logging
import random
from collections.abc import Callable

import pytest

from api.live.options import LiveOptions
from crdt import hocuspocus, y_websocket
from crdt.merging import EMPTY_UPDATE
from rooms import closing
from tests.harness.live_service import LiveService, an_update, live_service
from tests.harness.raw_websocket import CLOSE, RawWebSocket, upgraded
from tests.security.test_frames_fuzz import FRAMES, SEED, Target, frames, mutated
from tmi.domain.ids import DiagramId

OVER_SOCKETS = max(FRAMES // 20, 200)
PER_SOCKET = 20
CLEAN = {closing.BAD_FRAME, 1002, 1003, 1007}


async def _answers(raw: RawWebSocket) -> int | None:
    """Read what the service says until it closes; the code, or None if the socket was still open."""
    while True:
        try:
            received = await asyncio.wait_for(raw.receive(), 0.05)
        except TimeoutError:
            return None
        if received.opcode == CLOSE:
            return received.close_code


async def _attack(raw: RawWebSocket, hello: list[bytes], hostile: list[bytes]) -> int | None:
    for payload in (*hello, *hostile):
        raw.send_binary(payload)
    return await _answers(raw)


async def _still_works(service: LiveService, diagram: DiagramId, witness: RawWebSocket, number: int) -> None:
    """The witness edits, is told that it is saved, and a newcomer is sent the edit."""
    key = f"witness{number}"
    witness.send_binary(y_websocket.update(an_update(key)))
    while True:
        message = await witness.receive_binary()
        if message[0] == 0x64 and message[1] >= number:
            break
    token = await service.token("alice", diagram)
    async with upgraded(service.port, f"/collab/{diagram}?token={token}") as newcomer:
        newcomer.send_binary(y_websocket.sync_step1(b"\x00"))
        while key.encode() not in await newcomer.receive_binary():
            pass


@pytest.mark.parametrize("protocol", ["y-websocket", "hocuspocus"])
async def test_mutated_frames_over_sockets_end_their_sender_at_worst(
    protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    choice = random.Random(SEED)
    bodies = frames(Target())
    codes: list[int | None] = []
    async with live_service(LiveOptions(sweep_s=3600)) as service:
        diagram = await service.diagram()
        token = await service.token("alice", diagram)
        prefix = hocuspocus.prefix(str(diagram))
        is_hocuspocus = protocol == "hocuspocus"
        wrap: Callable[[bytes], bytes] = (lambda body: prefix + body) if is_hocuspocus else bytes
        path = "/collab" if is_hocuspocus else f"/collab/{diagram}?token={token}"
        auth = prefix + b"\x02\x00" + bytes([len(token) % 128 | 128, len(token) // 128]) + token.encode()
        hello = [*([auth] if is_hocuspocus else []), wrap(y_websocket.sync_step1(b"\x00"))]
        async with upgraded(service.port, f"/collab/{diagram}?token={token}&saved=1") as witness:
            witness.send_binary(y_websocket.sync_step1(b"\x00"))
            witness.send_binary(y_websocket.sync_step2(EMPTY_UPDATE))
            for number in range(1, OVER_SOCKETS // 2 // PER_SOCKET + 1):
                hostile = [mutated(wrap(choice.choice(bodies)), choice) for _ in range(PER_SOCKET)]
                async with upgraded(service.port, path) as raw:
                    codes.append(await _attack(raw, hello, hostile))
                if number % 10 == 1:
                    await _still_works(service, diagram, witness, number // 10 + 1)
        assert 0 == service.live.sockets.faults
    assert {code for code in codes if code is not None} <= CLEAN
    assert codes.count(closing.BAD_FRAME) > len(codes) // 2, "the mutations are too mild to prove anything"
    assert [] == [record.getMessage() for record in caplog.records]
