"""Real clients edit between the two UTF-16 halves of a character; what they edit later is lost nowhere."""

import asyncio
from pathlib import Path
from typing import Any

from tests.harness.kinds import spec_of
from tests.harness.node import NodeDriver
from tests.harness.rest import Rest
from tests.harness.service import Service

KINDS = ("y-websocket-3.1", "hocuspocus-4.8")


async def test_what_is_edited_after_a_torn_character_reaches_all_and_stays(tmp_path: Path) -> None:
    with Service(tmp_path / "data") as service, NodeDriver() as driver:
        async with Rest(service.url) as rest:
            alice = await rest.sign_in("alice")
            place = await rest.create_place(alice)
            token = await rest.collab_token(alice)

        async def join(*names: str) -> None:
            specs = [
                spec_of(kind, name, service.collab, place.diagram, token)
                for kind, name in zip(KINDS, names, strict=True)
            ]
            await driver.open(specs)
            await driver.wait(list(names), "settled")

        async def agree(*names: str) -> tuple[str, object]:
            agreed = await driver.call("agree", groups=[names], timeout_ms=20_000)
            assert [] == agreed["unequal"]
            report = agreed["reports"][0]
            assert report["pending"] is None
            return report["content"]["text"], report["state_vector"]

        await join("writer", "reader")
        edits: tuple[dict[str, Any], ...] = (
            {"at": 0, "text": "a😀b🔑c"},
            {"at": 2, "erase": 1},
            {"at": 4, "text": "x"},
            {"at": 7, "text": "end"},
        )
        for number, edit in enumerate(edits):
            await driver.call("type", name="writer", edit=f"edit-{number}", **edit)
            await driver.call("wait_acknowledged", names=["writer"], timeout_ms=20_000)
        held = await agree("writer", "reader")
        assert held[0].endswith("end")
        await join("joiner-1", "joiner-2")
        assert held == await agree("writer", "reader", "joiner-1", "joiner-2")
        await driver.close(["writer", "reader", "joiner-1", "joiner-2"])
        assert 0 == await asyncio.to_thread(service.stop)
        await asyncio.to_thread(service.start)
        await join("later-1", "later-2")
        assert held == await agree("later-1", "later-2")
