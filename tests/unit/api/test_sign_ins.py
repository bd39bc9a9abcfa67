"""People and their sign-ins: log out, see them, end them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import pytest

from persistence.memory.store import MemoryStore
from tests.rest import ADMINISTRATOR, OPTIONS, RestClient, over_memory


@pytest.fixture
async def rest() -> AsyncIterator[RestClient]:
    async with over_memory() as client:
        yield client


async def is_good(rest: RestClient, token: str) -> bool:
    return (await rest.call("GET", "/me", token)).status == 200


async def audited(rest: RestClient) -> list[str]:
    admin = await rest.sign_in(ADMINISTRATOR)
    entries = (await rest.call("GET", "/admin/audit/system?limit=100", admin)).json["entries"]
    return [entry["field_path"] for entry in entries]


async def test_logout_ends_the_sign_in_at_once_and_no_other(rest: RestClient) -> None:
    mine, other = await rest.tokens("alice"), await rest.sign_in("alice")
    assert await is_good(rest, mine["access_token"])

    answer = await rest.call("POST", "/me/logout", mine["access_token"])

    assert (204, b"") == (answer.status, answer.data)
    assert not await is_good(rest, mine["access_token"])
    refreshed = await rest.exchange(grant_type="refresh_token", refresh_token=mine["refresh_token"])
    assert (400, "invalid_grant") == (refreshed.status, refreshed.json["error"])
    assert await is_good(rest, other)
    assert "sign_in.ended" in await audited(rest)


async def test_people_see_their_sign_ins_with_what_each_client_calls_itself(rest: RestClient) -> None:
    first = await rest.sign_in("alice")
    second = await rest.sign_in("alice")
    await rest.sign_in("bob")

    body = (await rest.call("GET", "/me/sign_ins", second)).json

    assert (2, 20, 0) == (body["total"], body["limit"], body["offset"])
    mine = str(rest.services.tokens.verify_access(first).sign_in)
    assert [True, False] == [one["is_current"] for one in body["sign_ins"]]
    assert mine == body["sign_ins"][1]["id"]
    assert {"id", "started_at", "expires_at", "client", "is_current"} == body["sign_ins"][0].keys()


async def test_one_sign_in_is_ended_from_another(rest: RestClient) -> None:
    lost, mine = await rest.sign_in("alice"), await rest.sign_in("alice")
    assert await is_good(rest, lost)
    key = rest.services.tokens.verify_access(lost).sign_in

    assert 204 == (await rest.call("DELETE", f"/me/sign_ins/{key}", mine)).status

    assert not await is_good(rest, lost)
    assert await is_good(rest, mine)
    assert 404 == (await rest.call("DELETE", f"/me/sign_ins/{key}", mine)).status


async def test_nobody_ends_a_sign_in_of_somebody_else(rest: RestClient) -> None:
    alice, bob = await rest.sign_in("alice"), await rest.sign_in("bob")
    key = rest.services.tokens.verify_access(alice).sign_in
    assert 404 == (await rest.call("DELETE", f"/me/sign_ins/{key}", bob)).status
    assert await is_good(rest, alice)


async def test_all_others_are_ended_at_once(rest: RestClient) -> None:
    others = [await rest.sign_in("alice") for _ in range(3)]
    mine, bob = await rest.sign_in("alice"), await rest.sign_in("bob")

    assert 204 == (await rest.call("DELETE", "/me/sign_ins", mine)).status

    assert [False] * 3 == [await is_good(rest, token) for token in others]
    assert await is_good(rest, mine)
    assert await is_good(rest, bob)


async def test_an_administrator_ends_all_sign_ins_of_an_account(rest: RestClient) -> None:
    admin, alice = await rest.sign_in(ADMINISTRATOR), await rest.sign_in("alice")
    user = rest.services.tokens.verify_access(alice).user
    assert await is_good(rest, alice)

    assert 204 == (await rest.call("DELETE", f"/admin/users/{user}/sign_ins", admin)).status

    assert not await is_good(rest, alice)
    assert await is_good(rest, admin)
    assert 404 == (await rest.call("DELETE", f"/admin/users/{uuid4()}/sign_ins", admin)).status


async def test_a_token_used_again_is_told_apart_in_the_audit_and_not_to_the_client(rest: RestClient) -> None:
    first = await rest.tokens("alice")
    again = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    await rest.exchange(**again)
    unknown = await rest.exchange(grant_type="refresh_token", refresh_token="unknown")
    reused = [await rest.exchange(**again) for _ in range(2)]

    assert [unknown.data] * 2 == [answer.data for answer in reused]
    assert not await is_good(rest, first["access_token"])
    await asyncio.sleep(0.05)
    entries = await audited(rest)
    assert 2 == entries.count("refresh_token.reused")
    assert 1 == entries.count("refresh_token.unknown")
    assert 1 == entries.count("sign_in.refused")  # the access token, whose session has ended


async def test_a_code_used_again_ends_what_it_began(rest: RestClient) -> None:
    code = await rest.code()
    given = {"grant_type": "authorization_code", "code": code, "code_verifier": "v" * 43}
    tokens = (await rest.exchange(**given)).json
    assert await is_good(rest, tokens["access_token"])

    again = await rest.exchange(**given)

    assert (400, "invalid_grant") == (again.status, again.json["error"])
    assert not await is_good(rest, tokens["access_token"])
    assert "code.reused" in await audited(rest)


async def test_no_secret_is_in_the_audit(rest: RestClient) -> None:
    tokens = await rest.tokens("alice")
    await rest.exchange(grant_type="refresh_token", refresh_token=tokens["refresh_token"])
    await rest.exchange(grant_type="refresh_token", refresh_token=tokens["refresh_token"])
    await rest.call("POST", "/me/logout", await rest.sign_in("alice"))
    admin = await rest.sign_in(ADMINISTRATOR)
    text = (await rest.call("GET", "/admin/audit/system?limit=100", admin)).data.decode()
    assert tokens["refresh_token"] not in text
    assert tokens["access_token"].rsplit(".", 1)[1] not in text


async def test_failed_sign_ins_are_in_the_audit(rest: RestClient) -> None:
    code = await rest.code()
    await rest.exchange(grant_type="authorization_code", code=code, code_verifier="w" * 43)
    for token in ("forged", "a.b.c"):
        assert 401 == (await rest.call("GET", "/me", token)).status
    assert 401 == (await rest.call("GET", "/me")).status  # who brings nothing tries nothing
    elsewhere = "/oauth2/authorize?idp=tmi&login_hint=a&client_callback=https://evil.example/"
    assert 400 == (await rest.call("GET", elsewhere)).status
    await asyncio.sleep(0.05)
    assert 4 == (await audited(rest)).count("sign_in.refused")


async def test_who_came_by_a_provider_that_is_gone_goes_with_it() -> None:
    store = MemoryStore()
    async with over_memory(store=store) as before:
        tokens = await before.tokens("alice")
        assert 200 == (await before.call("GET", "/me", tokens["access_token"])).status
    async with over_memory(store=store, options=replace(OPTIONS, dev=False)) as after:
        assert 401 == (await after.call("GET", "/me", tokens["access_token"])).status
        again = await after.exchange(grant_type="refresh_token", refresh_token=tokens["refresh_token"])
        assert (400, "invalid_grant") == (again.status, again.json["error"])
        assert [True] == [session.ended for session in store.sign_ins.values()]


async def test_userinfo_names_groups(rest: RestClient) -> None:
    admin, alice = await rest.sign_in(ADMINISTRATOR), await rest.sign_in("alice")
    me = (await rest.call("GET", "/oauth2/userinfo", alice)).json
    assert [] == me["groups"]
    group = await rest.call("POST", "/admin/groups", admin, json_body={"group_name": "ops", "name": "Ops"})
    path = f"/admin/groups/{group.json['internal_uuid']}/members"
    await rest.call("POST", path, admin, json_body={"user_internal_uuid": me["sub"]})
    assert ["ops"] == (await rest.call("GET", "/oauth2/userinfo", alice)).json["groups"]
