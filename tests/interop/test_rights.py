"""Roles as the real clients meet them: refusals at the upgrade, readers, and changes that reach sockets."""

import asyncio
import time

import httpx
import pytest

from tests.harness.kinds import KINDS, spec_of
from tests.harness.node import DriverError, NodeDriver, Spec
from tests.harness.rest import Person, Place, Rest, user
from tests.harness.service import Service

REACH_S = 1.0
"""Changes of rights reach open sockets within a second."""
SLACK_S = 1.0
"""What a busy machine may add on the test's side."""

Y_WEBSOCKET = [kind for kind in KINDS if kind.startswith("y-websocket")]
HOCUSPOCUS = [kind for kind in KINDS if kind.startswith("hocuspocus")]


class Table:
    """A diagram of Alice's with Bob in some role, and named clients at it."""

    def __init__(self, driver: NodeDriver, rest: Rest, service: Service) -> None:
        self.driver = driver
        self.rest = rest
        self._service = service
        self._names: list[str] = []
        self._sockets: set[str] = set()
        self.alice: Person
        self.bob: Person
        self.place: Place

    async def lay(self, role: str) -> None:
        self.alice, self.bob = await self.rest.sign_in("alice"), await self.rest.sign_in("bob")
        self.place = await self.rest.create_place(self.alice, user("bob", role))

    async def spec(self, person: Person, kind: str, **changes: object) -> Spec:
        token = await self.rest.collab_token(person, self.place.diagram)
        name = f"{person.name}-{kind}-{time.monotonic_ns()}"
        return {
            **spec_of(kind, name, self._service.collab, self.place.diagram, token, socket=name),
            **changes,
        }

    async def seat(self, person: Person, kind: str) -> str:
        """Open a client and wait for its first sync."""
        name = await self.open(await self.spec(person, kind))
        await self.driver.wait([name], "synced")
        return name

    async def open(self, spec: Spec) -> str:
        await self.driver.open([spec])
        self._names.append(spec["client"])
        if "socket" in spec:
            self._sockets.add(spec["socket"])
        return str(spec["client"])

    async def clear(self) -> None:
        await self.driver.close(self._names, list(self._sockets))


@pytest.fixture
async def table(driver: NodeDriver, rest: Rest, service: Service):  # type: ignore[no-untyped-def]
    table = Table(driver, rest, service)
    yield table
    await table.clear()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_reader_receives_everything_and_changes_nothing(table: Table, kind: str) -> None:
    await table.lay("reader")
    reader, writer = await table.seat(table.bob, kind), await table.seat(table.alice, "y-websocket-3.1")
    await table.driver.call("put", name=reader, key="forbidden", value=1)
    await table.driver.call("put", name=writer, key="allowed", value=2)
    await table.driver.call("wait_key", names=[reader], key="allowed", timeout_ms=20_000)
    # The reader's edit went before the writer's; what follows it in the room is seen, itself is not.
    await table.driver.wait([writer], "settled")
    assert {"allowed": 2} == (await table.driver.report(writer))["content"]["meta"]
    assert (await table.driver.report(reader))["connected"]


@pytest.mark.parametrize("kind", HOCUSPOCUS)
async def test_a_hocuspocus_reader_is_told_so_and_its_edit_is_refused(table: Table, kind: str) -> None:
    await table.lay("reader")
    reader = await table.seat(table.bob, kind)
    await table.driver.call("wait_scope", name=reader, scope="readonly", timeout_ms=20_000)
    await table.driver.call("put", name=reader, key="forbidden", value=1)
    deadline = time.monotonic() + 20
    while (report := await table.driver.report(reader))["refused"] == 0:
        assert time.monotonic() < deadline, report
        await asyncio.sleep(0.02)
    assert (1, [], True) == (report["refused"], report["violations"], report["has_unsynced_changes"])


@pytest.mark.parametrize("kind", KINDS)
async def test_a_reader_has_presence(table: Table, kind: str) -> None:
    await table.lay("reader")
    reader, writer = await table.seat(table.bob, kind), await table.seat(table.alice, "hocuspocus-4.8")
    await table.driver.call("presence", name=reader, state={"user": "bob"})
    reader_id = (await table.driver.report(reader))["client_id"]
    await table.driver.call("wait_awareness", names=[writer], present=[reader_id], timeout_ms=20_000)


@pytest.mark.parametrize("kind", HOCUSPOCUS)
async def test_a_demotion_and_a_promotion_reach_an_open_hocuspocus_socket(table: Table, kind: str) -> None:
    await table.lay("writer")
    bob = await table.seat(table.bob, kind)
    await table.driver.call("wait_scope", name=bob, scope="read-write", timeout_ms=20_000)
    for role, scope in (("reader", "readonly"), ("writer", "read-write")):
        await table.rest.set_role(table.alice, table.place.model, "bob", role)
        await table.driver.call("wait_scope", name=bob, scope=scope, timeout_ms=(REACH_S + SLACK_S) * 1000)
    await table.driver.call("put", name=bob, key="again", value=1)
    await table.driver.call("wait_saved", name=bob, edit="again", timeout_ms=20_000)


@pytest.mark.parametrize("kind", Y_WEBSOCKET)
async def test_a_demoted_y_websocket_client_changes_nothing_any_more(table: Table, kind: str) -> None:
    await table.lay("writer")
    bob, alice = await table.seat(table.bob, kind), await table.seat(table.alice, "hocuspocus-4.8")
    await table.driver.call("put", name=bob, key="before", value=1)
    await table.driver.call("wait_key", names=[alice], key="before", timeout_ms=20_000)
    await table.rest.set_role(table.alice, table.place.model, "bob", "reader")
    await asyncio.sleep(REACH_S)
    await table.driver.call("put", name=bob, key="after", value=1)
    await table.driver.call("put", name=alice, key="mark", value=1)
    await table.driver.call("wait_key", names=[bob], key="mark", timeout_ms=20_000)
    await table.driver.wait([alice], "settled")
    assert {"before", "mark"} == set((await table.driver.report(alice))["content"]["meta"])


@pytest.mark.parametrize("kind", Y_WEBSOCKET)
async def test_a_y_websocket_client_is_told_what_is_saved_again_once_it_may_edit_again(
    table: Table, kind: str
) -> None:
    await table.lay("writer")
    bob = await table.open({**await table.spec(table.bob, kind), "saved": True})
    await table.driver.wait([bob], "synced")
    await table.driver.call("put", name=bob, key="before", value=1)
    await table.driver.call("wait_saved", name=bob, edit="before", timeout_ms=20_000)
    await table.rest.set_role(table.alice, table.place.model, "bob", "reader")
    await table.driver.call("put", name=bob, key="refused", value=1)
    await asyncio.sleep(0.2)
    await table.rest.set_role(table.alice, table.place.model, "bob", "writer")
    await table.driver.call("wait_close", name=bob, code=1012, timeout_ms=(REACH_S + SLACK_S) * 1000)
    await table.driver.call("put", name=bob, key="after", value=1)
    await table.driver.call("wait_saved", name=bob, edit="after", timeout_ms=20_000)
    alice = await table.seat(table.alice, "hocuspocus-4.8")
    assert {"before", "refused", "after"} == set((await table.driver.report(alice))["content"]["meta"])


@pytest.mark.parametrize("kind", Y_WEBSOCKET)
async def test_who_may_no_longer_read_is_closed_with_4403(table: Table, kind: str) -> None:
    await table.lay("writer")
    bob, alice = await table.seat(table.bob, kind), await table.seat(table.alice, "y-websocket-2.1")
    await table.rest.set_role(table.alice, table.place.model, "bob", None)
    await table.driver.call("wait_close", name=bob, code=4403, timeout_ms=(REACH_S + SLACK_S) * 1000)
    assert (await table.driver.report(alice))["connected"]
    if kind == "y-websocket-3.1":
        assert 4403 == (await table.driver.report(bob))["closed_finally"]


@pytest.mark.parametrize("kind", Y_WEBSOCKET)
async def test_a_deleted_diagram_closes_its_y_websockets_with_4404(table: Table, kind: str) -> None:
    await table.lay("writer")
    bob = await table.seat(table.bob, kind)
    await table.rest.delete_diagram(table.alice, table.place)
    await table.driver.call("wait_close", name=bob, code=4404, timeout_ms=(REACH_S + SLACK_S) * 1000)


@pytest.mark.parametrize("kind", HOCUSPOCUS)
@pytest.mark.parametrize("change", ["removal", "deletion"])
async def test_a_hocuspocus_document_is_denied_when_its_user_may_no_longer_read_or_it_is_gone(
    table: Table, kind: str, change: str
) -> None:
    await table.lay("writer")
    bob = await table.seat(table.bob, kind)
    if change == "removal":
        await table.rest.set_role(table.alice, table.place.model, "bob", None)
    else:
        await table.rest.delete_diagram(table.alice, table.place)
    await table.driver.wait([bob], "denied", REACH_S + SLACK_S)
    assert not (await table.driver.report(bob))["authenticated"]


async def test_one_document_of_a_shared_socket_can_end_and_the_others_go_on(table: Table) -> None:
    await table.lay("writer")
    other = await table.rest.create_place(table.alice, user("bob", "writer"))
    token = await table.rest.collab_token(table.bob)
    first = await table.spec(table.bob, "hocuspocus-4.8-shared", token=token)
    second = {**first, "client": f"{first['client']}-other", "room": other.diagram}
    names = [await table.open(first), await table.open(second)]
    await table.driver.wait(names, "synced")
    await table.rest.set_role(table.alice, table.place.model, "bob", None)
    await table.driver.call("wait", names=names[:1], until="denied", timeout_ms=20_000)
    await table.driver.call("put", name=names[1], key="still", value=1)
    await table.driver.call("wait_saved", name=names[1], edit="still", timeout_ms=20_000)


@pytest.mark.parametrize("kind", Y_WEBSOCKET)
@pytest.mark.parametrize(
    ("status", "changes"),
    [
        (401, {"token": "no-token"}),
        (404, {"room": "00000000-0000-4000-8000-000000000000"}),
    ],
)
async def test_a_y_websocket_client_is_refused_at_the_upgrade(
    table: Table, kind: str, status: int, changes: Spec
) -> None:
    await table.lay("writer")
    spec = await table.spec(table.alice, kind)
    if status == 404:
        changes = {**changes, "token": await table.rest.collab_token(table.alice)}
    name = await table.open({**spec, **changes})
    await table.driver.wait([name], "refused")
    report = await table.driver.report(name)
    assert ({status}, 0) == (set(report["refusals"]), report["opened"])


@pytest.mark.parametrize("kind", Y_WEBSOCKET)
async def test_a_stranger_is_refused_at_the_upgrade_with_403(table: Table, kind: str) -> None:
    await table.lay("reader")
    mallory = await table.rest.sign_in("mallory")
    name = await table.open(await table.spec(table.bob, kind, token=await table.rest.collab_token(mallory)))
    await table.driver.wait([name], "refused")
    report = await table.driver.report(name)
    assert ({403}, 0) == (set(report["refusals"]), report["opened"])


@pytest.mark.parametrize("kind", HOCUSPOCUS)
async def test_a_hocuspocus_stranger_is_denied_and_a_better_token_works_on_the_same_socket(
    table: Table, kind: str
) -> None:
    await table.lay("reader")
    mallory = await table.rest.sign_in("mallory")
    name = await table.open(await table.spec(table.bob, kind, token=await table.rest.collab_token(mallory)))
    await table.driver.wait([name], "denied")
    assert not (await table.driver.report(name))["synced"]
    await table.driver.call("set_token", names=[name], token=await table.rest.collab_token(table.bob))
    await table.driver.call("offline", names=[name])
    await table.driver.wait([name], "disconnected")
    await table.driver.call("online", names=[name])
    await table.driver.wait([name], "synced")


async def test_no_token_for_a_diagram_that_one_may_not_read(table: Table) -> None:
    await table.lay("reader")
    mallory = await table.rest.sign_in("mallory")
    with pytest.raises(httpx.HTTPStatusError, match="403"):
        await table.rest.collab_token(mallory, table.place.diagram)


@pytest.mark.parametrize("kind", Y_WEBSOCKET)
async def test_a_stock_y_websocket_client_comes_in_by_a_ticket(table: Table, kind: str) -> None:
    await table.lay("writer")
    place = table.place
    path = f"/threat_models/{place.model}/diagrams/{place.diagram}/collaborate"
    session = (await table.rest.http.post(path, headers=table.alice.headers)).json()
    query = {"session_id": session["session_id"]}
    answer = await table.rest.http.get("/ws/ticket", params=query, headers=table.bob.headers)
    ticket = answer.json()["ticket"]
    base, _, room = session["websocket_url"].rpartition("/")
    by_ticket = {"url": base, "room": room, "params": {**query, "ticket": ticket}}
    spec = {**await table.spec(table.bob, kind), **by_ticket}
    del spec["token"]
    bob = await table.open(spec)
    await table.driver.wait([bob], "synced")
    alice = await table.seat(table.alice, "hocuspocus-4.8")
    await table.driver.call("put", name=bob, key="by ticket", value=1)
    await table.driver.call("wait_key", names=[alice], key="by ticket", timeout_ms=20_000)
    await table.rest.http.delete(path, headers=table.alice.headers)
    await table.driver.call("wait_close", name=bob, code=4410, timeout_ms=(REACH_S + SLACK_S) * 1000)


async def test_a_timeout_of_the_driver_names_what_it_waited_for(table: Table) -> None:
    await table.lay("reader")
    reader = await table.seat(table.bob, "y-websocket-3.1")
    with pytest.raises(DriverError, match="timed out: nothing at"):
        await table.driver.call("wait_key", names=[reader], key="nothing", timeout_ms=20)
