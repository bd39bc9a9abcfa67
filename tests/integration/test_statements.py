"""Lists and reads take a constant number of SQL statements: as many for one of everything as for thirty.

Every `GET` of the application that needs a sign-in is tried, so new ones are without a line here.
"""

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from asyncpg.connection import Connection
from asyncpg.prepared_stmt import PreparedStatement

from persistence.postgres.database import PostgresDatabase
from tests.rest import ADMINISTRATOR, NODE, Json, RestClient, over_postgres, user_grant
from tests.security.test_role_matrix_entities import BODIES
from tests.security.test_role_matrix_rest import PUBLIC, WEBHOOK, WEBHOOK_QUOTA
from tmi.domain.kinds import KINDS

MANY = 30
MOST = 8
ENDLESS = "/threat_models/<threat_model_id>/events"

_asked: ContextVar[list[str] | None] = ContextVar("asked", default=None)
"""Of the request under way: what runs in the background has none."""


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Note every statement that is executed, by whatever way."""

    def noting(owner: Any, name: str, sql_of: Callable[..., str]) -> None:
        real: Callable[..., Awaitable[Any]] = getattr(owner, name)

        async def noted(self: Any, *arguments: Any, **named: Any) -> Any:
            asked = _asked.get()
            if asked is not None:
                asked.append(sql_of(self, *arguments))
            return await real(self, *arguments, **named)

        monkeypatch.setattr(owner, name, noted)

    noting(Connection, "_do_execute", lambda _self, sql, *_: sql)
    noting(Connection, "execute", lambda _self, sql, *_: sql)
    noting(PreparedStatement, "_PreparedStatement__do_execute", lambda self, *_: self.get_query())


class House:
    """A threat model, of everything in it as many as were asked for, and what administrators list."""

    def __init__(self, rest: RestClient, token: str) -> None:
        self.rest = rest
        self.token = token
        self.ids: dict[str, str] = {"node_id": str(NODE.id), "idp": "tmi", "key": "user_diagrams_max"}
        self.size = 0

    async def made(self, method: str, path: str, body: Json = ...) -> Json:
        answer = await self.rest.call(method, path, self.token, json_body=body)
        assert answer.status < 300, (path, answer.data)
        return answer.json if answer.data else None

    async def grow(self, size: int) -> None:
        """Make more of everything."""
        for n in range(self.size, size):
            await self._one_more(n)
        self.size = size

    async def _one_more(self, n: int) -> None:
        ids = self.ids
        user = await self.rest.user_id(f"u{n}")
        fresh = (await self.rest.create_model(self.token, user_grant(f"u{n}", "reader")))["id"]
        model = f"/threat_models/{ids.setdefault('threat_model_id', fresh)}"
        grant = {"op": "add", "path": "/authorization/-", "value": user_grant(f"v{n}", "writer")}
        assert 200 == (await self.rest.patch(self.token, ids["threat_model_id"], grant)).status
        diagram = (await self.rest.create_diagram(self.token, ids["threat_model_id"]))["id"]
        holders = [model, f"{model}/diagrams/{ids.setdefault('diagram_id', diagram)}"]
        for kind in KINDS:
            child = (await self.made("POST", f"{model}/{kind.plural}", BODIES[kind.name]))["id"]
            holders.append(f"{model}/{kind.plural}/{ids.setdefault(f'{kind.name}_id', child)}")
        for holder in holders:
            await self.made("POST", f"{holder}/metadata", {"key": f"k{n}", "value": "v"})
        await self.made("POST", f"{model}/diagrams/{diagram}/collaborate")
        named = {"group_name": f"g{n}", "name": "G"}
        group = ids.setdefault("group_id", (await self.made("POST", "/admin/groups", named))["internal_uuid"])
        await self.made("POST", f"/admin/groups/{group}/members", {"user_internal_uuid": user})
        if n < 15:  # a user has twenty at most
            await self.made("POST", "/me/client_credentials", {"name": f"c{n}"})
        if n < 8:
            hook = await self.made("POST", "/admin/webhooks/subscriptions", WEBHOOK)
            ids.setdefault("webhook_id", hook["id"])
        await self.made("PUT", f"/admin/quotas/users/{user}", {"max_requests_per_minute": 100})
        await self.made("PUT", f"/admin/quotas/webhooks/{user}", WEBHOOK_QUOTA)
        ids.setdefault("user_id", user)

    async def begin(self) -> None:
        """One of everything, and what there is but once."""
        setting = {"value": "0", "type": "int"}
        for key in ("user_requests_per_min", "address_requests_per_min", "sign_in_requests_per_min"):
            await self.made("PUT", f"/admin/settings/{key}", setting)
        for key in ("user_requests_per_hour", "user_diagrams_max"):
            await self.made("PUT", f"/admin/settings/{key}", setting)
        admin = await self.rest.user_id(ADMINISTRATOR)
        quota = {**WEBHOOK_QUOTA, "max_subscriptions": 50, "max_subscription_requests_per_minute": 100}
        await self.made("PUT", f"/admin/quotas/webhooks/{admin}", quota)
        await self.grow(1)
        member = {"user_internal_uuid": admin}
        await self.made("POST", f"/admin/groups/{self.ids['group_id']}/members", member)

    async def statements(self, path: str) -> tuple[int, list[str]]:
        """The status of a read, and what it asks of the database besides who asks: the least of two tries,
        since a sign-in may have to be looked up.
        """
        tries = []
        for _ in range(2):
            with asking() as asked:
                answer = await self.rest.call("GET", path, self.token)
            tries.append(asked)
        return answer.status, min(tries, key=len)


@contextmanager
def asking() -> Iterator[list[str]]:
    asked: list[str] = []
    token = _asked.set(asked)
    try:
        yield asked
    finally:
        _asked.reset(token)


@pytest.mark.usefixtures("counted")
async def test_every_read_takes_as_many_statements_for_thirty_as_for_one(database: PostgresDatabase) -> None:
    async with over_postgres(database) as rest:
        house = House(rest, await rest.sign_in(ADMINISTRATOR))
        await house.begin()
        document = (await rest.call("GET", "/openapi.json")).json
        ids = house.ids
        for name, path in (
            ("entry_id", "/admin/audit/system"),
            ("event_id", f"/threat_models/{ids['threat_model_id']}/audit_trail"),
        ):
            page = (await rest.call("GET", path, house.token)).json
            ids[name] = (page.get("entries") or page["audit_entries"])[0]["id"]

        paths = {}
        for rule in rest.app.url_map.iter_rules():
            if "GET" not in (rule.methods or ()) or f"GET {rule.rule}" in PUBLIC or rule.rule == ENDLESS:
                continue
            key = "k0" if "metadata" in rule.rule else ids["key"]
            entry = ids["entry_id" if "system" in rule.rule else "event_id"]
            known = {**ids, "key": key, "entry_id": entry}
            described = document["paths"][re.sub(r"<(\w+)>", r"{\1}", rule.rule)]["get"]
            pages = any(one["name"] == "limit" for one in described.get("parameters", ()))
            path = re.sub(r"<(\w+)>", lambda match: known.get(match[1], ids["user_id"]), rule.rule)  # noqa: B023
            paths[rule.rule] = path + ("?limit=100" if pages else "")

        few = {rule: await house.statements(path) for rule, path in paths.items()}
        await house.grow(MANY)
        many = {rule: await house.statements(path) for rule, path in paths.items()}

    found = [rule for rule, (status, _) in many.items() if status == 200]
    assert 0.9 * len(paths) < len(found), sorted(paths.keys() - {*found})
    assert {rule: (status, len(asked)) for rule, (status, asked) in few.items()} == {
        rule: (status, len(asked)) for rule, (status, asked) in many.items()
    }
    assert max(len(asked) for _, asked in many.values()) <= MOST
