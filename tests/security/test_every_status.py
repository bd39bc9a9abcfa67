"""Every answer that the served OpenAPI document describes is given, and every one that is given is described.

All pairs of an operation and a status are tried: by the good requests of the tables of roles; by what is made
of those by one rule for each status (no token, an unknown id, a body that is too large); and by a few
requests of their own. What takes more than a request has a line in `ELSEWHERE`.
"""

import functools
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self, cast
from urllib.parse import urlencode
from uuid import uuid4

from api.services import ApiOptions
from persistence.memory.reads import MemoryReads
from tests.rest import ADMINISTRATOR, VERIFIER, Answer, RestClient, given, over_memory
from tests.security.test_browser_sessions import FOREIGN, HOST, HTTPS, SAME_ORIGIN, Browser
from tests.security.test_role_matrix_entities import BODIES, SETS
from tests.security.test_role_matrix_rest import NOBODY, OWNER, ROWS, WEBHOOK_QUOTA, House, a_house
from tmi.domain.kinds import KINDS

Json = Any
Pair = tuple[str, int]

SMALL = replace(HTTPS, max_body_bytes=20_000)
LARGE = b'{"name": "' + b"x" * 20_000 + b'"}'
AUTHORIZE = RestClient.authorize_path().removeprefix("/oauth2/authorize")
STRANGER = "who has no token"
NO_CLIENT = {"client_id": "tmi_cc_nobody", "client_secret": "wrong"}
PATCH = "application/json-patch+json"

SPENDS = re.compile(r"DELETE /(me|admin/users|threat_models)|POST /(me/logout|.*transfer)|POST .*/drain")

ELSEWHERE: tuple[tuple[str, int, str], ...] = (
    (r"GET /threat_models/\{threat_model_id\}/events", 200, "Without an end: test_event_stream.py."),
    (r"POST /admin/rooms/\{diagram_id\}/move", 200, "It takes another node: test_nodes.py."),
    (r"GET /oauth2/callback", 302, "It takes an identity provider: test_openid_provider.py."),
    (r"DELETE /admin/groups/\{group_id\}", 409, "Of the only owner of something: test_accounts.py."),
    (
        r"POST /threat_models/\{threat_model_id\}/audit_trail/\{entry_id\}/rollback",
        409,
        "While other nodes write ten times in between.",
    ),
    (
        r"GET /(|config|readyz|oauth2/providers|\.well-known/.*)|POST /admin/settings/reencrypt",
        503,
        "They ask nobody. The port answers so while the service starts: test_serve.py.",
    ),
    (
        r"POST /threat_models/\{threat_model_id\}/audit_trail/\{entry_id\}/rollback",
        413,
        "Where a storage is full, as of all that adds: test_quotas.py.",
    ),
    (r"(GET|POST) /admin/(nodes|rooms).*", 503, "They ask nodes, not the database: test_nodes.py."),
    (
        r"GET /oauth2/callback|(GET|POST) /session.*",
        503,
        "They take a browser's cookie first: test_browser_sessions.py.",
    ),
)
"""Operation, status, and why no request of this file brings it about."""


@dataclass(frozen=True, slots=True)
class Good:
    """A request that succeeds."""

    operation: str
    caller: str
    refused: str | None
    """Who may not."""
    body: Json = ...
    content_type: str = "application/json"
    query: str = ""
    headers: Mapping[str, str] | None = None
    ids: Mapping[str, str] = field(default_factory=dict)
    """What other names the ids of its path have."""
    spends: bool = False
    """It takes away what others need."""


@dataclass
class Seen:
    """What was answered, by operation."""

    pairs: set[Pair] = field(default_factory=set)

    def watch(self, rest: RestClient) -> None:
        """Note every answer that this client gets."""
        call, bound = rest.call, rest.app.url_map.bind("localhost")

        async def noted(method: str, path: str, *arguments: Any, **named: Any) -> Answer:
            answer = await call(method, path, *arguments, **named)
            route = path.partition("?")[0]
            # That a path does not take a method is an answer of all operations of the path.
            methods = bound.allowed_methods(route) if answer.status == 405 else [method]
            for taken in {*methods} - {"HEAD", "OPTIONS"}:
                if bound.test(route, taken):
                    rule = bound.match(route, taken, return_rule=True)[0].rule
                    self.pairs.add((f"{taken} {_shown(rule)}", answer.status))
            return answer

        rest.call = noted  # type: ignore[method-assign]


def _shown(rule: str) -> str:
    """A path as the document writes it."""
    return re.sub(r"<(\w+)>", r"{\1}", rule)


def good() -> list[Good]:
    """Of every operation in the tables of roles, in an order in which those of one kind follow each other."""
    rows = [
        Good(
            row.operation,
            row.allowed,
            None if row.least == NOBODY else NOBODY,
            ... if row.body is None else row.body,
            row.content_type,
            row.query,
            row.headers,
            {"entry_id": row.entry}
            | ({"user_id": "robot_id", "credential_id": "robots_id"} if row.of_robot else {}),
            bool(SPENDS.match(row.operation)),
        )
        for row in ROWS
    ]
    steps = [
        Good(
            step.operation,
            OWNER,
            NOBODY,
            step.body,
            step.content_type,
            step.query,
            ids={"key": "there"},
        )
        for steps in SETS.values()
        for step in steps
    ]
    return rows + steps + others()


def others() -> list[Good]:
    """What the tables leave out."""
    model = "/threat_models/<threat_model_id>"
    quota, hooks = {"max_requests_per_minute": 5}, WEBHOOK_QUOTA
    found = [
        Good("PUT /admin/quotas/users/<user_id>", ADMINISTRATOR, None, quota, ids={"user_id": "zed_id"}),
        Good("PUT /admin/quotas/webhooks/<user_id>", ADMINISTRATOR, None, hooks, ids={"user_id": "zed_id"}),
        Good(
            f"POST {model}/diagrams/<diagram_id>/collaborate",
            OWNER,
            NOBODY,
            ids={"diagram_id": "other_diagram_id"},
        ),
    ]
    for kind in KINDS:
        if kind.bulk_most and not kind.has_all_bulk:
            new = [{"id": "<new_id>", **BODIES[kind.name]}]
            found.append(Good(f"PUT {model}/{kind.plural}/bulk", OWNER, NOBODY, new))
    paths = ("/", "/config", "/livez", "/readyz", "/oauth2/providers", "/session")
    names = ("openid-configuration", "oauth-authorization-server", "oauth-protected-resource", "jwks.json")
    found += [Good(f"GET {path}", NOBODY, None) for path in (*paths, *(f"/.well-known/{n}" for n in names))]
    code = {"grant_type": "authorization_code", "code": "<code>", "code_verifier": VERIFIER}
    found += [
        Good("POST /oauth2/token", NOBODY, None, code),
        Good("POST /oauth2/refresh", NOBODY, None, {"refresh_token": "<refresh>"}),
        Good("POST /oauth2/introspect", OWNER, None, {"token": "<other>"}),
        Good("POST /oauth2/revoke", OWNER, None, {"token": "<other>"}),
        Good("GET /oauth2/authorize", NOBODY, None, query=AUTHORIZE),
        Good("GET /session/sign-in", NOBODY, None, query="?idp=tmi&login_hint=alice"),
        Good("GET /session/callback", NOBODY, None, query="?state=x&code=y"),
        Good("GET /oauth2/callback", NOBODY, None, query="?state=x&code=y"),
    ]
    return found


def refused() -> list[Good]:
    """What has rules of its own."""
    model, failing = "/threat_models/<threat_model_id>", [{"op": "test", "path": "/name", "value": "no"}]
    found = [
        Good("GET /admin/audit/system", ADMINISTRATOR, None, query="?around=<new_id>"),
        Good("GET /admin/audit/threat_models", ADMINISTRATOR, None, query="?around=<new_id>"),
        Good("POST /collab/tokens", OWNER, None, {"diagram_id": "<new_id>"}),
        Good("POST /me/transfer", OWNER, None, {"target_user_id": "<new_id>"}),
        Good("DELETE /admin/groups/<group_id>", ADMINISTRATOR, None, ids={"group_id": "built_in_id"}),
        Good("POST /oauth2/token", NOBODY, None, {"grant_type": "client_credentials", **NO_CLIENT}),
        Good("POST /oauth2/refresh", NOBODY, None, {"refresh_token": "unknown"}),
        Good("POST /admin/users/<user_id>/transfer", ADMINISTRATOR, None, {"target_user_id": "<new_id>"}),
        Good("POST /oauth2/introspect", STRANGER, None, {"token": "x", **NO_CLIENT}),
        Good("POST /oauth2/revoke", STRANGER, None, {"token": "x", **NO_CLIENT}),
    ]
    for kind in KINDS:
        path = f"{model}/{kind.plural}"
        found.append(Good(f"PATCH {path}/<{kind.name}_id>", OWNER, None, failing, PATCH))
        if kind.has_all_bulk:
            patches = {"patches": [{"id": f"<{kind.name}_id>", "operations": failing}]}
            found.append(Good(f"PATCH {path}/bulk", OWNER, None, patches))
        elif kind.bulk_most:
            other = "threat_id" if kind.name != "threat" else "note_id"
            found.append(Good(f"PUT {path}/bulk", OWNER, None, [{"id": f"<{other}>", **BODIES[kind.name]}]))
    return found


async def by_themselves(house: House) -> None:
    """What takes several requests, or something that is no request."""
    rest, ids = house.rest, house.ids
    cookie, session = {"Host": ids["host"], "Cookie": ids["cookie"]}, "/session/sign-out"
    await rest.call("GET", "/session", headers={**cookie, "Origin": FOREIGN})
    for more in ({"Origin": FOREIGN}, {"Accept": "image/png", **SAME_ORIGIN}):
        await rest.call("POST", session, headers={**cookie, **more})
    await rest.call("PROPFIND", session)
    await rest.call("POST", session, headers={"Host": "no host"})
    await rest.call("POST", session, headers={"Host": ids["host"], **SAME_ORIGIN})
    await rest.call("POST", session, headers={**cookie, **SAME_ORIGIN, "X-CSRF-Token": ids["csrf"]})
    zed = await rest.sign_in("zed")
    challenge = (await rest.call("DELETE", "/me", zed)).json["challenge_text"]
    await rest.call("DELETE", f"/me?{urlencode({'challenge': challenge})}", zed)
    trail = f"/threat_models/{ids['threat_model_id']}/audit_trail"
    page = (await rest.call("GET", f"{trail}?object_type=threat_model", house.tokens[OWNER])).json
    later = datetime.now(UTC) + timedelta(days=1)
    await rest.services.trail.purge(later - timedelta(days=9), later, 100)
    await rest.call("POST", f"{trail}/{page['audit_entries'][-1]['id']}/rollback", house.tokens[OWNER])


async def limited(seen: Seen, everything: Sequence[Good]) -> None:
    """Where a limit is one request a minute, nobody may ask; nor where a write has to say its version."""
    async with over_memory(given=given(address_requests_per_min=1)) as rest:
        seen.watch(rest)
        await rest.call("GET", "/me")
        for one in everything:
            method, path = one.operation.split(" ")
            await rest.call(method, re.sub(r"<\w+>", str(uuid4()), path))
    async with over_memory(given=given(user_threat_models_max=1, user_diagrams_max=1)) as rest:
        seen.watch(rest)
        admin = await rest.sign_in(ADMINISTRATOR)
        for name in ("a", "b"):
            await rest.call("POST", "/threat_models", admin, json_body={"name": name})
        setting = {"value": "5", "type": "int"}
        await rest.call("PUT", "/admin/settings/user_diagrams_max", admin, json_body=setting)
    async with furnished(seen, replace(SMALL, if_match_required=True)) as house:
        for one in everything:
            if one.operation.startswith(("PUT /threat_models/", "PATCH /threat_models/")):
                await send(house, one)


async def broken(seen: Seen, everything: Sequence[Good]) -> None:
    """What is told while the database is away, and of a bug of ours."""
    async with furnished(seen) as house:
        services = house.rest.services
        assert isinstance(services.reads, MemoryReads)
        services.reads._store.unavailable = True
        for one in everything:
            await send(house, one)
        services.reads._store.unavailable = False

        async def fails(*_: object, **__: object) -> None:
            raise RuntimeError("a bug")

        views = house.rest.app.view_functions
        for name, view in views.items():
            views[name] = cast(Any, functools.wraps(view)(fails))
        for one in everything:
            await send(house, one)


@asynccontextmanager
async def furnished(seen: Seen, options: ApiOptions = SMALL) -> AsyncIterator[House]:
    """A house with a child of each kind."""
    async with a_house(options) as house:
        seen.watch(house.rest)
        ids, owner = {**house.ids, "there": "there", "new_id": str(uuid4())}, house.tokens[OWNER]
        model = f"/threat_models/{ids['threat_model_id']}"
        ids["other_diagram_id"] = (await house.rest.create_diagram(owner, ids["threat_model_id"]))["id"]
        holders = [model, f"{model}/diagrams/{ids['diagram_id']}"]
        for kind in KINDS:
            made = await house.rest.call("POST", f"{model}/{kind.plural}", owner, json_body=BODIES[kind.name])
            ids[f"{kind.name}_id"] = made.json["id"]
            holders.append(f"{model}/{kind.plural}/{made.json['id']}")
        admin = house.tokens[ADMINISTRATOR]
        own = (await house.rest.call("POST", "/me/client_credentials", admin, json_body={"name": "p"})).json
        named = {name: own[name] for name in ("client_id", "client_secret")}
        program = (await house.rest.exchange(grant_type="client_credentials", **named)).json["access_token"]
        ids["built_in_id"] = next(
            group["internal_uuid"]
            for group in (await house.rest.call("GET", "/admin/groups", admin)).json["groups"]
            if group["is_builtin"]
        )
        ids["code"] = await house.rest.code(login_hint="zed")
        ids["refresh"], ids["other"] = [(await house.rest.tokens("zed"))["refresh_token"] for _ in range(2)]
        browser = Browser(house.rest, name="zed")
        await browser.sign_in()
        ids["cookie"], ids["csrf"] = browser.session.sent["Cookie"], await browser.csrf()
        ids["host"] = HOST["Host"]
        for holder in holders:
            entry = {"key": "there", "value": "v"}
            await house.rest.call("POST", f"{holder}/metadata", owner, json_body=entry)
        yield House(house.rest, {**house.tokens, "program": program}, ids)


async def send(
    house: House,
    one: Good,
    ids: Mapping[str, str] | None = None,
    **otherwise: Any,
) -> int:
    """A good request, or one that differs from it; its status."""
    known = house.ids if ids is None else ids
    named = {**known, **{name: known[other] for name, other in one.ids.items()}}

    def filled(value: Json) -> Json:
        if isinstance(value, str):
            return re.sub(r"<(\w+)>", lambda match: named[match[1]], value)
        if isinstance(value, dict):
            return {name: filled(item) for name, item in value.items()}
        return [filled(item) for item in value] if isinstance(value, list) else value

    method, path = one.operation.split(" ")
    token = house.tokens.get(one.caller)
    sent: dict[str, Any] = {
        "token": token,
        "json_body": filled(one.body),
        "content_type": one.content_type,
        "headers": one.headers,
    } | otherwise
    query = sent.pop("query", one.query)
    answer = await house.rest.call(method, filled(path + query), sent.pop("token"), **sent)
    return answer.status


class Street:
    """A house to try things in, and another one when it has suffered."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self._stack = AsyncExitStack()
        self._house: House | None = None
        self.houses = 0

    async def house(self) -> House:
        if self._house is None:
            self.houses += 1
            self._house = await self._stack.enter_async_context(furnished(self._seen))
        return self._house

    async def move(self) -> None:
        self._house = None
        await self._stack.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.move()


def documented(document: Json) -> set[Pair]:
    """Every pair that a document describes."""
    return {
        (f"{method.upper()} {path}", int(status))
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        for status in operation["responses"]
    }


def taking(document: Json, place: str, name: str = "") -> set[str]:
    """The operations with a parameter in a place."""
    return {
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        for parameter in operation.get("parameters", ())
        if parameter["in"] == place and name in ("", parameter["name"])
    }


class Rules:
    """What is made of a good request by one rule for each status."""

    def __init__(self, document: Json) -> None:
        self._pairs = documented(document)
        self._public = {
            f"{method.upper()} {path}"
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
            if operation.get("security") == []
        }
        self._with_query = taking(document, "query")
        self._with_version = taking(document, "header", "If-Match")

    async def refuse(self, house: House, one: Good) -> None:
        """None of these may succeed."""
        name = _shown(one.operation)
        sent = [await send(house, one, headers={"Host": "no host"})]
        if name not in self._public:
            sent.append(await send(house, one, token="x"))
            foreign = {"Cookie": house.ids["cookie"], "Host": house.ids["host"], "Origin": FOREIGN}
            sent.append(await send(house, one, token=None, headers=foreign))
        if one.refused is not None:
            sent.append(await send(house, one, token=house.tokens[one.refused]))
        if "<" in one.operation:
            missing = dict.fromkeys(house.ids, str(uuid4()))
            sent.append(await send(house, one, missing | {"idp": "elsewhere", "key": "no", "there": "no"}))
            sent.append(await send(house, one, dict.fromkeys(house.ids, "1")))
        if name in self._with_query and "/oauth2/" not in name:  # which ignores what it does not know
            sent.append(await send(house, one, query="?there_is_none=1"))
        if name in self._with_version:
            sent.append(await send(house, one, headers={"If-Match": '"99"'}))
        if (name, 406) in self._pairs:
            sent.append(await send(house, one, headers={**(one.headers or {}), "Accept": "image/png"}))
        if (name, 415) in self._pairs and one.body is not ...:
            sent.append(await send(house, one, json_body=[[]]))
            sent.append(await send(house, one, data=b"{}", json_body=..., content_type="text/plain"))
            sent.append(await send(house, one, data=LARGE, json_body=...))
        path = one.operation.partition(" ")[2]
        sent.append(await send(house, replace(one, operation=f"PROPFIND {path}")))
        assert min(sent) >= 400, (one.operation, sent)


def is_of(line: tuple[str, int, str], pair: Pair) -> bool:
    """Whether an exception is for a pair."""
    return line[1] == pair[1] and re.fullmatch(line[0], pair[0]) is not None


async def test_every_status_that_is_documented_is_answered_and_every_answer_is_documented() -> None:
    seen = Seen()
    async with over_memory() as rest:
        document = (await rest.call("GET", "/openapi.json")).json
    rules, everything = Rules(document), good()
    async with Street(seen) as street:
        for one in everything:
            await rules.refuse(await street.house(), one)
            if await send(await street.house(), one) >= 400:
                # Something before it has taken what it needs.
                await street.move()
                await send(await street.house(), one)
            await send(await street.house(), one)
            if one.spends:
                await street.move()
        for one in refused():
            assert await send(await street.house(), one) >= 400, one
        await street.move()
        await by_themselves(await street.house())
    everything.append(Good("POST /session/sign-out", NOBODY, None))
    await limited(seen, everything)
    await broken(seen, everything)
    pairs = documented(document)
    assert 2000 < len(pairs)
    assert set() == seen.pairs - pairs, "answered, and not documented"
    lacking = pairs - seen.pairs
    excuses = {pair: {line for line in ELSEWHERE if is_of(line, pair)} for pair in lacking}
    unexplained = sorted(pair for pair, lines in excuses.items() if not lines)
    assert [] == unexplained, f"documented, and never answered: {unexplained}"
    assert {*ELSEWHERE} == set().union(*excuses.values()), "no exception is without use"
