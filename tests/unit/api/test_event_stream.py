"""Server-sent events of a threat model."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from api.streams import StreamLimits
from persistence.memory.events import write
from persistence.memory.store import MemoryStore
from tests.rest import ADMINISTRATOR, Json, RestClient, over_memory, user_grant
from tmi.domain.events import SYSTEM, ChangeType, Deed, Event
from tmi.domain.ids import ThreatModelId
from tmi.domain.ports import Happened, Signal

WITHIN_S = 1.0
"""What a reader may wait for."""


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def rest(store: MemoryStore) -> AsyncIterator[RestClient]:
    limits = StreamLimits(streams=4, streams_per_user=3, queue=5)
    async with over_memory(store=store, limits=limits) as client:
        yield client


class Reader:
    """One open stream."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._text = ""

    async def block(self, within_s: float = WITHIN_S) -> dict[str, str]:
        """The fields of the next event or comment. Raises TimeoutError, and EOFError at the end."""
        async with asyncio.timeout(within_s):
            while "\n\n" not in self._text:
                self._text += (await self._receive()).decode()
        block, self._text = self._text.split("\n\n", 1)
        return dict(line.split(": ", 1) for line in block.split("\n"))

    async def _receive(self) -> bytes:
        receiving = asyncio.ensure_future(self._connection.receive())
        ending = asyncio.ensure_future(asyncio.shield(self._connection._task))
        try:
            await asyncio.wait((receiving, ending), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)
            if not receiving.done():
                raise EOFError
        finally:
            ending.cancel()
            receiving.cancel()
        data: bytes = receiving.result()
        return data

    async def event(self) -> Json:
        """The next event."""
        block = await self.block()
        assert "change" == block["event"]
        return {**json.loads(block["data"]), "number": int(block["id"])}

    async def end(self, within_s: float = WITHIN_S) -> None:
        """Wait for the end of the stream."""
        async with asyncio.timeout(within_s):
            try:
                while True:
                    await self.block(within_s)
            except EOFError:
                return


@asynccontextmanager
async def following(
    rest: RestClient, token: str, model: str, last: int | None = None
) -> AsyncIterator[Reader]:
    headers = {"Authorization": f"Bearer {token}"} | ({} if last is None else {"Last-Event-ID": str(last)})
    client: Any = rest.app.test_client(use_cookies=False)
    async with client.request(f"/threat_models/{model}/events", headers=headers) as connection:
        await connection.send_complete()
        reader = Reader(connection)
        first = await reader.block()
        assert {"retry", "id"} == first.keys()
        assert 200 == connection.status_code
        assert "text/event-stream" == connection.headers["Content-Type"]
        assert "no" == connection.headers["X-Accel-Buffering"]
        yield reader
        await connection.disconnect()


async def refused(rest: RestClient, token: str, model: str, headers: Mapping[str, str] | None = None) -> int:
    return (await rest.call("GET", f"/threat_models/{model}/events", token, headers=headers)).status


async def rename(rest: RestClient, token: str, model: str, name: str = "New") -> None:
    answer = await rest.patch(token, model, {"op": "replace", "path": "/name", "value": name})
    assert 200 == answer.status


async def test_a_reader_is_told_of_what_happens_from_now_on(rest: RestClient) -> None:
    alice, bob = await rest.sign_in("alice"), await rest.sign_in("bob")
    model = (await rest.create_model(alice, user_grant("bob", "reader")))["id"]
    other = (await rest.create_model(alice))["id"]
    async with following(rest, bob, model) as reader, following(rest, alice, model) as second:
        await rename(rest, alice, other)
        await rename(rest, alice, model)
        event = await reader.event()
        told = event["change_type"], event["change_summary"], event["object_id"]
        assert ("patched", "name", model) == told
        assert event == await second.event()
        diagram = await rest.create_diagram(alice, model)
        event = await reader.event()
        assert ("created", "diagram", diagram["id"]) == (
            event["change_type"], event["object_type"], event["object_id"],
        )  # fmt: skip
    entry = (await rest.call("GET", f"/threat_models/{model}/audit_trail", bob)).json["audit_entries"][0]
    assert entry.pop("changes")  # what changed is told by the trail alone
    assert {**entry, "number": event["number"]} == event


async def test_a_reader_goes_on_after_the_last_event_that_it_has(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    model = (await rest.create_model(alice))["id"]
    async with following(rest, alice, model) as reader:
        await rename(rest, alice, model, "0")
        last = (await reader.event())["number"]
    for n in range(1, 250):
        await rename(rest, alice, model, str(n))
    async with following(rest, alice, model, last) as reader:
        versions = [(await reader.event())["version"] for _ in range(249)]
        await rename(rest, alice, model, "end")
        versions.append((await reader.event())["version"])
    assert list(range(3, 253)) == versions


async def test_a_reader_who_loses_the_role_is_told_no_more(rest: RestClient) -> None:
    alice, bob = await rest.sign_in("alice"), await rest.sign_in("bob")
    model = (await rest.create_model(alice, user_grant("bob", "reader")))["id"]
    async with following(rest, bob, model) as reader, following(rest, alice, model) as owner:
        await rest.patch(alice, model, {"op": "remove", "path": "/authorization/1"})
        await owner.event()
        with pytest.raises(EOFError):
            await reader.event()
    assert 403 == await refused(rest, bob, model)


async def test_a_reader_whose_group_loses_the_role_is_told_no_more(rest: RestClient) -> None:
    alice, bob, admin = [await rest.sign_in(name) for name in ("alice", "bob", ADMINISTRATOR)]
    user = await rest.user_id("bob")
    group = {"group_name": "ops", "name": "Ops"}
    key = (await rest.call("POST", "/admin/groups", admin, json_body=group)).json["internal_uuid"]
    await rest.call("POST", f"/admin/groups/{key}/members", admin, json_body={"user_internal_uuid": user})
    grant = {"principal_type": "group", "provider": "tmi", "provider_id": "ops", "role": "reader"}
    model = (await rest.create_model(alice, grant))["id"]
    async with following(rest, bob, model) as reader:
        await rest.call("DELETE", f"/admin/groups/{key}/members/{user}", admin)
        await reader.end()


async def test_a_reader_who_signs_out_is_told_no_more(rest: RestClient, store: MemoryStore) -> None:
    alice, bob = await rest.sign_in("alice"), await rest.sign_in("bob")
    model = (await rest.create_model(alice, user_grant("bob", "reader")))["id"]
    claims = rest.services.tokens.verify_access(bob)
    async with following(rest, bob, model) as reader, following(rest, alice, model) as other:
        store.sign_ins[claims.sign_in].ended = True
        await rest.services.rooms.rights.sign_ins_ended([claims.sign_in])
        await reader.end()
        await rename(rest, alice, model)
        await other.event()


async def test_the_end_of_a_threat_model_is_told_and_ends_its_streams(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    model = (await rest.create_model(alice))["id"]
    async with following(rest, alice, model) as reader:
        await rest.call("DELETE", f"/threat_models/{model}", alice)
        assert "deleted" == (await reader.event())["change_type"]
        await reader.end()
    assert 0 == rest.services.streams.count


async def test_streams_are_bounded_by_user_and_in_all_and_given_back(rest: RestClient) -> None:
    alice, bob = await rest.sign_in("alice"), await rest.sign_in("bob")
    model = (await rest.create_model(alice, user_grant("bob", "reader")))["id"]
    async with following(rest, alice, model), following(rest, alice, model):
        async with following(rest, alice, model):
            assert 429 == await refused(rest, alice, model)
            async with following(rest, bob, model):
                assert 4 == rest.services.streams.count
                assert 429 == await refused(rest, bob, model)
        for _ in range(100):
            await asyncio.sleep(0.01)
            if rest.services.streams.count == 2:
                break
        async with following(rest, alice, model):
            assert 3 == rest.services.streams.count


async def test_a_reader_who_takes_nothing_is_cut_and_holds_up_nobody(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    model = (await rest.create_model(alice))["id"]
    sign_in = await rest.services.sign_ins.get(rest.services.tokens.verify_access(alice).sign_in)
    assert sign_in is not None
    slow = await rest.services.streams.open(ThreatModelId(UUID(model)), sign_in, None)
    async with following(rest, alice, model) as reader:
        for n in range(7):
            await rename(rest, alice, model, str(n))
            await reader.event()
    assert (1, True, 5) == (rest.services.streams.cut, slow.is_ended, len(slow.queue))


async def test_streams_end_when_the_node_drains(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    model = (await rest.create_model(alice))["id"]
    async with following(rest, alice, model) as reader:
        rest.services.health.draining = True
        await reader.end()
        assert 503 == await refused(rest, alice, model)


async def test_the_database_may_be_away_for_a_while(rest: RestClient, store: MemoryStore) -> None:
    alice = await rest.sign_in("alice")
    model = (await rest.create_model(alice))["id"]
    async with following(rest, alice, model) as reader:
        store.unavailable = True
        deed = Deed(SYSTEM, ChangeType.PATCHED)
        write(store, Event.of_model(deed, store.threat_models[ThreatModelId(UUID(model))]))
        with pytest.raises(TimeoutError):
            await reader.block(0.2)
        store.unavailable = False
        assert "patched" == (await reader.event())["change_type"]


async def test_what_is_no_number_is_refused_and_a_head_ends_at_once(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    model = (await rest.create_model(alice))["id"]
    for last in ("x", "-1", "1" * 19):
        assert 400 == await refused(rest, alice, model, {"Last-Event-ID": last})
    head = await rest.call("HEAD", f"/threat_models/{model}/events", alice)
    assert (200, b"") == (head.status, head.data)


async def test_a_reader_who_signs_out_while_the_stream_is_opened_is_told_nothing(
    rest: RestClient, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await rest.sign_in("alice")
    model = ThreatModelId(UUID((await rest.create_model(alice))["id"]))
    sign_in = await rest.services.sign_ins.get(rest.services.tokens.verify_access(alice).sign_in)
    assert sign_in is not None
    streams = rest.services.streams
    answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def late(_model: ThreatModelId) -> int:
        return await answered

    monkeypatch.setattr(streams._feed, "last", late)
    opening = asyncio.create_task(streams.open(model, sign_in, None))
    await asyncio.sleep(0)
    store.sign_ins[sign_in.id].ended = True
    streams.hear(Signal(Happened.SIGN_IN_ENDED, (sign_in.id,)))
    answered.set_result(0)
    stream = await asyncio.wait_for(opening, WITHIN_S)
    async with asyncio.timeout(WITHIN_S):
        assert 1 == len([wire async for wire in streams.read(stream)])
    assert 0 == streams.count
