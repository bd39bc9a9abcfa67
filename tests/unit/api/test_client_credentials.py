"""Client credentials over REST, and the tokens that programs get with them."""

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote_plus, urlencode

import pytest

from persistence.memory.store import MemoryStore
from tests.rest import ADMINISTRATOR, OPTIONS, Answer, RestClient, over_memory

Json = Any
FORM = "application/x-www-form-urlencoded"


@pytest.fixture
async def rest() -> AsyncIterator[RestClient]:
    async with over_memory() as client:
        yield client


async def create(rest: RestClient, token: str, **body: Json) -> Json:
    answer = await rest.call("POST", "/me/client_credentials", token, json_body={"name": "ci", **body})
    assert answer.status == 201, answer.data
    return answer.json


async def by_form(rest: RestClient, headers: dict[str, str] | None = None, **fields: str) -> Answer:
    data = urlencode({"grant_type": "client_credentials", **fields}).encode()
    return await rest.call("POST", "/oauth2/token", data=data, content_type=FORM, headers=headers)


def basic(name: str, secret: str) -> dict[str, str]:
    pair = f"{quote_plus(name)}:{quote_plus(secret)}"
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


async def token_of(rest: RestClient, credential: Json) -> str:
    answer = await by_form(rest, basic(credential["client_id"], credential["client_secret"]))
    assert answer.status == 200, answer.data
    return str(answer.json["access_token"])


async def test_a_secret_is_shown_once_and_only_its_hash_is_kept() -> None:
    store = MemoryStore()
    async with over_memory(store=store) as rest:
        admin = await rest.sign_in(ADMINISTRATOR)
        made = await create(rest, admin, description="nightly", expires_at="2126-01-01T00:00:00Z")
        listed = await rest.call("GET", "/me/client_credentials", admin)
        entries = await rest.call("GET", "/admin/audit/system", admin)
    assert made["client_id"].startswith("tmi_cc_")
    assert len(made["client_secret"]) >= 43
    assert made["client_secret"].encode() not in listed.data + entries.data
    assert made["client_secret"] not in repr(store.credentials)
    (shown,) = listed.json["credentials"]
    required = {"id", "client_id", "name", "is_active", "created_at", "modified_at"}
    assert required <= shown.keys()
    assert (1, 20, 0) == tuple(listed.json[key] for key in ("total", "limit", "offset"))


@pytest.mark.parametrize("way", ["basic", "form", "json"])
async def test_a_program_gets_a_token_of_its_user_and_no_refresh_token(rest: RestClient, way: str) -> None:
    made = await create(rest, await rest.sign_in(ADMINISTRATOR))
    fields = {"client_id": made["client_id"], "client_secret": made["client_secret"]}
    if way == "basic":
        answer = await by_form(rest, basic(*fields.values()))
    elif way == "form":
        answer = await by_form(rest, **fields)
    else:
        answer = await rest.exchange(grant_type="client_credentials", **fields)
    assert (200, "no-store") == (answer.status, answer.headers["Cache-Control"])
    assert {"access_token", "token_type", "expires_in"} == answer.json.keys()
    assert ("bearer", 900) == (answer.json["token_type"], round(answer.json["expires_in"], -1))
    me = await rest.call("GET", "/me", answer.json["access_token"])
    assert f"{ADMINISTRATOR}@tmi.local" == me.json["email"]


async def test_what_is_encoded_in_basic_is_decoded(rest: RestClient) -> None:
    made = await create(rest, await rest.sign_in(ADMINISTRATOR))
    escaped = "".join(f"%{ord(letter):02x}" for letter in made["client_secret"])
    pair = base64.b64encode(f"{made['client_id']}:{escaped}".encode()).decode()
    answer = await by_form(rest, {"Authorization": f"basic {pair}"})
    assert 200 == answer.status


@pytest.mark.parametrize("how", ["delete", "deactivate", "admin"])
async def test_the_end_of_a_credential_ends_its_tokens_at_once(rest: RestClient, how: str) -> None:
    admin = await rest.sign_in(ADMINISTRATOR)
    made = await create(rest, admin)
    token = await token_of(rest, made)
    assert 200 == (await rest.call("GET", "/me", token)).status
    path = f"/me/client_credentials/{made['id']}"

    if how == "deactivate":
        answer = await rest.call("PATCH", path, admin, json_body={"is_active": False})
        assert (200, False) == (answer.status, answer.json["is_active"])
    elif how == "delete":
        assert 204 == (await rest.call("DELETE", path, admin)).status
    else:
        path = path.replace("/me/", f"/admin/users/{await rest.user_id(ADMINISTRATOR)}/")
        assert 204 == (await rest.call("DELETE", path, admin)).status

    assert 401 == (await rest.call("GET", "/me", token)).status
    again = await by_form(rest, basic(made["client_id"], made["client_secret"]))
    assert (401, "invalid_client") == (again.status, again.json["error"])
    if how == "deactivate":
        await rest.call("PATCH", path, admin, json_body={"is_active": True})
        assert 401 == (await rest.call("GET", "/me", token)).status
        assert 200 == (await rest.call("GET", "/me", await token_of(rest, made))).status


async def test_credentials_are_for_administrators_unless_the_operator_says_otherwise() -> None:
    async with over_memory() as rest:
        alice = await rest.sign_in("alice")
        answer = await rest.call("POST", "/me/client_credentials", alice, json_body={"name": "ci"})
        assert (403, "forbidden") == (answer.status, answer.json["error"])
    async with over_memory(replace(OPTIONS, client_credentials_for_all=True)) as rest:
        await create(rest, await rest.sign_in("alice"))


async def test_a_program_makes_no_further_credentials_and_no_accounts(rest: RestClient) -> None:
    admin = await rest.sign_in(ADMINISTRATOR)
    token = await token_of(rest, await create(rest, admin))
    body = {"name": "another"}
    user = (await rest.call("POST", "/admin/users/automation", admin, json_body={"name": "robot"})).json
    assert user["automation"] is True
    for path in (
        "/me/client_credentials",
        "/admin/users/automation",
        f"/admin/users/{user['internal_uuid']}/client_credentials",
    ):
        assert 403 == (await rest.call("POST", path, token, json_body=body)).status


async def test_an_automation_account_acts_by_its_credential_with_the_roles_it_is_given(
    rest: RestClient,
) -> None:
    admin, alice = await rest.sign_in(ADMINISTRATOR), await rest.sign_in("alice")
    user = (await rest.call("POST", "/admin/users/automation", admin, json_body={"name": "ci-bot"})).json
    path = f"/admin/users/{user['internal_uuid']}/client_credentials"
    made = (await rest.call("POST", path, admin, json_body={"name": "ci"})).json
    token = await token_of(rest, made)
    model = await rest.create_model(alice)
    where = f"/threat_models/{model['id']}"
    assert 403 == (await rest.call("GET", where, token)).status
    grant = {
        "principal_type": "user", "provider": "automation", "provider_id": "ci-bot", "role": "reader",
    }  # fmt: skip
    await rest.patch(alice, model["id"], {"op": "add", "path": "/authorization/-", "value": grant})
    assert 200 == (await rest.call("GET", where, token)).status
    grant["role"] = "writer"
    await rest.patch(alice, model["id"], {"op": "replace", "path": "/authorization/1", "value": grant})
    threat = {"name": "Theft", "threat_type": ["Spoofing"]}
    for who, path, body, is_made_by_program in (
        (token, "notes", {"name": "a", "content": "b"}, True), (alice, "threats", threat, False),
        (token, "threats", threat, True),
    ):  # fmt: skip
        answer = await rest.call("POST", f"{where}/{path}", who, json_body=body)
        assert (201, is_made_by_program) == (answer.status, answer.json["auto_generated"]), answer.data
    answer = await rest.call("PUT", f"{where}/threats/{answer.json['id']}", alice, json_body=threat)
    assert answer.json["auto_generated"] is True
    robots = (await rest.call("GET", "/admin/users?automation=true", admin)).json
    people = (await rest.call("GET", "/admin/users?automation=false", admin)).json
    assert ["ci-bot"] == [one["name"] for one in robots["users"]]
    assert (1, 2) == (robots["total"], people["total"])


async def test_nobody_makes_a_credential_of_another_person(rest: RestClient) -> None:
    admin = await rest.sign_in(ADMINISTRATOR)
    path = f"/admin/users/{await rest.user_id('alice')}/client_credentials"
    assert 403 == (await rest.call("POST", path, admin, json_body={"name": "ci"})).status
    assert 0 == (await rest.call("GET", path, admin)).json["total"]


async def test_so_many_credentials_and_no_more() -> None:
    async with over_memory(replace(OPTIONS, client_credentials_per_user_max=2)) as rest:
        admin = await rest.sign_in(ADMINISTRATOR)
        for _ in range(2):
            await create(rest, admin)
        answer = await rest.call("POST", "/me/client_credentials", admin, json_body={"name": "ci"})
        assert 403 == answer.status


async def test_a_token_ends_with_its_credential(rest: RestClient) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=60)).isoformat()
    made = await create(rest, await rest.sign_in(ADMINISTRATOR), expires_at=soon)
    answer = await by_form(rest, basic(made["client_id"], made["client_secret"]))
    assert 50 < answer.json["expires_in"] <= 60
    claims = answer.json["access_token"].split(".")[1]
    read = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    assert read["exp"] - read["iat"] <= 60


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "x" * 101},
        {"name": "a\nb"},
        {"name": 1},
        {"name": "ci", "description": "x" * 501},
        {"name": "ci", "expires_at": "2020-01-01T00:00:00Z"},
        {"name": "ci", "expires_at": "2126-01-01T00:00:00"},
        {"name": "ci", "expires_at": 4102444800},
        {"name": "ci", "expires_at": "soon"},
        {"name": "ci", "client_secret": "mine"},
    ],
    ids=str,
)
async def test_a_faulty_credential_is_refused(rest: RestClient, body: Json) -> None:
    admin = await rest.sign_in(ADMINISTRATOR)
    answer = await rest.call("POST", "/me/client_credentials", admin, json_body=body)
    assert (400, "invalid_input") == (answer.status, answer.json["error"])


async def test_what_programs_do_is_in_the_audit_with_their_client_ids(rest: RestClient) -> None:
    admin = await rest.sign_in(ADMINISTRATOR)
    made = await create(rest, admin)
    await token_of(rest, made)
    await by_form(rest, basic(made["client_id"], "wrong"))
    await rest.call("DELETE", f"/me/client_credentials/{made['id']}", admin)
    entries = (await rest.call("GET", "/admin/audit/system?limit=100", admin)).json["entries"]
    kinds = {entry["field_path"] for entry in entries}
    assert {
        "client_credential.created", "token.issued", "client.unknown", "client_credential.deleted",
    } <= kinds  # fmt: skip
    assert made["client_id"] in str(entries)
    assert made["client_secret"] not in str(entries)


async def test_a_program_does_nothing_that_outlives_its_credential(rest: RestClient) -> None:
    admin = await rest.sign_in(ADMINISTRATOR)
    first, other = await create(rest, admin), await create(rest, admin)
    program = (
        await by_form(rest, client_id=first["client_id"], client_secret=first["client_secret"])
    ).json["access_token"]
    eve = (await rest.call("GET", "/oauth2/userinfo", await rest.sign_in("eve"))).json["sub"]
    administrators = "/admin/groups/00000000-0000-0000-0000-000000000002/members"
    for method, path, body in (
        ("PATCH", f"/me/client_credentials/{other['id']}", {"is_active": True}),
        ("DELETE", f"/me/client_credentials/{other['id']}", None),
        ("POST", administrators, {"user_internal_uuid": eve}),
        ("POST", "/me/transfer", {"target_user_id": eve}),
        ("DELETE", "/me", None),
        ("DELETE", "/me/sign_ins", None),
        ("PATCH", f"/admin/users/{eve}", {"email": f"{ADMINISTRATOR}@tmi.local", "email_verified": True}),
        ("POST", f"/admin/users/{eve}/transfer", {"target_user_id": eve}),
        ("DELETE", f"/admin/users/{eve}", None),
    ):
        assert 403 == (await rest.call(method, path, program, json_body=body)).status, path
