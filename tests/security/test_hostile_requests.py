"""What an attacker with an account tries over REST. Each test is a way in that has to stay shut."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

import pytest

from persistence.postgres.database import PostgresDatabase
from tests.rest import ADMINISTRATOR, Answer, RestClient, over_memory, over_postgres, user_grant

SERVERS_OWN = {
    "id": str(uuid4()),
    "alias": 7,
    "version": 7,
    "created_at": "2020-01-01T00:00:00Z",
    "modified_at": "2020-01-01T00:00:00Z",
    "deleted_at": "2020-01-01T00:00:00Z",
    "owner": {"provider": "tmi", "provider_id": "eve@tmi.local"},
    "created_by": "eve",
    "charged_to": str(uuid4()),
    "threat_model_id": str(uuid4()),
    "role": "owner",
    "is_admin": True,
    "__proto__": {"is_admin": True},
    "grants": [],
}
PATCH = "application/json-patch+json"


@dataclass(frozen=True, slots=True)
class Target:
    """A threat model of alice with a diagram; eve has one of her own, and bob writes in that of alice."""

    rest: RestClient
    tokens: dict[str, str]
    model: str
    diagram: str
    eves: str

    async def call(self, who: str, method: str, path: str, body: Any = ..., **more: Any) -> Answer:
        return await self.rest.call(method, path, self.tokens.get(who), json_body=body, **more)


async def furnished(rest: RestClient) -> Target:
    tokens = {name: await rest.sign_in(name) for name in ("alice", "bob", "eve", ADMINISTRATOR)}
    model = await rest.create_model(tokens["alice"], user_grant("bob", "writer"))
    diagram = await rest.create_diagram(tokens["alice"], model["id"])
    eves = await rest.create_model(tokens["eve"])
    return Target(rest, tokens, model["id"], diagram["id"], eves["id"])


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    async with over_memory() as rest:
        yield await furnished(rest)


@pytest.mark.parametrize("field", SERVERS_OWN)
async def test_fields_of_the_server_cannot_be_set(target: Target, field: str) -> None:
    own = {field: SERVERS_OWN[field]}
    tries = [
        ("alice", "POST", "/threat_models", {"name": "Shop"}),
        ("alice", "POST", f"/threat_models/{target.model}/diagrams", {"name": "Flow", "type": "DFD-1.0.0"}),
        (ADMINISTRATOR, "POST", "/admin/groups", {"group_name": "ops", "name": "Ops"}),
        (ADMINISTRATOR, "PATCH", f"/admin/users/{await target.rest.user_id('eve')}", {}),
    ]
    for who, method, path, body in tries:
        assert 400 == (await target.call(who, method, path, body | own)).status, path


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "/id", "/alias", "/version", "/owner", "/owner/provider_id", "/created_by", "/created_at",
        "/is_confidential", "/Name", "/name/", "//name", "/name/0", "name", "/~0name", "/~1name", "/~2name",
        "/n\u0430me", "/name\u0000", "/__proto__", "/__class__", "/diagrams", "/diagrams/0/name",
        "/authorization/01", "/authorization/-1", "/authorization/1e0", "/authorization/0/role",
        "/authorization/99", "/authorization/\u0661", "/authorization/--", "/authorization/0/",
        "/Authorization/-",
    ],
)  # fmt: skip
@pytest.mark.parametrize("op", ["add", "replace", "remove"])
async def test_a_patch_reaches_nothing_but_what_the_list_allows(target: Target, op: str, path: str) -> None:
    shown = f"/threat_models/{target.model}"
    before = (await target.call("alice", "GET", shown)).json
    operation = {"op": op, "path": path} | ({} if op == "remove" else {"value": user_grant("eve", "owner")})
    for who in ("alice", "bob"):
        answer = await target.call(who, "PATCH", shown, [operation], content_type=PATCH)
        assert answer.status in (400, 403, 409, 422), answer.data
    assert before == (await target.call("alice", "GET", shown)).json


@pytest.mark.parametrize("op", ["move", "copy"])
@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("/authorization/1", "/authorization/0"),
        ("/authorization/0", "/authorization/-"),
        ("/name", "/authorization/-"),
        ("/authorization", "/description"),
        ("/id", "/name"),
        ("/owner", "/name"),
    ],
)
async def test_a_writer_moves_nothing_into_or_out_of_the_authorization(
    target: Target, op: str, source: str, path: str
) -> None:
    shown = f"/threat_models/{target.model}"
    before = (await target.call("alice", "GET", shown)).json
    operation = {"op": op, "from": source, "path": path}
    answer = await target.call("bob", "PATCH", shown, [operation], content_type=PATCH)
    assert answer.status in (400, 403, 409, 422), answer.data
    assert before == (await target.call("alice", "GET", shown)).json


async def test_a_harmless_operation_does_not_take_a_forbidden_one_along(target: Target) -> None:
    shown = f"/threat_models/{target.model}"
    before = (await target.call("alice", "GET", shown)).json
    rename = {"op": "replace", "path": "/name", "value": "Mine"}
    give = {"op": "add", "path": "/authorization/-", "value": user_grant("eve", "owner")}
    for operations in ([rename, give], [give, rename], [rename] * 999 + [give]):
        assert 403 == (await target.call("bob", "PATCH", shown, operations, content_type=PATCH)).status
    assert before == (await target.call("alice", "GET", shown)).json


async def test_ids_of_others_open_nothing_under_ones_own_threat_model(target: Target) -> None:
    foreign = f"/threat_models/{target.eves}/diagrams/{target.diagram}"
    tries = [("GET", foreign), ("DELETE", foreign)]
    tries += [(method, f"{foreign}/collaborate") for method in ("GET", "POST", "DELETE")]
    for method, path in tries:
        assert 404 == (await target.call("eve", method, path)).status, path
    assert 403 == (await target.call("eve", "POST", "/collab/tokens", {"diagram_id": target.diagram})).status
    own = f"/threat_models/{target.model}/diagrams/{target.diagram}"
    assert 200 == (await target.call("alice", "GET", own)).status


@pytest.mark.parametrize(
    "path",
    [
        "//admin/users", "/admin//users", "/admin/users/", "/./admin/users", "/x/../admin/users",
        "/%2e%2e/admin/users", "/admin%2fusers", "/ADMIN/users", "/admin/users%00", "/admin/users;x=1",
        "/admin/users%20", "/admin/users%0a", "/admin\\users", "/%61dmin/users", "/admin/users?x=1",
        "/docs/..%2fadmin%2fusers", "/docs/%2e%2e/admin/users", "/docs/../../../../etc/passwd",
        "/docs/..%2f..%2f..%2f..%2fetc%2fpasswd", "/docs/%252e%252e%252fetc%252fpasswd",
        "/livez/../admin/users",
    ],
)  # fmt: skip
async def test_no_spelling_of_a_path_leads_past_the_checks(target: Target, path: str) -> None:
    for who in ("nobody", "eve"):
        answer = await target.call(who, "GET", path)
        assert answer.status in (400, 401, 403, 404), (who, answer.status)
        assert b"alice@" not in answer.data
        assert b"root:" not in answer.data


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method"])
async def test_no_header_turns_a_read_into_a_deletion(target: Target, name: str) -> None:
    shown = f"/threat_models/{target.model}"
    assert 200 == (await target.call("alice", "GET", shown, headers={name: "DELETE"})).status
    assert 200 == (await target.call("alice", "GET", shown)).status


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Original-URL": "/admin/users"},
        {"X-Rewrite-URL": "/admin/users"},
        {"X-Forwarded-User": "admin"},
        {"X-Forwarded-Prefix": "/admin"},
        {"Forwarded": "for=127.0.0.1"},
        {"X-Forwarded-For": "127.0.0.1"},
    ],
    ids=str,
)
async def test_no_header_makes_somebody_else_of_the_caller(target: Target, headers: dict[str, str]) -> None:
    assert 403 == (await target.call("eve", "GET", "/admin/users", headers=headers)).status
    assert 401 == (await target.call("nobody", "GET", "/admin/users", headers=headers)).status
    root = [await target.call("eve", "GET", "/", headers=more) for more in ({}, headers)]
    assert root[0].status == root[1].status
    assert b"alice@" not in root[1].data


@pytest.mark.parametrize(
    "evil", ["x\r\nSet-Cookie: a=b", "x\nLocation: https://evil.example", "x\u0000y", "\u2028"]
)
async def test_no_parameter_becomes_a_header(target: Target, evil: str) -> None:
    for parameter in ("state", "login_hint", "client_callback", "scope"):
        answer = await target.rest.authorize(**{parameter: evil})
        assert "Set-Cookie" not in answer.headers
        location = answer.headers.get("Location", "")
        assert not any(character in location for character in "\r\n\u0000\u2028")
        assert not location.startswith("https://evil")


@pytest.mark.parametrize("depth", [100, 2_000, 200_000])
async def test_nesting_without_end_is_refused(target: Target, depth: int) -> None:
    arrays, objects = b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth
    tries = [
        ("POST", "/threat_models", b'{"name":"x","authorization":%s}', "application/json"),
        (
            "PATCH",
            f"/threat_models/{target.model}",
            b'[{"op":"add","path":"/description","value":%s}]',
            PATCH,
        ),
        ("POST", "/oauth2/token", b'{"grant_type":%s}', "application/json"),
        ("PUT", "/me/preferences", b'{"ux":%s}', "application/json"),
    ]
    for nested in (arrays, objects):
        for method, path, body, kind in tries:
            answer = await target.rest.call(
                method, path, target.tokens["alice"], data=body % nested, content_type=kind
            )
            taken = (200, 400) if depth == 100 else (400, 413)
            assert answer.status in taken, (path, answer.data)


@pytest.mark.parametrize(
    "body",
    [
        b'{"name":"a","name":"b"}',
        b'{"name":"\\ud800"}',
        b'{"name":"\xff"}',
        b'\xef\xbb\xbf{"name":"a"}',
        '{"name":"a"}'.encode("utf-16"),
        '{"name":"a"}'.encode("utf-32"),
        b'{"name":"a","description":NaN}',
        b'{"name":"a",}',
        b'{"name":"a"}{"name":"b"}',
        b'{"name":"a"} x',
        b"{'name':'a'}",
        b'{"name":["a"]}',
        b'{"name":{"a":1}}',
        b'{"name":1e400}',
        b'{"name":' + b"9" * 5_000 + b"}",
        b"",
        b"null",
    ],
    ids=range(17),
)
async def test_a_body_that_two_parsers_could_read_differently_is_refused(target: Target, body: bytes) -> None:
    for kind in ("application/json", "application/json; charset=utf-16", "application/json; charset=x"):
        answer = await target.rest.call(
            "POST", "/threat_models", target.tokens["alice"], data=body, content_type=kind
        )
        assert answer.status == 400, answer.data


async def test_quotes_and_wildcards_of_sql_are_text(database: PostgresDatabase) -> None:
    async with over_postgres(database) as rest:
        target = await furnished(rest)
        name = "'); DROP TABLE users; -- % _ \\ $1 \" \u02bc"
        model = await rest.create_model(target.tokens["eve"], name=name)
        assert name == (await target.call("eve", "GET", f"/threat_models/{model['id']}")).json["name"]
        for wanted in ("%", "_", "'", "\\", "' OR '1'='1", "$1", "alice%"):
            query = urlencode({"email": wanted})
            listed = (await target.call(ADMINISTRATOR, "GET", f"/admin/users?{query}")).json
            assert 0 == listed["total"], wanted
            path = f"/admin/audit/system?{urlencode({'path_prefix': wanted, 'field_path': wanted})}"
            assert 0 == (await target.call(ADMINISTRATOR, "GET", path)).json["total"]


async def test_nobody_uses_up_the_quota_of_somebody_by_giving_them_threat_models(target: Target) -> None:
    victim = await target.rest.user_id("alice")
    quota = f"/admin/quotas/users/{victim}"
    body = {"max_requests_per_minute": 1000, "max_threat_models": 2}
    await target.call(ADMINISTRATOR, "PUT", quota, body)
    for _ in range(5):
        await target.call("eve", "POST", "/threat_models", {"name": "Junk"})
    given = await target.call("eve", "POST", "/me/transfer", {"target_user_id": victim})
    assert 200 == given.status
    assert 1 == (await target.call(ADMINISTRATOR, "GET", quota)).json["usage"]["threat_models"]
    assert 201 == (await target.call("alice", "POST", "/threat_models", {"name": "Shop"})).status


async def test_secrets_are_stored_as_hashes_only(database: PostgresDatabase) -> None:
    async with over_postgres(database) as rest:
        target = await furnished(rest)
        code = await rest.code()
        tokens = await rest.tokens("alice")
        session = await target.call(
            "alice", "POST", f"/threat_models/{target.model}/diagrams/{target.diagram}/collaborate"
        )
        ticket = await target.call("alice", "GET", f"/ws/ticket?session_id={session.json['session_id']}")
        challenge = (await target.call("alice", "DELETE", "/me")).json["challenge_text"]
        secrets = [code, tokens["access_token"], tokens["refresh_token"], ticket.json["ticket"], challenge]
        names = await database.read("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        tables = [row["tablename"] for row in names]
        assert {"refresh_tokens", "authorization_codes", "tickets", "deletion_challenges"} <= {*tables}
        for table in tables:
            rows = await database.read(f'SELECT t::text AS row FROM "{table}" t')
            for row in rows:
                for secret in secrets:
                    assert secret not in row["row"], table
                    assert secret.encode().hex() not in row["row"], table


@pytest.mark.parametrize(
    ("path", "parameter", "values"),
    [
        ("/threat_models", "limit", ["0.0", "1_0", "1e1", " 1", "+1", "\u0661", "0x1", "9" * 5_000, ""]),
        ("/admin/groups", "offset", ["0.0", "-1", "1,2"]),
        ("/admin/groups", "built_in", ["on", "1", "yes", "True", "f", ""]),
        ("/admin/users", "created_after", ["0.5", "1", "2026-01-31", "now", "2026-01-31T12:00:00"]),
    ],
)
async def test_a_parameter_that_is_nearly_valid_is_refused(
    target: Target, path: str, parameter: str, values: list[str]
) -> None:
    for value in values:
        answer = await target.call(ADMINISTRATOR, "GET", f"{path}?{urlencode({parameter: value})}")
        assert 400 == answer.status, value
    both = await target.call(ADMINISTRATOR, "GET", f"{path}?{parameter}=1&{parameter}=1")
    assert 400 == both.status


async def test_an_answer_never_repeats_what_was_wrong_in_full(target: Target) -> None:
    script = "<script>alert(1)</script>" * 100
    for before in ("/threat_models?limit=", "/", "/threat_models/"):
        path = before + quote(script)
        answer = await target.call("eve", "GET", path)
        assert answer.status in (400, 404)
        assert b"<script>" not in answer.data
        assert "application/json" == answer.headers["Content-Type"]
        assert len(json.dumps(answer.json)) < 2_000
