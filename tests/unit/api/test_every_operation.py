"""Rules of HTTP, tried on every operation of the application: new ones are tried without a line here."""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from werkzeug.routing import Rule

from api.documented import OPERATION
from api.headers import VERSION
from tests.rest import ADMINISTRATOR, NODE, Answer, RestClient, over_memory
from tests.security.test_role_matrix_entities import BODIES
from tests.unit.api.test_edge import sent
from tmi.domain.kinds import KINDS

Json = Any
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})

ENDLESS = "/threat_models/<threat_model_id>/events"
"""Its answer has no end (tests/unit/api/test_event_stream.py)."""
NEW_EACH_TIME = frozenset({"/ws/ticket", "/admin/nodes", "/oauth2/authorize", "/", "/session/sign-in"})
"""Their bodies hold the time, or a secret of which there is never another, and may differ in length."""


@dataclass(frozen=True, slots=True)
class World:
    """Something behind every path, owned by an administrator."""

    rest: RestClient
    token: str
    ids: Mapping[str, str]

    def path(self, rule: str) -> str:
        """A path of a rule that finds something."""
        return re.sub(r"<(\w+)>", lambda match: self.ids[match[1]], rule)

    def rules(self, method: str) -> list[Rule]:
        """Those that take a method."""
        return [rule for rule in self.rest.app.url_map.iter_rules() if method in (rule.methods or ())]

    def said(self, rule: Rule) -> Mapping[str, Json]:
        """What its handler says of media types."""
        found: Mapping[str, Json] = getattr(self.rest.app.view_functions[rule.endpoint], OPERATION, {})
        return found


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with over_memory() as rest:
        token = await rest.sign_in(ADMINISTRATOR)

        async def made(path: str, body: Json = ...) -> Json:
            answer = await rest.call("POST", path, token, json_body=body)
            assert answer.status in (200, 201), (path, answer.data)
            return answer.json

        metadata = [{"key": "k", "value": "v"}]
        ids = {"threat_model_id": (await rest.create_model(token, metadata=metadata))["id"], "key": "k"}
        model = f"/threat_models/{ids['threat_model_id']}"
        ids["diagram_id"] = (await rest.create_diagram(token, ids["threat_model_id"]))["id"]
        for kind in KINDS:
            ids[f"{kind.name}_id"] = (await made(f"{model}/{kind.plural}", BODIES[kind.name]))["id"]
        plurals = {"diagram": "diagrams"} | {kind.name: kind.plural for kind in KINDS}
        for name, plural in plurals.items():
            await made(f"{model}/{plural}/{ids[f'{name}_id']}/metadata", metadata[0])
        trail = (await rest.call("GET", f"{model}/audit_trail", token)).json
        ids["entry_id"] = trail["audit_entries"][0]["id"]
        ids["group_id"] = (await made("/admin/groups", {"group_name": "ops", "name": "Ops"}))["internal_uuid"]
        ids["user_id"] = ids["member_uuid"] = await rest.user_id(ADMINISTRATOR)
        ids["node_id"], ids["idp"], ids["name"] = str(NODE.id), "tmi", "page.js"
        ids["credential_id"] = (await made("/me/client_credentials", {"name": "ci"}))["id"]
        ids["sign_in_id"] = (await rest.call("GET", "/me/sign_ins", token)).json["sign_ins"][0]["id"]
        # Other ids are none that there is: an error has to follow the rules as well.
        rules = [rule.rule for rule in rest.app.url_map.iter_rules()]
        missing = {name for rule in rules for name in re.findall(r"<(\w+)>", rule)} - ids.keys()
        yield World(rest, token, ids | dict.fromkeys(missing, "00000000-0000-4000-8000-000000000000"))


def shape(headers: Mapping[bytes, bytes], *, with_length: bool) -> dict[bytes, bytes]:
    changing = {b"x-ratelimit-remaining", b"x-ratelimit-reset", b"location", b"set-cookie"}
    changing |= set() if with_length else {b"content-length"}
    return {name.lower(): b"" if name.lower() in changing else value for name, value in headers.items()}


async def test_head_mirrors_get_everywhere(world: World) -> None:
    found = 0
    for rule in world.rules("GET"):
        if rule.rule == ENDLESS:
            continue
        path = world.path(rule.rule)
        status, headers, _ = await sent(world.rest, "GET", path, world.token)
        as_head, head_headers, body = await sent(world.rest, "HEAD", path, world.token)
        assert (status, b"") == (as_head, body), path
        with_length = rule.rule not in NEW_EACH_TIME
        assert shape(headers, with_length=with_length) == shape(head_headers, with_length=with_length), path
        found += status == 200
    assert 60 < found, "most are to find something"


async def test_accept_is_enforced_everywhere(world: World) -> None:
    for method in METHODS:
        for rule in world.rules(method):
            produces = world.said(rule).get("produces", ())
            if not produces or rule.rule == ENDLESS:
                continue
            path, accept = world.path(rule.rule), {"Accept": "image/png"}
            answer = await world.rest.call(method, path, world.token, headers=accept)
            assert (406, "not_acceptable") == (answer.status, answer.json["error"]), (method, path)
            assert "application/json" == answer.headers["Content-Type"]
            if method == "GET":
                for media_type in produces:
                    answer = await world.rest.call(method, path, world.token, headers={"Accept": media_type})
                    assert 406 != answer.status, path
                    told = answer.headers["Content-Type"].partition(";")[0]
                    assert answer.status >= 300 or media_type == told, path


async def test_content_type_is_enforced_everywhere(world: World) -> None:
    found = 0
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        for rule in world.rules(method):
            if not world.said(rule).get("takes", ()):
                continue
            path = world.path(rule.rule)
            for content_type in ("text/plain", "application/xml", "application/jsonp", None):
                length = {"Content-Length": "2"}  # as every client says, but the one of the tests
                answer = await world.rest.call(
                    method, path, world.token, data=b"{}", content_type=content_type, headers=length
                )
                assert 415 == answer.status, (method, path)
                assert "unsupported_media_type" == answer.json["error"]
            found += 1
    assert 60 < found


def check_common(answer: Answer, where: object) -> None:
    assert VERSION == answer.headers["X-API-Version"], where
    assert re.fullmatch("[0-9a-f]{16}", answer.headers["X-Request-ID"]), where
    assert answer.headers["Cache-Control"], where
    if answer.status >= 400:
        assert {"error", "error_description"} <= answer.json.keys(), where


async def test_every_answer_says_the_version_and_a_prefix_of_it_changes_nothing(world: World) -> None:
    for method in METHODS:
        for rule in world.rules(method):
            if rule.rule == ENDLESS:
                continue
            path = world.path(rule.rule)
            plain = await world.rest.call(method, path)
            prefixed = await world.rest.call(method, f"/v1{path}")
            check_common(plain, (method, path))
            check_common(prefixed, (method, path))
            assert plain.status == prefixed.status, (method, path)
            if method == "GET":
                with_token = await world.rest.call(method, path, world.token)
                check_common(with_token, path)
                again = await world.rest.call(method, f"/v1{path}", world.token)
                assert with_token.status == again.status, path


async def test_another_method_is_405_with_those_that_are_taken(world: World) -> None:
    adapter = world.rest.app.url_map.bind("localhost")
    for path in {world.path(rule.rule) for rule in world.rest.app.url_map.iter_rules()}:
        taken = set(adapter.allowed_methods(path))
        for method in (METHODS | {"OPTIONS", "TRACE", "PROPFIND"}) - taken:
            answer = await world.rest.call(method, path, world.token)
            check_common(answer, (method, path))
            assert (405, "method_not_allowed") == (answer.status, answer.json["error"]), (method, path)
            assert taken == set(answer.headers["Allow"].split(", ")), (method, path)


async def test_an_unknown_path_is_404_with_any_method(world: World) -> None:
    for path in ("/nothing", "/threat_models/x/y/z", "/v1/nothing", "/me/", "/%ff", "/threat_models//"):
        for method in METHODS:
            answer = await world.rest.call(method, path, world.token)
            check_common(answer, (method, path))
            assert (404, "not_found") == (answer.status, answer.json["error"]), (method, path)
