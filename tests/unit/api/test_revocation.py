"""Revocation (RFC 7009) and introspection (RFC 7662)."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.rest import ADMINISTRATOR, ISSUER, Answer, RestClient, over_memory
from tests.unit.api.test_client_credentials import basic, create, token_of
from tests.unit.api.test_sign_ins import audited, is_good

Json = Any
FORM = "application/x-www-form-urlencoded"


@pytest.fixture
async def rest() -> AsyncIterator[RestClient]:
    async with over_memory() as client:
        yield client


async def asked(
    rest: RestClient,
    what: str,
    bearer: str | None,
    headers: dict[str, str] | None = None,
    /,
    **fields: str,
) -> Answer:
    data = urlencode(fields).encode()
    return await rest.call(
        "POST", f"/oauth2/{what}", bearer, data=data, content_type=FORM, headers=headers
    )


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
@pytest.mark.parametrize("hint", [None, "access_token", "refresh_token", "unknown"])
async def test_either_token_revokes_the_whole_sign_in(
    rest: RestClient, kind: str, hint: str | None
) -> None:
    mine, other = await rest.tokens("alice"), await rest.sign_in("alice")
    fields = {"token": mine[kind]} | ({} if hint is None else {"token_type_hint": hint})

    answer = await asked(rest, "revoke", other, **fields)

    assert (200, b"{}") == (answer.status, answer.data)
    assert not await is_good(rest, mine["access_token"])
    refreshed = await rest.exchange(grant_type="refresh_token", refresh_token=mine["refresh_token"])
    assert "invalid_grant" == refreshed.json["error"]
    assert await is_good(rest, other)
    assert "token.revoked" in await audited(rest)


async def test_a_token_may_revoke_itself(rest: RestClient) -> None:
    token = await rest.sign_in("alice")
    assert 200 == (await asked(rest, "revoke", token, token=token)).status
    assert not await is_good(rest, token)


async def test_an_old_refresh_token_of_the_family_revokes_it_as_well(rest: RestClient) -> None:
    first = await rest.tokens("alice")
    second = (await rest.exchange(grant_type="refresh_token", refresh_token=first["refresh_token"])).json
    other = await rest.sign_in("alice")
    await asked(rest, "revoke", other, token=first["refresh_token"])
    assert not await is_good(rest, second["access_token"])


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
async def test_a_token_of_somebody_else_stays_and_the_answer_does_not_tell(
    rest: RestClient, kind: str
) -> None:
    alice, bob = await rest.tokens("alice"), await rest.sign_in("bob")
    foreign = await asked(rest, "revoke", bob, token=alice[kind])
    unknown = await asked(rest, "revoke", bob, token="unknown")
    assert (200, foreign.data) == (unknown.status, unknown.data)
    assert await is_good(rest, alice["access_token"])


async def test_a_client_revokes_its_own_tokens_by_its_credential(rest: RestClient) -> None:
    made = await create(rest, await rest.sign_in(ADMINISTRATOR))
    by_body, by_header = await token_of(rest, made), await token_of(rest, made)
    client = {"client_id": made["client_id"], "client_secret": made["client_secret"]}
    assert 200 == (await asked(rest, "revoke", None, token=by_body, **client)).status
    assert not await is_good(rest, by_body)
    assert await is_good(rest, by_header)
    assert 200 == (await asked(rest, "revoke", None, basic(*client.values()), token=by_header)).status
    assert not await is_good(rest, by_header)


async def test_json_is_taken_as_well(rest: RestClient) -> None:
    token = await rest.sign_in("alice")
    answer = await rest.call("POST", "/oauth2/revoke", token, json_body={"token": token})
    assert 200 == answer.status
    assert not await is_good(rest, token)


@pytest.mark.parametrize("what", ["revoke", "introspect"])
async def test_who_is_nobody_may_not_ask(rest: RestClient, what: str) -> None:
    tokens = await rest.tokens("alice")
    for bearer in (None, "x", tokens["refresh_token"]):
        answer = await asked(rest, what, bearer, token=tokens["access_token"])
        assert (401, "unauthorized") == (answer.status, answer.json["error"])
    answer = await asked(rest, what, None, basic("tmi_cc_x", "y"), token=tokens["access_token"])
    assert (401, "invalid_client") == (answer.status, answer.json["error"])
    assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert await is_good(rest, tokens["access_token"])


@pytest.mark.parametrize("what", ["revoke", "introspect"])
async def test_a_faulty_request_is_refused_by_its_rfc(rest: RestClient, what: str) -> None:
    token = await rest.sign_in("alice")
    for fields in ({}, {"token": ""}, {"token": "x" * 4097}, {"token": "a\x00b"}):
        answer = await asked(rest, what, token, **fields)
        assert (400, "invalid_request") == (answer.status, answer.json["error"])
    assert 200 == (await asked(rest, what, token, token="x", unknown="y")).status
    twice = await rest.call(
        "POST", f"/oauth2/{what}", token, data=b"token=a&token=b", content_type=FORM
    )
    assert (400, "invalid_request") == (twice.status, twice.json["error"])
    text = await rest.call("POST", f"/oauth2/{what}", token, data=b"token=a", content_type="text/plain")
    assert 415 == text.status


async def test_a_good_access_token_is_told_of(rest: RestClient) -> None:
    mine, asker = await rest.sign_in("alice"), await rest.sign_in("bob")
    body = (await asked(rest, "introspect", asker, token=mine)).json
    user = rest.services.tokens.verify_access(mine).user
    assert {
        "active": True, "sub": str(user), "email": "alice@tmi.local", "name": "alice",
        "iss": ISSUER, "token_type": "Bearer",
    } == {name: value for name, value in body.items() if name not in ("exp", "iat")}  # fmt: skip
    assert 900 == body["exp"] - body["iat"]


async def test_a_good_refresh_token_is_told_of_and_not_used(rest: RestClient) -> None:
    tokens = await rest.tokens("alice")
    body = (await asked(rest, "introspect", tokens["access_token"], token=tokens["refresh_token"])).json
    assert (True, "refresh_token") == (body["active"], body["token_type"])
    answer = await rest.exchange(grant_type="refresh_token", refresh_token=tokens["refresh_token"])
    assert 200 == answer.status
    old = await asked(rest, "introspect", tokens["access_token"], token=tokens["refresh_token"])
    assert {"active": False} == old.json


async def test_of_whatever_is_not_good_nothing_else_is_told(rest: RestClient) -> None:
    asker, gone = await rest.sign_in("alice"), await rest.tokens("bob")
    claims = rest.services.tokens.verify_access(asker)
    await rest.call("POST", "/me/logout", gone["access_token"])
    collab = rest.services.tokens.collab_token(claims.user, claims.sign_in, None)
    for token in ("x", "a.b.c", collab, gone["access_token"], gone["refresh_token"], asker[:-2]):
        body = (await asked(rest, "introspect", asker, token=token)).json
        assert {"active": False} == body


async def test_a_resource_server_asks_by_its_credential(rest: RestClient) -> None:
    made = await create(rest, await rest.sign_in(ADMINISTRATOR))
    token = await rest.sign_in("alice")
    headers = basic(made["client_id"], made["client_secret"])
    assert (await asked(rest, "introspect", None, headers, token=token)).json["active"] is True
