"""A signing key is changed while two nodes serve: no token of any key is refused while it is good."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import httpx
import jwt
import pytest

from api.keys import LEAD, READ_EVERY_S
from api.tokens import Tokens, new_signing_key
from persistence.postgres.database import PostgresDatabase
from persistence.postgres.signals import PostgresSignals
from persistence.postgres.signing_keys import PostgresKeyRotation
from persistence.postgres.users import PostgresUsers
from tests.contracts.test_accounts import entry
from tests.faults.conftest import OwnPostgres
from tests.harness.raw_websocket import upgraded
from tests.harness.rest import Person, Rest, user
from tests.harness.service import Service, running
from tmi.domain.ids import DiagramId, SignInId, UserId
from tmi.domain.ports import Happened, Signal

SHORT_LEAD = timedelta(seconds=3)


@pytest.fixture
async def nodes(
    tmp_path: Path, valkey_url: str, own_postgres: OwnPostgres
) -> AsyncIterator[tuple[Rest, Rest, tuple[int, int], PostgresDatabase]]:
    environment = {"TMI_REDIS_URL": valkey_url}
    a, b = [Service(tmp_path / name, environment, own_postgres.url) for name in "ab"]
    with running(a, b):
        database = await PostgresDatabase.connect(own_postgres.url)
        async with Rest(a.url) as one, Rest(b.url) as other:
            yield one, other, (a.port, b.port), database
        await database.close()


async def status_of(rest: Rest, token: str) -> int:
    answer: httpx.Response = await rest.http.get("/me", headers={"Authorization": f"Bearer {token}"})
    return answer.status_code


async def keys_of(rest: Rest) -> list[str]:
    return [key["kid"] for key in (await rest.http.get("/.well-known/jwks.json")).json()["keys"]]


async def test_tokens_of_both_keys_are_good_on_both_nodes_while_keys_change(
    nodes: tuple[Rest, Rest, tuple[int, int], PostgresDatabase],
) -> None:
    one, other, ports, database = nodes
    alice = await one.sign_in("alice")
    place = await one.create_place(alice, user("bob", "writer"))
    claims = jwt.decode(alice.access_token, options={"verify_signature": False})
    me, sign_in = UserId(UUID(claims["sub"])), SignInId(UUID(claims["sid"]))
    old = jwt.get_unverified_header(alice.access_token)["kid"]
    alices = await PostgresUsers(database).get(me)
    refused: list[str] = []
    async with asking(one, other, refused):
        # Nobody is told: a node may be cut off from the signals when a key is made.
        key = new_signing_key()
        await PostgresKeyRotation(database).add(key, SHORT_LEAD, entry())
        fresh = Tokens([key], "tmi")
        assert 200 == await status_of(one, fresh.access_token(alices, sign_in))
        collab = fresh.collab_token(me, sign_in, DiagramId(UUID(place.diagram)))
        async with upgraded(ports[1], f"/collab/{place.diagram}?token={collab}"):
            pass
        assert [key.kid, old] == await keys_of(one) == await keys_of(other)

        await PostgresSignals(database).publish(Signal(Happened.KEYS_CHANGED, (UUID(key.kid),)))
        later = await until_signed_by(one, key.kid)
        assert [200, 200] == [await status_of(rest, later.access_token) for rest in (one, other)]
        assert [200, 200] == [await status_of(rest, alice.access_token) for rest in (one, other)]
        await until_signed_by(other, key.kid)

        # Links between nodes prove themselves with the new key, too.
        async with upgraded(ports[0], await path_of(one, alice, place.diagram)):
            pass
    assert [] == refused
    assert LEAD.total_seconds() >= 3 * READ_EVERY_S

    replacement = new_signing_key()
    await PostgresKeyRotation(database).replace_all(replacement, entry())
    await PostgresSignals(database).publish(Signal(Happened.KEYS_CHANGED, (UUID(replacement.kid),)))
    began = time.monotonic()
    for rest in (one, other):
        for token in (alice.access_token, later.access_token):
            while await status_of(rest, token) != 401:
                assert time.monotonic() - began < 1
    newest = await one.sign_in("alice")
    assert 200 == await status_of(other, newest.access_token)


async def path_of(rest: Rest, person: Person, diagram: str) -> str:
    return f"/collab/{diagram}?token={await rest.collab_token(person, diagram)}"


async def until_signed_by(rest: Rest, kid: str) -> Person:
    """Somebody who signed in when this key had begun to sign."""
    for _ in range(100):
        person = await rest.sign_in("bob")
        if jwt.get_unverified_header(person.access_token)["kid"] == kid:
            return person
        await asyncio.sleep(0.1)
    raise TimeoutError(f"key {kid} does not sign")


@contextlib.asynccontextmanager
async def asking(one: Rest, other: Rest, refused: list[str]) -> AsyncIterator[None]:
    """Meanwhile somebody signs in at one node again and again, and goes to the other at once."""

    async def go_on() -> None:
        while True:
            token = (await one.sign_in("carol")).access_token
            answers = [await status_of(rest, token) for rest in (other, one)]
            refused.extend(f"{status} for {token}" for status in answers if status != 200)
            await asyncio.sleep(0.02)

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
