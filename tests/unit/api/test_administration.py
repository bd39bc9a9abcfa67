"""Accounts, groups and the audit over REST."""

import asyncio
import csv
import io
import json
import logging
from collections.abc import AsyncIterator

import pytest

from api import audit_files, schemas
from rooms.closing import DIAGRAM_DELETED, NO_LONGER_ALLOWED
from tests.rest import ADMINISTRATOR, Json, RestClient, group_grant, over_memory, user_grant
from tests.unit.api.test_rooms import joined
from tmi.domain.roles import Role


@pytest.fixture
async def rest() -> AsyncIterator[RestClient]:
    async with over_memory() as client:
        yield client


async def audited(rest: RestClient, admin: str, query: str = "") -> list[Json]:
    answer = await rest.call("GET", f"/admin/audit/system{query}", admin)
    assert 200 == answer.status, answer.data
    found: list[Json] = answer.json["entries"]
    return found


async def new_group(rest: RestClient, admin: str, name: str, *members: str) -> str:
    body = {"group_name": name, "name": name.title()}
    group = (await rest.call("POST", "/admin/groups", admin, json_body=body)).json["internal_uuid"]
    for member in members:
        await add(rest, admin, group, await rest.user_id(member))
    return str(group)


async def add(rest: RestClient, admin: str, group: str, user: str) -> None:
    body = {"user_internal_uuid": user, "notes": "since May"}
    answer = await rest.call("POST", f"/admin/groups/{group}/members", admin, json_body=body)
    assert 201 == answer.status, answer.data


async def test_a_member_of_administrators_is_one_until_removed(rest: RestClient) -> None:
    admin, bob = await rest.sign_in(ADMINISTRATOR), await rest.sign_in("bob")
    user = await rest.user_id("bob")
    group = "00000000-0000-0000-0000-000000000002"
    assert 403 == (await rest.call("GET", "/admin/users", bob)).status
    await add(rest, admin, group, user)
    assert 200 == (await rest.call("GET", "/admin/users", bob)).status
    me = (await rest.call("GET", "/me", bob)).json
    assert (True, ["administrators"]) == (me["is_admin"], [g["group_name"] for g in me["groups"]])
    shown = (await rest.call("GET", f"/admin/users/{user}", admin)).json
    assert (True, ["administrators"]) == (shown["is_admin"], shown["groups"])
    assert 204 == (await rest.call("DELETE", f"/admin/groups/{group}/members/{user}", admin)).status
    assert 403 == (await rest.call("GET", "/admin/users", bob)).status


async def test_an_administrator_by_setting_is_shown_as_one(rest: RestClient) -> None:
    admin = await rest.sign_in(ADMINISTRATOR)
    users = (await rest.call("GET", "/admin/users?email=admin", admin)).json
    assert (1, [True]) == (users["total"], [user["is_admin"] for user in users["users"]])


@pytest.mark.parametrize("how", ["removal", "deletion of the group"])
async def test_who_loses_a_role_by_a_group_is_sent_away_from_open_diagrams(
    rest: RestClient, how: str
) -> None:
    admin, alice = await rest.sign_in(ADMINISTRATOR), await rest.sign_in("alice")
    group = await new_group(rest, admin, "ops", "bob", "carol")
    model = await rest.create_model(alice, group_grant("ops", "writer"), user_grant("carol", "reader"))
    diagram = (await rest.create_diagram(alice, model["id"]))["id"]
    bob, _ = await joined(rest, "bob", diagram, Role.WRITER)
    carol, _ = await joined(rest, "carol", diagram, Role.WRITER)
    user = await rest.user_id("bob")
    path = f"/admin/groups/{group}"
    assert 204 == (
        await rest.call("DELETE", f"{path}/members/{user}" if how == "removal" else path, admin)
    ).status
    assert ([NO_LONGER_ALLOWED], []) == (bob.closed, carol.closed)
    expected = [] if how == "removal" else [Role.READER]
    assert expected == carol.roles


async def test_members_of_a_group_see_each_other_but_not_why(rest: RestClient) -> None:
    admin, bob, eve = [await rest.sign_in(name) for name in (ADMINISTRATOR, "bob", "eve")]
    group = await new_group(rest, admin, "ops", "bob")
    path = f"/groups/{group}/members"
    full = (await rest.call("GET", f"/admin{path}", admin)).json["members"][0]
    assert ("since May", "admin@tmi.local") == (full["notes"], full["added_by_email"])
    mine = (await rest.call("GET", f"/me{path}", bob)).json["members"][0]
    assert full["id"] == mine["id"]
    assert not {"notes", "added_by_email", "added_by_internal_uuid"} & mine.keys()
    assert 404 == (await rest.call("GET", f"/me{path}", eve)).status
    assert ["ops"] == [g["group_name"] for g in (await rest.call("GET", "/me/groups", bob)).json["groups"]]


async def test_an_account_is_deleted_by_its_challenge_with_what_nobody_else_owns(rest: RestClient) -> None:
    admin, alice = await rest.sign_in(ADMINISTRATOR), await rest.sign_in("alice")
    alone = await rest.create_model(alice, user_grant("bob", "writer"))
    shared = await rest.create_model(alice, user_grant("bob", "owner"))
    gone = (await rest.create_diagram(alice, alone["id"]))["id"]
    kept = (await rest.create_diagram(alice, shared["id"]))["id"]
    (of_bob, _), (of_alice, _) = (
        await joined(rest, "bob", gone, Role.WRITER),
        await joined(rest, "alice", kept, Role.OWNER),
    )
    assert 400 == (await rest.call("DELETE", "/me?challenge=yes", alice)).status
    challenge = (await rest.call("DELETE", "/me", alice)).json
    assert {"challenge_text", "expires_at"} == challenge.keys()
    text = challenge["challenge_text"].replace(" ", "%20")
    assert 400 == (await rest.call("DELETE", f"/me?challenge={text}", await rest.sign_in("bob"))).status
    assert 204 == (await rest.call("DELETE", f"/me?challenge={text}", alice)).status
    assert ([DIAGRAM_DELETED], [NO_LONGER_ALLOWED]) == (of_bob.closed, of_alice.closed)
    bob = await rest.sign_in("bob")
    models = (await rest.call("GET", "/threat_models", bob)).json["threat_models"]
    assert [shared["id"]] == [model["id"] for model in models]
    assert "bob@tmi.local" == models[0]["owner"]["email"]
    entries = await audited(rest, admin, "?field_path=account.deleted")
    assert ["alice@tmi.local"] == [entry["actor"]["email"] for entry in entries]
    assert challenge["challenge_text"] not in str(await audited(rest, admin))


async def test_ownership_is_handed_over_by_its_owner_or_an_administrator(rest: RestClient) -> None:
    admin, alice = await rest.sign_in(ADMINISTRATOR), await rest.sign_in("alice")
    model = await rest.create_model(alice)
    a, b = await rest.user_id("alice"), await rest.user_id("bob")
    answer = await rest.call("POST", "/me/transfer", alice, json_body={"target_user_id": b})
    moved = {"count": 1, "threat_model_ids": [model["id"]]}
    none = {"count": 0, "survey_response_ids": []}
    assert {"threat_models_transferred": moved, "survey_responses_transferred": none} == answer.json
    grants = (await rest.call("GET", f"/threat_models/{model['id']}", alice)).json["authorization"]
    assert {"alice@tmi.local": "writer", "bob@tmi.local": "owner"} == {
        grant["provider_id"]: grant["role"] for grant in grants
    }
    assert 400 == (await rest.call("POST", "/me/transfer", alice, json_body={"target_user_id": a})).status
    missing = {"target_user_id": "00000000-0000-4000-8000-000000000000"}
    assert 404 == (await rest.call("POST", "/me/transfer", alice, json_body=missing)).status
    back = await rest.call("POST", f"/admin/users/{b}/transfer", admin, json_body={"target_user_id": a})
    assert moved == back.json["threat_models_transferred"]


async def test_the_audit_tells_who_did_what_and_no_secret(
    rest: RestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    admin = await rest.sign_in(ADMINISTRATOR)
    tokens = await rest.tokens("alice")
    alice = tokens["access_token"]
    answer = await rest.exchange(grant_type="refresh_token", refresh_token=tokens["refresh_token"])
    await rest.exchange(grant_type="refresh_token", refresh_token=tokens["refresh_token"])
    bob = await rest.sign_in("bob")
    alice = await rest.sign_in("alice")
    model = await rest.create_model(alice)
    operation = {"op": "add", "path": "/authorization/-", "value": user_grant("bob", "reader")}
    await rest.patch(alice, model["id"], operation)
    await rest.call("DELETE", f"/threat_models/{model['id']}", bob)
    await new_group(rest, admin, "ops", "bob")
    entries = await audited(rest, admin)
    expected = {
        ("sign_in.started", "alice@tmi.local"),
        ("token.refreshed", "alice@tmi.local"),
        ("refresh_token.reused", ""),
        ("roles.changed", "alice@tmi.local"),
        ("access.refused", "bob@tmi.local"),
        ("group.created", "admin@tmi.local"),
        ("group.member_added", "admin@tmi.local"),
    }
    assert expected <= {(entry["field_path"], entry["actor"]["email"]) for entry in entries}
    changed = next(entry for entry in entries if entry["field_path"] == "roles.changed")
    assert ("", "user:tmi:bob@tmi.local=reader", f"/threat_models/{model['id']}") == (
        changed["old_value_redacted"],
        changed["new_value_redacted"],
        changed["http_path"],
    )
    lines = [vars(record) for record in caplog.records if record.name == "tmi.audit"]
    assert {what for what, _ in expected} <= {line["what"] for line in lines}
    for secret in (alice, bob, *tokens.values(), *answer.json.values()):
        if isinstance(secret, str) and len(secret) > 20:
            assert secret not in str(entries) + str(lines)


async def test_the_audit_is_paged_by_cursors(rest: RestClient) -> None:
    admin = await rest.sign_in(ADMINISTRATOR)
    for n in range(5):
        await new_group(rest, admin, f"g{n}")
    path = "/admin/audit/system?field_path=group.created&limit=2"
    pages = [(await rest.call("GET", path, admin)).json]
    while cursor := pages[-1].get("next_cursor"):
        pages.append((await rest.call("GET", f"{path}&cursor={cursor}", admin)).json)
    assert [["g4", "g3"], ["g2", "g1"], ["g0"]] == [
        [entry["new_value_redacted"] for entry in page["entries"]] for page in pages
    ]
    back = (await rest.call("GET", f"{path}&cursor={pages[2]['prev_cursor']}", admin)).json
    assert pages[1]["entries"] == back["entries"]
    entry = pages[1]["entries"][0]
    around = (await rest.call("GET", f"{path}&around={entry['id']}", admin)).json
    assert pages[1]["entries"] == around["entries"]
    assert entry == (await rest.call("GET", f"/admin/audit/system/{entry['id']}", admin)).json
    for bad in ("x", "b3g=", "%C3%BC", "bw=="):
        assert 400 == (await rest.call("GET", f"{path}&cursor={bad}", admin)).status


async def test_the_audit_comes_as_a_file_of_csv_or_of_json_lines(rest: RestClient) -> None:
    admin = await rest.sign_in(ADMINISTRATOR)
    for name in ("g0", "g1", "g2"):
        await new_group(rest, admin, name)
    path = "/admin/audit/system?field_path=group.created&limit=2"
    entries = (await rest.call("GET", path, admin)).json["entries"]

    lines = await rest.call("GET", path, admin, headers={"Accept": "application/x-ndjson"})
    assert ("application/x-ndjson", 'attachment; filename="audit.ndjson"') == (
        lines.headers["Content-Type"],
        lines.headers["Content-Disposition"],
    )
    assert entries == [json.loads(line) for line in lines.data.splitlines()]

    found: list[dict[str, str]] = []
    following = path
    while following:
        answer = await rest.call("GET", following, admin, headers={"Accept": "text/csv"})
        assert "text/csv; charset=utf-8" == answer.headers["Content-Type"]
        found += csv.DictReader(io.StringIO(answer.data.decode(), newline=""))
        following = answer.headers.get("Link", "").removesuffix('>; rel="next"').removeprefix("<")
    assert ["g2", "g1", "g0"] == [row["new_value_redacted"] for row in found]
    assert entries[0]["actor"]["email"] == found[0]["actor_email"]
    assert entries[0]["created_at"] == found[0]["created_at"]
    assert 406 == (await rest.call("GET", path, admin, headers={"Accept": "text/html"})).status

    evil = {"change_summary": '=cmd|" /C calc"!A0,\nx'}
    hostile = schemas.AuditEntryOutput.model_validate(entries[0] | evil)
    (row,) = csv.DictReader(io.StringIO(audit_files.as_csv([hostile]).decode(), newline=""))
    assert '\'=cmd|" /C calc"!A0,\nx' == row["change_summary"]


async def test_refusals_are_recorded_at_a_bounded_rate(rest: RestClient) -> None:
    admin, alice, eve = [await rest.sign_in(name) for name in (ADMINISTRATOR, "alice", "eve")]
    model = await rest.create_model(alice)
    for _ in range(300):
        assert 403 == (await rest.call("GET", f"/threat_models/{model['id']}", eve)).status
    answer = await rest.call("GET", "/admin/audit/system?field_path=access.refused", admin)
    recorded = answer.json["total"]
    assert 100 <= recorded < 300
    refusals = rest.app.extensions["tmi"].refusals
    assert 300 - recorded == refusals.left_out
    refusals.tell_left_out()
    refusals.tell_left_out()
    await asyncio.sleep(0)
    (told,) = await audited(rest, admin, "?field_path=refusals.left_out")
    assert str(300 - recorded) == told["new_value_redacted"]


async def test_what_opens_sockets_and_sessions_is_in_the_audit_without_its_secrets(
    rest: RestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    admin, alice = await rest.sign_in(ADMINISTRATOR), await rest.sign_in("alice")
    model = await rest.create_model(alice)
    diagram = (await rest.create_diagram(alice, model["id"]))["id"]
    path = f"/threat_models/{model['id']}/diagrams/{diagram}/collaborate"
    session = (await rest.call("POST", path, alice)).json["session_id"]
    assert 200 == (await rest.call("POST", path, alice)).status
    ticket = (await rest.call("GET", f"/ws/ticket?session_id={session}", alice)).json["ticket"]
    token = await rest.call("POST", "/collab/tokens", alice, json_body={"diagram_id": diagram})
    assert 204 == (await rest.call("DELETE", path, alice)).status
    entries = await audited(rest, admin)
    wanted = ["collaboration.ended", "collab_token.issued", "ticket.issued", "collaboration.begun"]
    told = [entry for entry in entries if entry["field_path"] in wanted]
    assert wanted == [entry["field_path"] for entry in told]
    assert {("alice@tmi.local", f"diagram {diagram}")} == {
        (entry["actor"]["email"], entry["change_summary"]) for entry in told
    }
    lines = [vars(record) for record in caplog.records if record.name == "tmi.audit"]
    assert wanted[::-1] == [line["what"] for line in lines if line["what"] in wanted]
    for secret in (ticket, token.json["token"]):
        assert secret not in f"{entries}{lines}"


@pytest.mark.parametrize(
    "query",
    ["limit=1001", "offset=-1", "sort_by=id", "created_after=yesterday", "automation=maybe", "x=1"],
)
async def test_a_bad_list_of_accounts_is_400(rest: RestClient, query: str) -> None:
    admin = await rest.sign_in(ADMINISTRATOR)
    assert 400 == (await rest.call("GET", f"/admin/users?{query}", admin)).status


async def test_what_administrators_do_is_in_the_audit_and_in_the_log(
    rest: RestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    admin = await rest.sign_in(ADMINISTRATOR)
    for name in ("bob", "carol"):
        await rest.sign_in(name)
    bob, carol = await rest.user_id("bob"), await rest.user_id("carol")
    group = await new_group(rest, admin, "ops", "bob")
    members = f"/admin/groups/{group}/members"
    setting = "/admin/settings/user_diagrams_max"
    deeds: list[tuple[str, str, Json, str]] = [
        ("PATCH", f"/admin/users/{bob}", {"name": "Robert"}, "user.changed"),
        ("POST", f"/admin/users/{bob}/transfer", {"target_user_id": carol}, "ownership.transferred"),
        ("PATCH", f"/admin/groups/{group}", {"name": "Operators"}, "group.changed"),
        ("DELETE", f"{members}/{bob}", None, "group.member_removed"),
        ("DELETE", f"/admin/groups/{group}", None, "group.deleted"),
        ("PUT", f"/admin/quotas/users/{bob}", {"max_requests_per_minute": 5}, "quota.changed"),
        ("DELETE", f"/admin/quotas/users/{bob}", None, "quota.removed"),
        ("PUT", setting, {"value": "5", "type": "int"}, "setting.changed"),
        ("DELETE", setting, None, "setting.removed"),
        ("DELETE", f"/admin/users/{bob}", None, "user.deleted"),
    ]
    me = (await rest.call("GET", "/oauth2/userinfo", admin)).json["sub"]
    for method, path, body, what in deeds:
        assert (await rest.call(method, path, admin, json_body=body)).status < 300, path
        newest = (await audited(rest, admin, "?limit=1"))[0]
        assert (what, method, path) == (newest["field_path"], newest["http_method"], newest["http_path"])
        line = [vars(record) for record in caplog.records if record.name == "tmi.audit"][-1]
        assert (what, me) == (line["what"], line["actor"])
