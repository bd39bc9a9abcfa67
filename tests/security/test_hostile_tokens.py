"""Hostile tokens where they are presented: at REST, at live sockets of both protocols, at links of nodes.

At each place the good token of the same builder is taken, so that the others are refused for what they are.
"""

import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from urllib.parse import quote
from uuid import uuid4

import pytest
from picows import WSError, WSListener, ws_connect

from api.live.options import LiveOptions
from api.tokens import Tokens
from persistence.memory.store import MemoryStore, Session
from persistence.memory.threat_models import MemoryThreatModels
from rooms.nodes.links import Links
from tests.harness.live_service import LiveService, live_service
from tests.harness.raw_websocket import connected, upgrade_head, upgraded
from tests.integration.test_live_hocuspocus import READ_WRITE, Provider
from tests.rest import RestClient, over_memory
from tests.security.test_tokens import ALICE, CORPORA, DIAGRAM, ISSUER, KEY, NODE, SIGN_IN
from tmi.domain.ids import ThreatModelId
from tmi.domain.model import Diagram, NewThreatModel
from tmi.wiring.nodes import _NothingOwned

AT_ONCE = 50
"""Hocuspocus closes a socket after so many denials, and more."""


def know_alice(store: MemoryStore) -> None:
    """Alice has signed in, so that her good tokens are good."""
    store.users[ALICE.id] = ALICE
    store.sign_ins[SIGN_IN] = Session(ALICE.id, datetime.now(UTC) + timedelta(hours=1))


def every(kind: str) -> list[tuple[str, str]]:
    """The hostile tokens of a kind, and the good ones of the others."""
    others = [(f"a good {other} token", good) for other, (good, _) in CORPORA.items() if other != kind]
    return [*CORPORA[kind][1], *others]


@pytest.fixture
async def rest() -> AsyncIterator[RestClient]:
    store = MemoryStore()
    know_alice(store)
    async with over_memory(store=store, tokens=Tokens([KEY], ISSUER)) as client:
        yield client


async def test_rest_takes_the_good_access_token_alone(rest: RestClient) -> None:
    assert 200 == (await rest.call("GET", "/me", CORPORA["access"][0])).status
    tried = 0
    for what, token in every("access"):
        if any(letter in token for letter in "\r\n\x00\ud800é") or len(token) > 100_000:
            continue  # no header can hold it
        if token != token.strip():
            continue  # space around it is the header's
        tried += 1
        assert (what, 401) == (what, (await rest.call("GET", "/me", token)).status)
    assert tried >= 100


async def test_introspection_and_revocation_tell_nothing_of_hostile_tokens(rest: RestClient) -> None:
    good = CORPORA["access"][0]
    for what, token in every("access"):
        if len(token) > 4096 or not token:
            continue
        for path in ("/oauth2/introspect", "/oauth2/revoke"):
            answer = await rest.call("POST", path, good, json_body={"token": token})
            if answer.status != 400:  # control characters, lone surrogates
                said = {"active": False} if "introspect" in path else {}
                assert (what, 200, said) == (what, answer.status, answer.json)
    assert 200 == (await rest.call("GET", "/me", good)).status


@pytest.fixture
async def live() -> AsyncIterator[LiveService]:
    options = LiveOptions(sweep_s=3600, denials_max=AT_ONCE)
    async with live_service(options) as running:
        running.tokens.issuer = ISSUER
        running.tokens.use_keys([KEY])
        know_alice(running.store)
        yield running


def open_to_alice(store: MemoryStore, model: ThreatModelId) -> None:
    """The diagram that the tokens name, in a threat model of hers."""
    now = datetime.now(UTC)
    store.add_diagram(Diagram(DIAGRAM, model, 1, "Flow", "DFD-1.0.0", None, now, now, 1))


async def prepared(service: LiveService) -> None:
    new = NewThreatModel("Model", None, "STRIDE", None, is_confidential=False, grants=())
    model = await MemoryThreatModels(service.store).create(ALICE, new)
    open_to_alice(service.store, model.id)


async def test_a_y_websocket_upgrade_takes_the_good_collab_token_alone(live: LiveService) -> None:
    await prepared(live)
    path = f"/collab/{DIAGRAM}?token="
    async with upgraded(live.port, path + CORPORA["collab"][0]):
        pass
    tried = 0
    for what, token in every("collab"):
        if len(token) > 6000:
            continue  # the listener's own bound of a request's head comes first
        async with connected(live.port) as raw:
            raw.send(upgrade_head(path + quote(token, safe="", errors="surrogatepass")))
            assert (what, 401) == (what, (await raw.answer()).status)
        tried += 1
    assert tried >= 100


async def test_hocuspocus_takes_the_good_collab_token_alone(live: LiveService) -> None:
    await prepared(live)
    hostile = [(what, token) for what, token in every("collab") if "\ud800" not in token]
    for first in range(0, len(hostile), AT_ONCE):
        async with upgraded(live.port, "/collab") as raw:
            provider = Provider(raw, str(DIAGRAM))
            for what, token in hostile[first : first + AT_ONCE]:
                provider.authenticate(token)
                assert (what, b"\x02\x01") == (what, (await provider.access())[:2])
    async with upgraded(live.port, "/collab") as raw:
        provider = Provider(raw, str(DIAGRAM))
        provider.authenticate(CORPORA["collab"][0])
        assert READ_WRITE == await provider.access()


async def test_no_token_of_any_kind_stands_in_for_a_ticket(live: LiveService) -> None:
    await prepared(live)
    model = live.store.diagrams[DIAGRAM].threat_model_id
    path = f"/threat_models/{model}/diagrams/{DIAGRAM}/ws?session_id={uuid4()}&ticket="
    for kind, (good, _) in CORPORA.items():
        async with connected(live.port) as raw:
            raw.send(upgrade_head(path + good))
            assert (kind, 401) == (kind, (await raw.answer()).status)


async def test_a_link_takes_the_good_node_token_alone() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"ws://127.0.0.1:{listening.getsockname()[1]}/link"
    links = Links(NODE, _NothingOwned(), Tokens([KEY], ISSUER))

    async def dial(token: str) -> None:
        transport, _ = await ws_connect(
            WSListener, url, extra_headers={"Authorization": f"Bearer {token}"}
        )
        transport.disconnect()

    async with links.listening(listening):
        await dial(CORPORA["node"][0])
        tried = 0
        for _, token in every("node"):
            if not token.isascii() or any(ord(letter) < 32 for letter in token) or len(token) > 6000:
                continue
            with pytest.raises(WSError, match="401"):
                await dial(token)
            tried += 1
        assert tried >= 80
