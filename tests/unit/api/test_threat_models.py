"""Threat models and diagrams over REST."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from api.services import ApiOptions
from persistence.memory.store import MemoryStore
from tests.rest import RestClient, group_grant, over_memory, user_grant


@pytest.fixture
async def rest() -> AsyncIterator[RestClient]:
    async with over_memory() as client:
        yield client


@pytest.fixture
async def alice(rest: RestClient) -> str:
    return await rest.sign_in("alice")


def replace(path: str, value: Any) -> dict[str, Any]:
    return {"op": "replace", "path": path, "value": value}


# --- creating and reading -----------------------------------------------------------------------


async def test_a_new_threat_model_has_its_creator_as_owner(rest: RestClient, alice: str) -> None:
    body = {
        "name": "Shop",
        "description": "Line one\nline two",
        "threat_model_framework": "LINDDUN",
        "issue_uri": "https://tracker.example.org/42",
        "is_confidential": True,
    }
    answer = await rest.call("POST", "/threat_models", alice, json_body=body)
    model = answer.json
    user = {
        "principal_type": "user",
        "provider": "tmi",
        "provider_id": "alice@tmi.local",
        "display_name": "alice",
        "email": "alice@tmi.local",
    }
    assert answer.status == 201
    assert answer.headers["Location"] == f"/threat_models/{model['id']}"
    assert answer.headers["ETag"] == '"1"'
    assert body == {name: model[name] for name in body}
    assert [user, user] == [model["owner"], model["created_by"]]
    assert [{**user, "role": "owner"}] == model["authorization"]
    assert (model["version"], model["status"], model["metadata"]) == (1, "not_started", [])
    assert model["created_at"].endswith("Z")
    assert model == (await rest.call("GET", answer.headers["Location"], alice)).json


async def test_principals_may_be_named_before_they_sign_in(rest: RestClient, alice: str) -> None:
    model = await rest.create_model(
        alice,
        user_grant("bob", "writer"),
        group_grant("everyone", "reader", "*"),
        group_grant("red", "writer", "ad"),
    )
    bob, carol = await rest.sign_in("bob"), await rest.sign_in("carol")
    named = {
        (a["principal_type"], a["provider"], a["provider_id"]): a["role"] for a in model["authorization"]
    }
    assert named == {
        ("user", "tmi", "alice@tmi.local"): "owner",
        ("user", "tmi", "bob@tmi.local"): "writer",
        ("group", "tmi", "everyone"): "reader",
        ("group", "ad", "red"): "writer",
    }
    assert (await rest.patch(bob, model["id"], replace("/name", "By Bob"))).status == 200
    assert (await rest.patch(carol, model["id"], replace("/name", "By Carol"))).status == 403
    assert (await rest.call("GET", f"/threat_models/{model['id']}", carol)).status == 200


async def test_the_creator_stays_owner_whatever_role_the_body_gives_them(
    rest: RestClient, alice: str
) -> None:
    model = await rest.create_model(alice, user_grant("alice", "reader"))
    assert ["owner"] == [entry["role"] for entry in model["authorization"]]


@pytest.mark.parametrize(
    "grants",
    [
        [user_grant("bob", "reader"), user_grant("bob", "owner")],
        [group_grant("everyone", "reader", "*"), group_grant("everyone", "writer", "tmi")],
        [group_grant("red", "reader"), {**group_grant("red", "reader"), "display_name": "Red"}],
    ],
)
async def test_a_principal_named_twice_is_refused(rest: RestClient, alice: str, grants: list[Any]) -> None:
    body = {"name": "Shop", "authorization": grants}
    assert (await rest.call("POST", "/threat_models", alice, json_body=body)).status == 400


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "Shop",
        {},
        {"name": None},
        {"name": ""},
        {"name": 7},
        {"name": "x" * 257},
        {"name": "a\u0000b"},
        {"name": "a\nb"},
        {"name": "Shop", "unknown": 1},
        {"name": "Shop", "id": str(uuid4())},
        {"name": "Shop", "owner": "bob"},
        {"name": "Shop", "description": "a\u0000b"},
        {"name": "Shop", "description": "x" * 2049},
        {"name": "Shop", "threat_model_framework": "a b"},
        {"name": "Shop", "issue_uri": "javascript:alert(1)"},
        {"name": "Shop", "issue_uri": "https://a.example/\u0000"},
        {"name": "Shop", "is_confidential": "yes"},
        {"name": "Shop", "is_confidential": 1},
        {"name": "Shop", "metadata": [{"key": "a", "value": ""}]},
        {"name": "Shop", "metadata": [{"key": "a b", "value": "b"}]},
        {"name": "Shop", "metadata": [{"key": "a", "value": "b"}, {"key": "a", "value": "c"}]},
        {"name": "Shop", "authorization": None},
        {"name": "Shop", "authorization": {}},
        {"name": "Shop", "authorization": [{}]},
        {"name": "Shop", "authorization": [{**user_grant("bob", "reader"), "role": "admin"}]},
        {"name": "Shop", "authorization": [{**user_grant("bob", "reader"), "role": "OWNER"}]},
        {"name": "Shop", "authorization": [{**user_grant("bob", "reader"), "principal_type": "robot"}]},
        {"name": "Shop", "authorization": [{**user_grant("bob", "reader"), "provider": "t m i"}]},
        {"name": "Shop", "authorization": [{**user_grant("bob", "reader"), "provider_id": ""}]},
        {"name": "Shop", "authorization": [{**user_grant("bob", "reader"), "provider_id": "<b>"}]},
        {"name": "Shop", "authorization": [{**user_grant("bob", "reader"), "provider_id": "a\u0000"}]},
        {"name": "Shop", "authorization": [{**user_grant("bob", "reader"), "provider_id": "x" * 501}]},
        {"name": "Shop", "authorization": [{**user_grant("bob", "reader"), "email": "nobody"}]},
        {"name": "Shop", "authorization": [{**user_grant("bob", "reader"), "admin": True}]},
        {"name": "Shop", "authorization": [user_grant(f"u{n}", "reader") for n in range(1001)]},
    ],
    ids=lambda body: repr(body)[:60],
)
async def test_a_body_outside_the_contract_is_400(rest: RestClient, alice: str, body: Any) -> None:
    answer = await rest.call("POST", "/threat_models", alice, json_body=body)
    assert (answer.status, answer.json["error"]) == (400, "invalid_input")


async def test_a_refusal_names_the_fields_at_fault(rest: RestClient, alice: str) -> None:
    body = {"name": "", "authorization": [{**user_grant("bob", "reader"), "role": "admin"}]}
    details = (await rest.call("POST", "/threat_models", alice, json_body=body)).json["details"]
    assert {"name", "authorization.0.role"} == {fault["field"] for fault in details["context"]["fields"]}


async def test_lists_are_paged_newest_first_and_hold_what_the_caller_may_see(
    rest: RestClient, alice: str
) -> None:
    bob = await rest.sign_in("bob")
    names = [f"Model {n}" for n in range(5)]
    models = [await rest.create_model(alice, user_grant("bob", "reader"), name=name) for name in names]
    await rest.create_model(bob, name="Bob's")
    await rest.create_diagram(alice, models[4]["id"])
    page = (await rest.call("GET", "/threat_models?limit=2&offset=1", alice)).json
    mine = (await rest.call("GET", "/threat_models", alice)).json
    bobs = (await rest.call("GET", "/threat_models", bob)).json
    assert ["Model 3", "Model 2"] == [item["name"] for item in page["threat_models"]]
    assert (page["total"], page["limit"], page["offset"]) == (5, 2, 1)
    assert list(reversed(names)) == [item["name"] for item in mine["threat_models"]]
    assert (mine["limit"], mine["offset"]) == (20, 0)
    assert [1, 0, 0, 0, 0] == [item["diagram_count"] for item in mine["threat_models"]]
    assert bobs["total"] == 6


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=101", "limit=-1", "limit=x", "limit=", "limit=1.5", "offset=-1", "offset=1000000001",
     "offset=9" + "9" * 5000, "limit=1&limit=2", "owned=bob", "limit=%00"],
    ids=lambda query: query[:20],
)  # fmt: skip
async def test_a_page_outside_the_contract_is_400(rest: RestClient, alice: str, query: str) -> None:
    model = await rest.create_model(alice)
    for path in ("/threat_models", f"/threat_models/{model['id']}/diagrams"):
        assert (await rest.call("GET", f"{path}?{query}", alice)).status == 400


# --- patching -----------------------------------------------------------------------------------


async def test_a_patch_changes_fields_and_raises_the_version(rest: RestClient, alice: str) -> None:
    model = await rest.create_model(alice, description="Old")
    answer = await rest.patch(
        alice, model["id"], replace("/name", "New"), {"op": "remove", "path": "/description"}
    )
    assert (answer.status, answer.headers["ETag"]) == (200, '"2"')
    assert (answer.json["name"], answer.json.get("description"), answer.json["version"]) == ("New", None, 2)
    answer = await rest.patch(alice, model["id"], {"op": "add", "path": "/description", "value": "Again"})
    assert answer.json["description"] == "Again"
    answer = await rest.patch(alice, model["id"], replace("/description", None))
    assert "description" not in answer.json


async def test_roles_are_given_changed_and_taken(rest: RestClient, alice: str) -> None:
    bob = await rest.sign_in("bob")
    model = (await rest.create_model(alice))["id"]
    path = f"/threat_models/{model}"
    assert (await rest.call("GET", path, bob)).status == 403
    await rest.patch(
        alice, model, {"op": "add", "path": "/authorization/-", "value": user_grant("bob", "reader")}
    )
    assert (await rest.call("GET", path, bob)).status == 200
    assert (await rest.patch(bob, model, replace("/name", "x"))).status == 403
    await rest.patch(alice, model, replace("/authorization/1", user_grant("bob", "writer")))
    assert (await rest.patch(bob, model, replace("/name", "x"))).status == 200
    await rest.patch(alice, model, {"op": "remove", "path": "/authorization/1"})
    assert (await rest.call("GET", path, bob)).status == 403


async def test_an_owner_may_hand_over_and_leave(rest: RestClient, alice: str) -> None:
    bob = await rest.sign_in("bob")
    model = (await rest.create_model(alice))["id"]
    handed = await rest.patch(alice, model, replace("/authorization", [user_grant("bob", "owner")]))
    assert handed.status == 200
    assert (await rest.call("GET", f"/threat_models/{model}", alice)).status == 403
    assert (await rest.call("DELETE", f"/threat_models/{model}", bob)).status == 204


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/authorization/0"},
        {"op": "remove", "path": "/authorization"},
        replace("/authorization", []),
        replace("/authorization", [user_grant("alice", "writer")]),
        replace("/authorization", [group_grant("everyone", "owner")]),
        replace("/authorization/0", user_grant("alice", "reader")),
    ],
    ids=str,
)
async def test_the_last_owner_cannot_be_removed(
    rest: RestClient, alice: str, operation: dict[str, Any]
) -> None:
    model = (await rest.create_model(alice, user_grant("bob", "writer")))["id"]
    answer = await rest.patch(alice, model, operation)
    assert (answer.status, answer.json["details"]["code"]) == (409, "last_owner")
    assert (await rest.call("GET", f"/threat_models/{model}", alice)).json["version"] == 1


@pytest.mark.parametrize(
    "operations",
    [
        {},
        None,
        [1],
        [{"op": "replace"}],
        [{"op": "replace", "path": "/name"}],
        [{"op": "add", "path": "/authorization/-"}],
        [{"op": "copy", "path": "/name", "from": "/id"}],
        [{"op": "REPLACE", "path": "/name", "value": "x"}],
        [replace("", {})],
        [replace("/", "x")],
        [replace("name", "x")],
        [replace("/id", str(uuid4()))],
        [replace("/owner", "x")],
        [replace("/version", 9)],
        [replace("/is_confidential", False)],
        [replace("/created_at", "x")],
        [replace("/name/0", "x")],
        [replace("/name~1", "x")],
        [replace("/authorization/0/role", "owner")],
        [replace("/authorization/00", {})],
        [replace("/authorization/-1", {})],
        [replace("/authorization/99999", {})],
        [replace("/authorization/7", user_grant("bob", "reader"))],
        [replace("/authorization/-", user_grant("bob", "reader"))],
        [{"op": "remove", "path": "/authorization/-"}],
        [{"op": "add", "path": "/authorization/9", "value": user_grant("bob", "reader")}],
        [{"op": "add", "path": "/authorization/-", "value": user_grant("alice", "reader")}],
        [{"op": "add", "path": "/authorization/-", "value": "bob"}],
        [{"op": "add", "path": "/authorization/-", "value": None}],
        [replace("/authorization", "x")],
        [replace("/authorization", {"0": user_grant("alice", "owner")})],
        [replace("/name", None)],
        [replace("/name", "")],
        [replace("/name", "a\u0000")],
        [replace("/name", {"a": "b"})],
        [replace("/description", 7)],
        [{"op": "remove", "path": "/name"}],
        [{"op": "replace", "path": "/name", "value": "x", "extra": 1}],
        [replace("/name", "x")] * 1001,
        [replace("/" + "x" * 600, "x")],
    ],
    ids=lambda operations: str(operations)[:70],
)
async def test_a_patch_outside_the_contract_changes_nothing(
    rest: RestClient, alice: str, operations: Any
) -> None:
    model = (await rest.create_model(alice))["id"]
    answer = await rest.call(
        "PATCH",
        f"/threat_models/{model}",
        alice,
        json_body=operations,
        content_type="application/json-patch+json",
    )
    assert (answer.status, answer.json["error"]) == (400, "invalid_input")
    assert (await rest.call("GET", f"/threat_models/{model}", alice)).json["version"] == 1


async def test_a_failed_test_stops_the_whole_patch(rest: RestClient, alice: str) -> None:
    model = (await rest.create_model(alice))["id"]
    answer = await rest.patch(
        alice, model, replace("/name", "New"), {"op": "test", "path": "/description", "value": "x"}
    )
    assert answer.status == 409
    assert (await rest.call("GET", f"/threat_models/{model}", alice)).json["name"] == "Shop"


async def test_a_patch_needs_its_media_type(rest: RestClient, alice: str) -> None:
    model = (await rest.create_model(alice))["id"]
    answer = await rest.call(
        "PATCH",
        f"/threat_models/{model}",
        alice,
        json_body=[replace("/name", "x")],
        content_type="application/json",
    )
    assert answer.status == 415


@pytest.mark.parametrize(
    ("if_match", "status"),
    [('"1"', 200), ("1", 200), ('W/"1"', 409), ("W/1", 409), ("*", 200), (' "1" ', 200), ('"2"', 409),
     ('"0"', 409), ('"x"', 400), ("", 400),
     ('"1", "2"', 400), ("**", 400), ('"-1"', 400), ('"' + "9" * 30 + '"', 409)],
)  # fmt: skip
async def test_if_match_is_honoured(rest: RestClient, alice: str, if_match: str, status: int) -> None:
    model = (await rest.create_model(alice))["id"]
    answer = await rest.patch(alice, model, replace("/name", "New"), headers={"If-Match": if_match})
    assert answer.status == status


# --- deleting, diagrams -------------------------------------------------------------------------


async def test_a_deleted_threat_model_is_gone_with_its_diagrams(rest: RestClient, alice: str) -> None:
    model = (await rest.create_model(alice))["id"]
    diagram = (await rest.create_diagram(alice, model))["id"]
    assert (await rest.call("DELETE", f"/threat_models/{model}", alice)).status == 204
    assert (await rest.call("GET", f"/threat_models/{model}", alice)).status == 404
    assert (await rest.call("GET", f"/threat_models/{model}/diagrams/{diagram}", alice)).status == 404
    token = await rest.call("POST", "/collab/tokens", alice, json_body={"diagram_id": diagram})
    assert token.status == 404


async def test_a_new_diagram_is_empty_and_listed(rest: RestClient, alice: str) -> None:
    model = (await rest.create_model(alice))["id"]
    body = {"name": "Flow", "type": "DFD-1.0.0"}
    created = await rest.call("POST", f"/threat_models/{model}/diagrams", alice, json_body=body)
    diagram = created.json
    location = f"/threat_models/{model}/diagrams/{diagram['id']}"
    listed = (await rest.call("GET", f"/threat_models/{model}/diagrams", alice)).json
    assert (created.status, created.headers["Location"]) == (201, location)
    assert body | {"cells": [], "update_vector": 0, "version": 1, "alias": 1} == {
        name: diagram[name] for name in (*body, "cells", "update_vector", "version", "alias")
    }
    assert [diagram["id"]] == [item["id"] for item in listed["diagrams"]]
    assert (listed["total"], listed["limit"], listed["offset"]) == (1, 20, 0)
    assert "cells" not in listed["diagrams"][0]
    shown = await rest.call("GET", location, alice)
    assert shown.json == diagram
    assert shown.headers["ETag"] == '"1"'


@pytest.mark.parametrize(
    "body",
    [{}, {"name": "x"}, {"type": "DFD-1.0.0"}, {"name": "", "type": "DFD-1.0.0"},
     {"name": "x", "type": "DFD-2"}, {"name": "x", "type": "DFD-1.0.0", "cells": []},
     {"name": "x\u0007", "type": "DFD-1.0.0"}],
    ids=str,
)  # fmt: skip
async def test_a_diagram_outside_the_contract_is_400(rest: RestClient, alice: str, body: Any) -> None:
    model = (await rest.create_model(alice))["id"]
    assert (await rest.call("POST", f"/threat_models/{model}/diagrams", alice, json_body=body)).status == 400


async def test_a_deleted_diagram_is_gone(rest: RestClient, alice: str) -> None:
    model = (await rest.create_model(alice))["id"]
    path = f"/threat_models/{model}/diagrams/{(await rest.create_diagram(alice, model))['id']}"
    assert (await rest.call("DELETE", path, alice)).status == 204
    assert [404, 404] == [(await rest.call(method, path, alice)).status for method in ("GET", "DELETE")]


async def test_with_the_database_away_requests_get_503_and_may_retry() -> None:
    store = MemoryStore()
    async with over_memory(store=store) as rest:
        alice = await rest.sign_in("alice")
        store.unavailable = True
        for path in ("/threat_models", "/me", f"/threat_models/{uuid4()}"):
            answer = await rest.call("GET", path, alice)
            assert (answer.status, answer.json["error"]) == (503, "service_unavailable")
            assert int(answer.headers["Retry-After"]) > 0


# --- collab tokens ------------------------------------------------------------------------------


async def test_a_collab_token_comes_with_addresses_from_the_request(rest: RestClient, alice: str) -> None:
    model = (await rest.create_model(alice))["id"]
    diagram = (await rest.create_diagram(alice, model))["id"]
    headers = {"Host": "127.0.0.1:8080"}
    for_all = await rest.call("POST", "/collab/tokens", alice, json_body={}, headers=headers)
    body = {"diagram_id": diagram.upper()}
    for_one = await rest.call("POST", "/collab/tokens", alice, json_body=body, headers=headers)
    verify = rest.services.tokens.verify_collab
    assert for_all.json | {"token": ""} == {
        "token": "",
        "expires_in": 600,
        "y_websocket_url": "ws://127.0.0.1:8080/collab",
        "hocuspocus_url": "ws://127.0.0.1:8080/collab",
    }
    assert for_one.json["hocuspocus_url"] == f"ws://127.0.0.1:8080/collab?diagram={diagram}"
    assert for_one.json["y_websocket_url"] == "ws://127.0.0.1:8080/collab"
    assert verify(for_all.json["token"]).diagram is None
    assert str(verify(for_one.json["token"]).diagram) == diagram
    assert for_one.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("public_url", "expected"),
    [
        ("https://tmi.example.org", "wss://tmi.example.org/collab"),
        ("https://tmi.example.org/", "wss://tmi.example.org/collab"),
        ("http://tmi.example.org:81/tm", "ws://tmi.example.org:81/tm/collab"),
    ],
)
async def test_a_public_url_decides_the_addresses(public_url: str, expected: str) -> None:
    async with over_memory(ApiOptions(dev=True, public_url=public_url)) as rest:
        answer = await rest.call(
            "POST",
            "/collab/tokens",
            await rest.sign_in("alice"),
            json_body={},
            headers={"Host": "evil.example"},
        )
    assert answer.json["y_websocket_url"] == expected


@pytest.mark.parametrize(
    "host", ["a b", "a/b", "user@host", "h?x", "h#x", "é", "h:x", "h:123456", "", "[", "a..b"]
)
async def test_an_odd_host_is_refused_and_never_becomes_an_address(
    rest: RestClient, alice: str, host: str
) -> None:
    answer = await rest.call("POST", "/collab/tokens", alice, json_body={}, headers={"Host": host})
    assert answer.status == 400


@pytest.mark.parametrize(
    "host", ["localhost", "tmi.example.org:8443", "[::1]:8080", "10.0.0.1", "my_service"]
)
async def test_usual_hosts_are_taken(rest: RestClient, alice: str, host: str) -> None:
    answer = await rest.call("POST", "/collab/tokens", alice, json_body={}, headers={"Host": host})
    assert answer.json["y_websocket_url"] == f"ws://{host}/collab"


@pytest.mark.parametrize("diagram", ["", "x", "{}", "urn:uuid:" + str(uuid4()), uuid4().hex, 7, ["x"]])
async def test_a_diagram_id_that_is_no_uuid_is_400(rest: RestClient, alice: str, diagram: Any) -> None:
    answer = await rest.call("POST", "/collab/tokens", alice, json_body={"diagram_id": diagram})
    assert answer.status == 400
