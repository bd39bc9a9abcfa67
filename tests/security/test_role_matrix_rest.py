"""Every REST operation, tried by everyone who is nobody, reader, writer, owner or administrator.

The table is compared with the application's routes: an operation without a row fails the test.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest

from api.services import ApiOptions
from persistence.memory.outbox import MemoryOutbox
from persistence.memory.webhooks import MemoryWebhooks
from tests.contracts.test_accounts import entry
from tests.rest import ADMINISTRATOR, NODE, OPTIONS, RestClient, group_grant, over_memory, user_grant
from tests.security.test_role_matrix_entities import OPERATIONS
from tmi.domain.ids import DiagramId, UserId
from tmi.domain.sign_ins import NewCredential
from tmi.domain.webhooks import Outcome

PUBLIC = frozenset(
    {
        "GET /oauth2/authorize",
        "GET /oauth2/callback",
        "GET /oauth2/providers",
        "POST /oauth2/token",
        "POST /oauth2/refresh",
        "GET /session",
        "GET /session/callback",
        "GET /session/sign-in",
        "POST /session/sign-out",
        "POST /oauth2/revoke",
        "POST /oauth2/introspect",
        "GET /.well-known/openid-configuration",
        "GET /.well-known/oauth-authorization-server",
        "GET /.well-known/oauth-protected-resource",
        "GET /.well-known/jwks.json",
        "GET /",
        "GET /livez",
        "GET /readyz",
        "GET /openapi.json",
        "GET /docs",
        "GET /docs/page.js",
        "GET /docs/<name>",
        "GET /config",
    }
)
"""Operations that ask nobody to sign in, and those of the session cookie. To revoke and to introspect, who
asks is asked by the operation.
"""

NOBODY, READER, WRITER, OWNER = "nobody", "reader", "writer", "owner"
ROLES = (NOBODY, READER, WRITER, OWNER)
"""On the threat model; each may do what the one before may."""
CALLERS = (*ROLES, ADMINISTRATOR)
"""An administrator has no role on the threat model by that."""


@dataclass(frozen=True, slots=True)
class Row:
    """An operation, a good request of it, and the least role that it needs."""

    operation: str
    least: str
    status: int
    body: Any = None
    content_type: str = "application/json"
    about: str = ""
    query: str = ""
    refused: int = 403
    """What the contract answers to whom may not."""
    entry: str = "entry_id"
    """The id that the path's `entry_id` stands for."""
    headers: Mapping[str, str] | None = None
    exactly: bool = False
    """For this caller alone: a member of the group."""
    of_robot: bool = False
    """Of an automation account and its client credential."""

    @property
    def id(self) -> str:
        return f"{self.operation} {self.about}".strip()

    @property
    def allowed(self) -> str:
        """A caller who may do it."""
        if self.exactly:
            return self.least
        return ADMINISTRATOR if self.least == ADMINISTRATOR else OWNER

    def expected(self, caller: str) -> int:
        if self.exactly or self.least == ADMINISTRATOR:
            return self.status if caller == self.least else self.refused
        role = NOBODY if caller == ADMINISTRATOR else caller
        return self.status if ROLES.index(role) >= ROLES.index(self.least) else self.refused


MODEL = "/threat_models/<threat_model_id>"
ROOM = "/admin/rooms/<diagram_id>"
DIAGRAM = f"{MODEL}/diagrams/<diagram_id>"
COLLABORATE = f"{DIAGRAM}/collaborate"
SUBSCRIPTION = "/admin/webhooks/subscriptions/<webhook_id>"
WEBHOOK = {"name": "Ours", "url": "https://hooks.example.org/tmi", "events": ["threat_model.updated"]}
WEBHOOK_QUOTA = {
    "max_subscriptions": 5,
    "max_events_per_minute": 60,
    "max_subscription_requests_per_minute": 5,
    "max_subscription_requests_per_day": 50,
}
CREDENTIAL = "/me/client_credentials/<credential_id>"
PATCH = "application/json-patch+json"
UNKNOWN_CHILDREN = (("threats", "threat"), ("assets", "asset"), ("documents", "document"), ("notes", "note"),
                    ("repositories", "repository"))  # fmt: skip
"""Kinds of which the house has none."""


def patch_row(least: str, operation: dict[str, Any], about: str, status: int = 200) -> Row:
    return Row(f"PATCH {MODEL}", least, status, [operation], PATCH, about)


ROWS = (
    Row("GET /oauth2/userinfo", NOBODY, 200),
    Row("GET /oauth2/providers/<idp>/groups", NOBODY, 200),
    Row("GET /me", NOBODY, 200),
    Row("DELETE /me", NOBODY, 200),
    Row("GET /me/groups", NOBODY, 200),
    Row("GET /me/groups/<group_id>/members", READER, 200, refused=404, exactly=True),
    Row("GET /me/sessions", NOBODY, 200),
    Row("POST /me/logout", NOBODY, 204),
    Row("GET /me/sign_ins", NOBODY, 200),
    Row("DELETE /me/sign_ins", NOBODY, 204),
    Row("DELETE /me/sign_ins/<sign_in_id>", READER, 204, refused=404, exactly=True),
    Row("DELETE /admin/users/<user_id>/sign_ins", ADMINISTRATOR, 204),
    Row("GET /me/client_credentials", NOBODY, 200),
    Row("POST /me/client_credentials", ADMINISTRATOR, 201, {"name": "ci"}),
    Row(f"PATCH {CREDENTIAL}", READER, 200, {"is_active": False}, refused=404, exactly=True),
    Row(f"DELETE {CREDENTIAL}", READER, 204, refused=404, exactly=True),
    Row("GET /admin/users/<user_id>/client_credentials", ADMINISTRATOR, 200),
    Row(
        "POST /admin/users/<user_id>/client_credentials",
        ADMINISTRATOR,
        201,
        {"name": "ci"},
        of_robot=True,
    ),
    Row(
        "DELETE /admin/users/<user_id>/client_credentials/<credential_id>",
        ADMINISTRATOR,
        204,
        of_robot=True,
    ),
    Row("POST /admin/users/automation", ADMINISTRATOR, 201, {"name": "robot"}),
    Row("POST /me/transfer", NOBODY, 200, {"target_user_id": "<zed_id>"}),
    Row("GET /admin/users", ADMINISTRATOR, 200),
    Row("GET /admin/users/<user_id>", ADMINISTRATOR, 200),
    Row("PATCH /admin/users/<user_id>", ADMINISTRATOR, 200, {"name": "Dave"}),
    Row("DELETE /admin/users/<user_id>", ADMINISTRATOR, 204),
    Row("POST /admin/users/<user_id>/transfer", ADMINISTRATOR, 200, {"target_user_id": "<zed_id>"}),
    Row("GET /admin/groups", ADMINISTRATOR, 200),
    Row("POST /admin/groups", ADMINISTRATOR, 201, {"group_name": "new", "name": "New"}),
    Row("GET /admin/groups/<group_id>", ADMINISTRATOR, 200),
    Row("PATCH /admin/groups/<group_id>", ADMINISTRATOR, 200, {"name": "Ops"}),
    Row("DELETE /admin/groups/<group_id>", ADMINISTRATOR, 204),
    Row("GET /admin/groups/<group_id>/members", ADMINISTRATOR, 200),
    Row("POST /admin/groups/<group_id>/members", ADMINISTRATOR, 201, {"user_internal_uuid": "<zed_id>"}),
    Row("DELETE /admin/groups/<group_id>/members/<member_uuid>", ADMINISTRATOR, 204),
    Row("GET /admin/audit/system", ADMINISTRATOR, 200),
    Row("GET /admin/audit/system/<entry_id>", ADMINISTRATOR, 200),
    Row("GET /admin/audit/threat_models", ADMINISTRATOR, 200),
    Row("GET /admin/audit/threat_models/<entry_id>", ADMINISTRATOR, 200, entry="event_id"),
    Row("GET /me/preferences", NOBODY, 200),
    Row("POST /me/preferences", NOBODY, 201, {"ux": {"theme": "dark"}}),
    Row("PUT /me/preferences", NOBODY, 200, {"ux": {"theme": "dark"}}),
    Row("GET /admin/quotas/users", ADMINISTRATOR, 200),
    Row("GET /admin/quotas/users/<user_id>", ADMINISTRATOR, 200),
    Row("PUT /admin/quotas/users/<user_id>", ADMINISTRATOR, 200, {"max_requests_per_minute": 5}),
    Row("DELETE /admin/quotas/users/<user_id>", ADMINISTRATOR, 204),
    Row("GET /admin/quotas/webhooks", ADMINISTRATOR, 200),
    Row("GET /admin/quotas/webhooks/<user_id>", ADMINISTRATOR, 200),
    Row("PUT /admin/quotas/webhooks/<user_id>", ADMINISTRATOR, 200, WEBHOOK_QUOTA),
    Row("DELETE /admin/quotas/webhooks/<user_id>", ADMINISTRATOR, 204),
    Row("GET /admin/webhooks/subscriptions", ADMINISTRATOR, 200),
    Row("POST /admin/webhooks/subscriptions", ADMINISTRATOR, 201, WEBHOOK),
    Row(f"GET {SUBSCRIPTION}", ADMINISTRATOR, 200),
    Row(f"DELETE {SUBSCRIPTION}", ADMINISTRATOR, 204),
    Row(f"POST {SUBSCRIPTION}/test", ADMINISTRATOR, 202, {}),
    Row("GET /admin/webhooks/deliveries", ADMINISTRATOR, 200),
    Row("GET /admin/webhooks/deliveries/<delivery_id>", ADMINISTRATOR, 200),
    Row("GET /admin/settings", ADMINISTRATOR, 200),
    Row("GET /admin/settings/<key>", ADMINISTRATOR, 200),
    Row("PUT /admin/settings/<key>", ADMINISTRATOR, 200, {"value": "5", "type": "int"}),
    Row("DELETE /admin/settings/<key>", ADMINISTRATOR, 204),
    # Settings are not encrypted.
    Row("POST /admin/settings/reencrypt", ADMINISTRATOR, 409),
    Row("GET /threat_models", NOBODY, 200),
    Row("POST /threat_models", NOBODY, 201, {"name": "Mine"}),
    Row(f"GET {MODEL}", READER, 200),
    patch_row(WRITER, {"op": "replace", "path": "/name", "value": "New"}, "name"),
    patch_row(WRITER, {"op": "replace", "path": "/description", "value": "New"}, "description"),
    patch_row(WRITER, {"op": "test", "path": "/name", "value": "Shop"}, "test of the name"),
    patch_row(
        OWNER, {"op": "replace", "path": "/authorization", "value": [user_grant("owner", "owner")]}, "roles"
    ),
    patch_row(
        OWNER, {"op": "add", "path": "/authorization/-", "value": user_grant("eve", "owner")}, "one more"
    ),
    patch_row(
        OWNER, {"op": "replace", "path": "/authorization/1", "value": user_grant("eve", "owner")}, "a role"
    ),
    patch_row(OWNER, {"op": "remove", "path": "/authorization/1"}, "one less"),
    patch_row(OWNER, {"op": "test", "path": "/authorization", "value": []}, "test of roles", 409),
    Row(f"DELETE {MODEL}", OWNER, 204),
    Row(f"GET {MODEL}/diagrams", READER, 200),
    Row(f"POST {MODEL}/diagrams", WRITER, 201, {"name": "Flow", "type": "DFD-1.0.0"}),
    Row(f"GET {DIAGRAM}", READER, 200),
    Row(f"GET {DIAGRAM}/model", READER, 200),
    Row(f"PUT {DIAGRAM}", WRITER, 200, {"name": "Flow", "type": "DFD-1.0.0", "cells": []}),
    Row(f"PATCH {DIAGRAM}", WRITER, 200, [{"op": "test", "path": "/cells", "value": []}], PATCH),
    Row(f"DELETE {DIAGRAM}", WRITER, 204),
    Row(f"GET {MODEL}/audit_trail", READER, 200),
    Row(f"GET {MODEL}/audit_trail/<entry_id>", READER, 200, entry="event_id"),
    Row(f"POST {MODEL}/audit_trail/<entry_id>/rollback", WRITER, 200, entry="event_id"),
    Row(f"GET {DIAGRAM}/audit_trail", READER, 200),
    # Of who may, it is refused for another reason: an endless answer ends no test.
    Row(f"GET {MODEL}/events", READER, 400, headers={"Last-Event-ID": "x"}),
    *(Row(f"GET {MODEL}/{kind}/<{one}_id>/audit_trail", READER, 404) for kind, one in UNKNOWN_CHILDREN),
    Row("GET /admin/nodes", ADMINISTRATOR, 200),
    Row("POST /admin/nodes/<node_id>/drain", ADMINISTRATOR, 202),
    Row("GET /admin/rooms", ADMINISTRATOR, 200),
    Row(f"GET {ROOM}", ADMINISTRATOR, 200),
    # There is no other node.
    Row(f"POST {ROOM}/move", ADMINISTRATOR, 409, {}),
    Row(f"POST {COLLABORATE}", READER, 200),
    Row(f"GET {COLLABORATE}", READER, 200),
    Row(f"DELETE {COLLABORATE}", OWNER, 204),
    Row("GET /ws/ticket", READER, 200, query="?session_id=<session_id>", refused=404),
    Row("POST /collab/tokens", NOBODY, 200, {}, about="for all"),
    Row("POST /collab/tokens", READER, 200, {"diagram_id": "<diagram_id>"}, about="for one"),
)


AUDIT_ENTRY = entry()


@dataclass(frozen=True, slots=True)
class House:
    """A threat model with one member of each role and one diagram."""

    rest: RestClient
    tokens: Mapping[str, str]
    ids: Mapping[str, str]

    async def call(self, row: Row, token: str | None, ids: Mapping[str, str] | None = None) -> int:
        fill = self._filler(ids or self.ids)
        method, path = row.operation.replace("<entry_id>", f"<{row.entry}>").split(" ")
        if row.of_robot:
            path = path.replace("<user_id>", "<robot_id>").replace("<credential_id>", "<robots_id>")
        body = (
            {name: fill(value) if isinstance(value, str) else value for name, value in row.body.items()}
            if isinstance(row.body, dict)
            else row.body
        )
        answer = await self.rest.call(
            method,
            fill(path + row.query),
            token,
            json_body=... if body is None else body,
            content_type=row.content_type,
            headers=row.headers,
        )
        if answer.status >= 400:
            assert {"error", "error_description"} <= answer.json.keys()
        return answer.status

    @staticmethod
    def _filler(ids: Mapping[str, str]) -> Callable[[Any], Any]:
        def fill(text: Any) -> Any:
            if not isinstance(text, str):
                return text
            for name, value in ids.items():
                text = text.replace(f"<{name}>", value)
            return text

        return fill


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with a_house() as house:
        yield house


@asynccontextmanager
async def a_house(options: ApiOptions = OPTIONS) -> AsyncIterator[House]:
    """A house of its own."""
    async with over_memory(options) as rest:
        tokens = {name: await rest.sign_in(name) for name in CALLERS}
        model = await rest.create_model(
            tokens[OWNER],
            user_grant(READER, "reader"),
            user_grant(WRITER, "writer"),
            user_grant("zed", "reader"),
        )
        diagram = await rest.create_diagram(tokens[OWNER], model["id"])
        await rest.services.rooms.take(DiagramId(UUID(diagram["id"])), NODE.id)
        path = f"/threat_models/{model['id']}/diagrams/{diagram['id']}/collaborate"
        session = (await rest.call("POST", path, tokens[OWNER])).json["session_id"]
        admin = tokens[ADMINISTRATOR]
        group = (
            await rest.call("POST", "/admin/groups", admin, json_body={"group_name": "ops", "name": "Ops"})
        ).json["internal_uuid"]
        users = {name: await rest.user_id(name) for name in (READER, "dave", "zed")}
        member = {"user_internal_uuid": users[READER]}
        await rest.call("POST", f"/admin/groups/{group}/members", admin, json_body=member)
        noted = (await rest.call("GET", "/admin/audit/system", admin)).json["entries"][0]["id"]
        another = rest.services.tokens.verify_access(await rest.sign_in(READER)).sign_in
        robot = (
            await rest.call("POST", "/admin/users/automation", admin, json_body={"name": "robot"})
        ).json["internal_uuid"]
        path = f"/admin/users/{robot}/client_credentials"
        robots = (await rest.call("POST", path, admin, json_body={"name": "ci"})).json["id"]
        credential = await rest.services.client_credentials.create(
            UserId(UUID(users[READER])),
            NewCredential("tmi_cc_reader", "secret", "ci", None, None),
            None,
            AUDIT_ENTRY,
        )
        path = f"/threat_models/{model['id']}/audit_trail"
        event = (await rest.call("GET", path, tokens[OWNER])).json["audit_entries"][0]["id"]
        quota = {"max_requests_per_minute": 100}
        await rest.call("PUT", f"/admin/quotas/users/{users['dave']}", admin, json_body=quota)
        setting = {"value": "100", "type": "int"}
        await rest.call("PUT", "/admin/settings/user_diagrams_max", admin, json_body=setting)
        path = f"/admin/quotas/webhooks/{users['dave']}"
        await rest.call("PUT", path, admin, json_body=WEBHOOK_QUOTA)
        webhook = await active_webhook(rest, admin)
        path = f"/admin/webhooks/subscriptions/{webhook}/test"
        delivery = (await rest.call("POST", path, admin, json_body={})).json["delivery_id"]
        ids = {
            "webhook_id": webhook,
            "delivery_id": delivery,
            "threat_model_id": model["id"],
            "diagram_id": diagram["id"],
            "session_id": session,
            "group_id": group,
            "member_uuid": users[READER],
            "user_id": users["dave"],
            "zed_id": users["zed"],
            "entry_id": noted,
            "node_id": str(NODE.id),
            "sign_in_id": str(another),
            "robot_id": robot,
            "robots_id": robots,
            "credential_id": str(credential.id),
            "idp": "tmi",
            "event_id": event,
            **{f"{one}_id": str(uuid4()) for _, one in UNKNOWN_CHILDREN},
            "key": "user_diagrams_max",
        }
        yield House(rest, tokens, ids)


async def active_webhook(rest: RestClient, admin: str) -> str:
    """A subscription whose endpoint has answered."""
    made = await rest.call("POST", "/admin/webhooks/subscriptions", admin, json_body=WEBHOOK)
    assert isinstance(rest.services.webhooks, MemoryWebhooks)
    outbox = MemoryOutbox(rest.services.webhooks._store)
    (challenge,) = await outbox.take_challenges(1, 60)
    await outbox.settle_challenge(challenge, Outcome())
    return str(made.json["id"])


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
async def test_a_role_allows_what_the_table_says(house: House, row: Row, caller: str) -> None:
    assert row.expected(caller) == await house.call(row, house.tokens[caller])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
async def test_without_a_sign_in_nothing_of_the_table_is_allowed(house: House, row: Row) -> None:
    collab = house.rest.services.tokens.collab_token
    me = house.rest.services.tokens.verify_access(house.tokens[OWNER])
    for token in (None, "x", "a.b.c", collab(me.user, me.sign_in, None)):
        assert 401 == await house.call(row, token)


@pytest.mark.parametrize("row", [row for row in ROWS if "<" in row.operation], ids=lambda row: row.id)
async def test_what_is_missing_is_404_and_no_uuid_is_400_for_who_may(house: House, row: Row) -> None:
    missing = {name: str(uuid4()) for name in house.ids} | {"idp": "elsewhere", "key": "no_such_setting"}
    token = house.tokens[row.allowed]
    assert 404 == await house.call(row, token, missing)
    assert 400 == await house.call(row, token, dict.fromkeys(house.ids, "1"))


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_diagram_under_another_threat_model_is_404(house: House, method: str) -> None:
    other = await house.rest.create_model(house.tokens[OWNER])
    path = f"/threat_models/{other['id']}/diagrams/{house.ids['diagram_id']}"
    assert 404 == (await house.rest.call(method, path, house.tokens[OWNER])).status


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
async def test_the_group_everyone_gives_its_role_to_everybody(house: House, row: Row) -> None:
    grant = group_grant("everyone", "writer", provider="*")
    patched = await house.rest.patch(
        house.tokens[OWNER],
        house.ids["threat_model_id"],
        {"op": "add", "path": "/authorization/-", "value": grant},
    )
    assert 200 == patched.status
    assert row.expected(WRITER) == await house.call(row, house.tokens[NOBODY])


async def test_a_group_of_another_provider_called_everyone_is_not_everybody(house: House) -> None:
    grant = group_grant("everyone", "owner", provider="elsewhere")
    await house.rest.patch(
        house.tokens[OWNER],
        house.ids["threat_model_id"],
        {"op": "add", "path": "/authorization/-", "value": grant},
    )
    assert 403 == await house.call(Row(f"GET {MODEL}", READER, 200), house.tokens[NOBODY])


async def test_every_operation_has_a_row() -> None:
    async with over_memory() as rest:
        operations = {
            f"{method} {rule.rule}"
            for rule in rest.app.url_map.iter_rules()
            for method in (rule.methods or set()) - {"HEAD"}
        }
    assert operations == PUBLIC | {row.operation for row in ROWS} | OPERATIONS
