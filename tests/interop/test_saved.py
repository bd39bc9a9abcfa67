"""`saved` frames (`64 varUint(n)`): the SyncStep2 and the first n updates of a connection are committed."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pycrdt import Doc, Map, create_sync_message, create_update_message

from tests.harness.kinds import spec_of
from tests.harness.node import NodeDriver
from tests.harness.raw_websocket import RawWebSocket, upgraded
from tests.harness.rest import Rest
from tests.harness.service import Service

STEP_2_EMPTY = b"\x00\x01\x02\x00\x00"
SAVED = 100


class Table:
    """A raw y-websocket client and a stock one, which tells when the room has committed what came before."""

    def __init__(self, raw: RawWebSocket, driver: NodeDriver, editor: str) -> None:
        self.raw = raw
        self._driver = driver
        self._editor = editor
        self._doc: Doc[Map[int]] = Doc()
        self._meta = self._doc.get("meta", type=Map[int])
        self._marks = 0

    def step1(self) -> None:
        self.raw.send_binary(create_sync_message(Doc()))

    def edit(self, key: str) -> None:
        """One Update frame."""
        before = self._doc.get_state()
        self._meta[key] = 1
        self.raw.send_binary(create_update_message(self._doc.get_update(before)))

    async def saved_until_committed(self, key: str) -> list[int]:
        """The numbers in the saved frames that came until the room had committed an edit of ours."""
        await self._driver.call("wait_key", names=[self._editor], key=key, timeout_ms=20_000)
        self._marks += 1
        mark = f"mark-{self._marks}-{time.monotonic_ns()}"
        await self._driver.call("put", name=self._editor, key=mark, value=1)
        await self._driver.call("wait_saved", name=self._editor, edit=mark, timeout_ms=20_000)
        # What was written to this socket before the answer to a SyncStep1 is here once that is.
        self.step1()
        return await self._saved_before_step2()

    async def _saved_before_step2(self) -> list[int]:
        numbers = []
        while (message := await self.raw.receive_binary())[:2] != b"\x00\x01":
            if message[0] == SAVED:
                numbers.append(message[1])
        return numbers

    async def first_sync(self) -> None:
        """SyncStep1, and its answer."""
        self.step1()
        assert [] == await self._saved_before_step2()


@asynccontextmanager
async def table(service: Service, rest: Rest, driver: NodeDriver, query: str) -> AsyncIterator[Table]:
    alice = await rest.sign_in("alice")
    place = await rest.create_place(alice)
    token = await rest.collab_token(alice)
    name = f"editor-{time.monotonic_ns()}"
    await driver.open([spec_of("hocuspocus-4.8", name, service.collab, place.diagram, token)])
    await driver.wait([name], "settled")
    async with upgraded(service.port, f"/collab/{place.diagram}?token={token}{query}") as raw:
        yield Table(raw, driver, name)
    await driver.close([name])


async def test_who_did_not_ask_is_sent_no_saved_frame(
    service: Service, rest: Rest, driver: NodeDriver
) -> None:
    async with table(service, rest, driver, "") as here:
        await here.first_sync()
        here.raw.send_binary(STEP_2_EMPTY)
        here.edit("a")
        assert [] == await here.saved_until_committed("a")


async def test_who_asked_is_told_how_many_updates_are_committed(
    service: Service, rest: Rest, driver: NodeDriver
) -> None:
    async with table(service, rest, driver, "&saved=1") as here:
        await here.first_sync()
        here.raw.send_binary(STEP_2_EMPTY)
        here.edit("a")
        here.edit("b")
        numbers = await here.saved_until_committed("b")
        assert 2 == numbers[-1]
        assert sorted(numbers) == numbers


async def test_an_update_before_the_first_syncstep2_is_not_called_saved_until_that_is(
    service: Service, rest: Rest, driver: NodeDriver
) -> None:
    """A client with edits made offline may type before it has answered the server's SyncStep1."""
    async with table(service, rest, driver, "&saved=1") as here:
        await here.first_sync()
        here.edit("early")
        assert [] == await here.saved_until_committed("early")
        here.raw.send_binary(STEP_2_EMPTY)
        here.edit("late")
        assert 2 == (await here.saved_until_committed("late"))[-1]
