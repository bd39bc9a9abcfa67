"""Who gets in, and who has to go, where two nodes serve one PostgreSQL: real processes and sockets."""

import asyncio
import contextlib
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from api.tokens import Tokens
from crdt import y_websocket
from persistence.postgres.database import PostgresDatabase
from persistence.postgres.sign_ins import PostgresSignIns
from persistence.postgres.signing_keys import PostgresSigningKeys
from persistence.postgres.users import PostgresUsers
from rooms import closing
from tests.conftest import COPY, OWNER
from tests.harness.live_service import an_update
from tests.harness.raw_websocket import RawWebSocket, connected, upgrade_head, upgraded
from tests.harness.rest import Rest, user
from tests.harness.service import Service, running
from tests.postgres import PostgresServer
from tests.valkey import running_valkey
from tmi.wiring.keys import ISSUER

IDLE_S = 1.6
ROUND_S = IDLE_S / 8
LATE_S = 2 * ROUND_S
"""How `rooms/idling.py` divides the bound."""
REACH_S = 1.0
"""In which every node hears of what happened on another one."""

REDEMPTIONS = 1_000
AT_ONCE = 10
WAITING = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two nodes that run."""

    a: Service
    b: Service
    database_url: str


@pytest.fixture(scope="module")
def pair(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    name, folder = f"pair_{uuid.uuid4().hex}", tmp_path_factory.mktemp("pair")
    asyncio.run(_execute(postgres_server, f"CREATE DATABASE {name} OWNER {OWNER} {COPY}"))
    drop = f"DROP DATABASE {name} WITH (FORCE)"
    with running_valkey() as valkey, contextlib.ExitStack() as stack:
        stack.callback(lambda: asyncio.run(_execute(postgres_server, drop)))
        a, b = [_service(folder / one, valkey.socket, postgres_server, name) for one in "ab"]
        made = Pair(a, b, postgres_server.url(name, OWNER))
        stack.enter_context(running(a, b))
        yield made


def _service(data: Path, valkey: Path, server: PostgresServer, database: str) -> Service:
    environment = {
        "TMI_REDIS_URL": f"unix://{valkey}?db=0",
        "TMI_BROWSER_IDLE_S": str(IDLE_S),
        "TMI_ADDRESS_REQUESTS_PER_MIN": "0",
        "TMI_SIGN_IN_REQUESTS_PER_MIN": "0",
    }
    return Service(data, environment, server.url(database, OWNER))


async def _execute(server: PostgresServer, sql: str) -> None:
    async with _connection(server.url("postgres")) as connection:
        await connection.execute(sql)


@contextlib.asynccontextmanager
async def _connection(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def rest(pair: Pair) -> AsyncIterator[Rest]:
    async with Rest(pair.a.url) as at_a:
        yield at_a


async def test_of_a_thousand_redemptions_of_one_ticket_at_two_nodes_one_opens_a_socket(
    pair: Pair, rest: Rest
) -> None:
    alice = await rest.sign_in("alice")
    place = await rest.create_place(alice)
    made = await rest.http.post(
        f"/threat_models/{place.model}/diagrams/{place.diagram}/collaborate", headers=alice.headers
    )
    session = made.raise_for_status().json()
    key = session["session_id"]
    asked = await rest.http.get(f"/ws/ticket?session_id={key}", headers=alice.headers)
    ticket = asked.raise_for_status().json()["ticket"]
    head = upgrade_head(f"{urlsplit(session['websocket_url']).path}?session_id={key}&ticket={ticket}")

    async with contextlib.AsyncExitStack() as stack:
        ports = [node.port for node in (pair.a, pair.b)] * (REDEMPTIONS // 2)
        sockets: list[RawWebSocket] = []
        for some in range(0, REDEMPTIONS, 50):
            opening = (stack.enter_async_context(connected(port)) for port in ports[some : some + 50])
            sockets += await asyncio.gather(*opening)
        database = await stack.enter_async_context(_connection(pair.database_url))
        async with database.transaction():
            # Whoever redeems it waits here, as many at once as the nodes have connections to the database.
            await database.execute("SELECT FROM tickets FOR UPDATE")
            for raw in sockets:
                raw.send(head)
            while await database.fetchval(WAITING) < AT_ONCE:
                await asyncio.sleep(0.01)
                await database.execute("SELECT pg_stat_clear_snapshot()")
        answers = await asyncio.gather(*(raw.answer() for raw in sockets))

        assert {101: 1, 401: REDEMPTIONS - 1} == Counter(answer.status for answer in answers)
        (opened,) = [raw for raw, answer in zip(sockets, answers, strict=True) if answer.status == 101]
        await _still_answers(opened)


async def test_a_collab_token_ends_with_the_identity_provider_of_its_user(pair: Pair, rest: Rest) -> None:
    """Somebody of a provider that was in the settings before the nodes were started again."""
    place = await rest.create_place(await rest.sign_in("alice"), user("bob", "writer"))
    await rest.sign_in("bob")
    database = await PostgresDatabase.connect(pair.database_url, max_connections=1)
    try:
        tokens = Tokens(await PostgresSigningKeys(database).current(), ISSUER)
        answers = {}
        for provider in ("tmi", "gone"):
            bob = await PostgresUsers(database).sign_in(provider, "bob@tmi.local", "bob@tmi.local", "Bob")
            sign_in = await PostgresSignIns(database).start(bob.id, uuid.uuid4().hex, timedelta(hours=1))
            token = tokens.collab_token(bob.id, sign_in.id, None)
            async with connected(pair.b.port) as raw:
                raw.send(upgrade_head(f"/collab/{place.diagram}?token={token}"))
                answers[provider] = (await raw.answer()).status
        assert {"tmi": 101, "gone": 401} == answers
    finally:
        await database.close()


# --- browsers that nobody uses ------------------------------------------------------------------


class Browser:
    """Somebody's browser, signed in at one node, with pages of both."""

    def __init__(self, pair: Pair, cookie: str) -> None:
        self._pair = pair
        self._cookie = cookie

    @classmethod
    async def signed_in(cls, pair: Pair, name: str) -> "Browser":
        async with httpx.AsyncClient(base_url=pair.a.url, trust_env=False) as http:
            to = f"/session/sign-in?idp=tmi&login_hint={name}"
            for _ in range(3):
                to = (await http.get(to)).headers["location"]
            return cls(pair, http.cookies["tmi_session"])

    def headers(self, node: Service) -> dict[str, str]:
        host = f"{node.host}:{node.port}"
        return {"Host": host, "Origin": f"http://{host}", "Cookie": f"tmi_session={self._cookie}"}

    async def status(self, node: Service) -> int:
        """Of the session, as a node tells it; asking is a use."""
        async with httpx.AsyncClient(base_url=node.url, trust_env=False) as http:
            return (await http.get("/session", headers=self.headers(node))).status_code


async def test_an_idle_browser_loses_its_sockets_at_both_nodes_and_who_edits_keeps_them(
    pair: Pair, rest: Rest
) -> None:
    eve = await rest.sign_in("eve")
    place = await rest.create_place(eve, user("alice", "writer"), user("bob", "writer"))
    alice, bob = [await Browser.signed_in(pair, name) for name in ("alice", "bob")]
    path = f"/collab/{place.diagram}"
    async with contextlib.AsyncExitStack() as stack:
        first_use = time.monotonic()
        idle, kept = [
            [
                await stack.enter_async_context(upgraded(node.port, path, browser.headers(node)))
                for node in (pair.a, pair.b)
            ]
            for browser in (alice, bob)
        ]
        last_use = time.monotonic()
        editing = asyncio.create_task(_edit(kept[1]))
        stack.callback(editing.cancel)

        closed = await asyncio.gather(*(raw.receive_close_only() for raw in idle))
        took = time.monotonic()

        assert [closing.SIGN_IN_ENDED] * 2 == [one.close_code for one in closed]
        assert IDLE_S <= took - first_use
        assert took - last_use <= IDLE_S + LATE_S + ROUND_S + REACH_S
        assert [401, 401] == [await alice.status(node) for node in (pair.a, pair.b)]
        for raw in kept:
            await _still_answers(raw)
        assert not editing.done()


async def _edit(raw: RawWebSocket) -> None:
    """Draw until the end of the test."""
    for number in range(10_000):
        raw.send_binary(y_websocket.update(an_update(f"cell-{number}")))
        await asyncio.sleep(0.1)


async def _still_answers(raw: RawWebSocket) -> None:
    raw.send_binary(y_websocket.sync_step1(b"\x00"))
    while (await raw.receive_binary())[:2] != b"\x00\x01":
        pass
