"""`move` and `copy` of JSON Patch (RFC 6902): what they do, where they may reach, and how much they may make.

What each kind takes comes from the table of kinds.
"""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import jsonpatch
import pytest

from api import patch as patching
from tests.rest import Answer, RestClient, over_memory, user_grant
from tests.security.test_role_matrix_entities import BODIES
from tmi.domain.kinds import KINDS, Kind, Several

PATCH = "application/json-patch+json"
Json = Any


def move(source: str, path: str) -> Json:
    return {"op": "move", "from": source, "path": path}


def copy(source: str, path: str) -> Json:
    return {"op": "copy", "from": source, "path": path}


def add(path: str, value: Json) -> Json:
    return {"op": "add", "path": path, "value": value}


class World:
    """A threat model of alice in which bob writes."""

    def __init__(self, rest: RestClient, alice: str, bob: str, model: str) -> None:
        self.rest, self.alice, self.bob, self.model = rest, alice, bob, model

    async def patch(self, path: str, *operations: Json, who: str = "") -> Answer:
        return await self.rest.call(
            "PATCH", path, who or self.alice, json_body=list(operations), content_type=PATCH
        )

    async def get(self, path: str) -> Json:
        return (await self.rest.call("GET", path, self.alice)).json

    async def child(self, kind: Kind, **fields: Json) -> str:
        all_ = f"{self.model}/{kind.plural}"
        made = await self.rest.call("POST", all_, self.alice, json_body={**BODIES[kind.name], **fields})
        assert 201 == made.status, made.data
        return f"{all_}/{made.json['id']}"

    async def diagram(self, *cells: Json) -> str:
        made = await self.rest.create_diagram(self.alice, self.model.rpartition("/")[2])
        path = f"{self.model}/diagrams/{made['id']}"
        body = {"name": "Flow", "type": "DFD-1.0.0", "cells": list(cells)}
        put = await self.rest.call("PUT", path, self.alice, json_body=body)
        assert 200 == put.status, put.data
        return path


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with over_memory() as rest:
        alice, bob = await rest.sign_in("alice"), await rest.sign_in("bob")
        model = await rest.create_model(alice, user_grant("bob", "writer"), description="about")
        yield World(rest, alice, bob, f"/threat_models/{model['id']}")


def node(**fields: Json) -> Json:
    return {"id": str(uuid4()), "shape": "process", "x": 1, "y": 2, "width": 80, "height": 60, **fields}


# --- what they do -------------------------------------------------------------------------------


async def test_a_copy_leaves_and_a_move_takes_away(world: World) -> None:
    copied = await world.patch(world.model, copy("/name", "/description"))
    assert ("Shop", "Shop") == (copied.json["name"], copied.json["description"])
    moved = await world.patch(world.model, add("/description", "Till"), move("/description", "/name"))
    assert 200 == moved.status, moved.data
    assert ("Till", False) == (moved.json["name"], "description" in moved.json)
    refused = await world.patch(world.model, move("/name", "/description"))
    assert 400 == refused.status, "a threat model has a name"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_children_of_each_kind_take_both(world: World, kind: Kind) -> None:
    path = await world.child(kind, name="One", description="Two")
    copied = await world.patch(path, copy("/name", "/description"))
    assert (200, "One", "One") == (copied.status, copied.json["name"], copied.json["description"])
    moved = await world.patch(path, add("/description", "Three"), move("/description", "/name"))
    assert (200, "Three") == (moved.status, moved.json["name"]), moved.data
    assert "description" not in moved.json
    assert moved.json == await world.get(path)


@pytest.mark.parametrize("kind", [k for k in KINDS if any(isinstance(f.shape, Several) for f in k.fields)],
                         ids=lambda kind: kind.name)  # fmt: skip
async def test_elements_of_lists_change_places(world: World, kind: Kind) -> None:
    name = "threat_type" if kind.name == "threat" else "classification"
    path = await world.child(kind, **{name: ["a", "b", "c"]})
    moved = await world.patch(path, move(f"/{name}/0", f"/{name}/-"))
    assert ["b", "c", "a"] == moved.json[name]
    twice = await world.patch(path, copy(f"/{name}/0", f"/{name}/0"))
    unique = kind.field(name).shape.unique  # type: ignore[union-attr]
    assert (400 if unique else 200) == twice.status


async def test_metadata_are_moved_and_copied_within_their_rules(world: World) -> None:
    threat = await world.child(KINDS[0], metadata=[{"key": "a", "value": "1"}, {"key": "b", "value": "2"}])
    diagram = await world.diagram()
    for path in (threat, diagram, world.model):
        first, second = {"key": "a", "value": "1"}, {"key": "b", "value": "2"}
        await world.patch(path, add("/metadata", [first, second]))
        copied = await world.patch(path, copy("/metadata/0/value", "/metadata/1/value"))
        assert [first, {"key": "b", "value": "1"}] == copied.json["metadata"], path
        assert 400 == (await world.patch(path, copy("/metadata/0", "/metadata/-"))).status, "a key twice"
        renamed = await world.patch(
            path,
            copy("/metadata/0", "/metadata/-"),
            {"op": "replace", "path": "/metadata/2/key", "value": "c"},
        )
        assert ["a", "b", "c"] == [entry["key"] for entry in renamed.json["metadata"]]


async def test_several_threats_are_patched_at_once_or_none(world: World) -> None:
    keys = [(await world.child(KINDS[0], name=name, description="d")).rpartition("/")[2] for name in "ab"]

    async def bulk(*operations: Json) -> Answer:
        body = {"patches": [{"id": key, "operations": list(operations)} for key in keys]}
        return await world.rest.call("PATCH", f"{world.model}/threats/bulk", world.alice, json_body=body)

    done = await bulk(copy("/name", "/priority"), move("/description", "/status"))
    assert [("a", "d"), ("b", "d")] == [(threat["priority"], threat["status"]) for threat in done.json]
    before = await world.get(f"{world.model}/threats")
    assert 400 == (await bulk(copy("/id", "/priority"))).status
    assert 400 == (await bulk(move("/status", "/alias"))).status
    assert before == await world.get(f"{world.model}/threats")


async def test_cells_change_places_and_are_copied_with_an_id_of_their_own(world: World) -> None:
    one, two = node(angle=7), node(shape="store")
    path = await world.diagram(one, two)
    moved = await world.patch(path, move("/cells/0", "/cells/1"))
    assert [two["id"], one["id"]] == [cell["id"] for cell in moved.json["cells"]]
    assert 400 == (await world.patch(path, copy("/cells/0", "/cells/-"))).status, "an id twice"
    new = str(uuid4())
    named = {"op": "replace", "path": "/cells/2/id", "value": new}
    copied = await world.patch(path, copy("/cells/1", "/cells/-"), named)
    assert [two["id"], one["id"], new] == [cell["id"] for cell in copied.json["cells"]]
    assert (7, 7) == (copied.json["cells"][1]["angle"], copied.json["cells"][2]["angle"])
    turned = await world.patch(path, move("/cells/1/angle", "/cells/0/angle"))
    assert [7, None, 7] == [cell.get("angle") for cell in turned.json["cells"]]
    assert turned.json["cells"] == (await world.get(path))["cells"]


# --- where they may reach -----------------------------------------------------------------------

SERVERS = (
    "/id",
    "/alias",
    "/version",
    "/created_at",
    "/modified_at",
    "/threat_model_id",
    "/auto_generated",
    "",
)


@pytest.mark.parametrize("op", [move, copy])
async def test_neither_end_may_be_outside_the_list(world: World, op: Any) -> None:
    targets = [world.model, await world.diagram(node()), *[await world.child(kind) for kind in KINDS]]
    before = [await world.get(path) for path in targets]
    for path in targets:
        for outside in SERVERS:
            for source, target in ((outside, "/name"), ("/name", outside), (outside, outside)):
                answer = await world.patch(path, op(source, target))
                assert 400 == answer.status, (path, source, target)
                assert "can't be patched" in answer.json["error_description"]
    assert 400 == (await world.patch(targets[1], op("/type", "/description"))).status
    assert before == [await world.get(path) for path in targets]


@pytest.mark.parametrize("op", [move, copy])
@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("/authorization/0", "/authorization/-"), ("/authorization/1", "/authorization/0"),
        ("/authorization/0", "/metadata/-"), ("/name", "/authorization"), ("/security_reviewer", "/name"),
        ("/authorization", "/security_reviewer"), ("/name", "/security_reviewer/provider_id"),
    ],
)  # fmt: skip
async def test_who_has_which_role_is_for_owners_on_either_end(
    world: World, op: Any, source: str, path: str
) -> None:
    before = await world.get(world.model)
    assert 403 == (await world.patch(world.model, op(source, path), who=world.bob)).status
    assert before == await world.get(world.model)


async def test_owners_may_put_roles_in_another_order(world: World) -> None:
    moved = await world.patch(world.model, move("/authorization/0", "/authorization/1"))
    assert 200 == moved.status, moved.data
    assert {"owner", "writer"} == {entry["role"] for entry in moved.json["authorization"]}
    before = await world.get(world.model)
    for operation in (
        copy("/authorization/0", "/authorization/-"),
        copy("/authorization/0", "/security_reviewer"),
        move("/name", "/authorization"),
    ):
        assert 400 == (await world.patch(world.model, operation)).status, operation
    assert before == await world.get(world.model)


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "move", "path": "/name"}, {"op": "copy", "path": "/name"},
        {"op": "move", "path": "/name", "from": None}, {"op": "copy", "path": "/name", "from": 7},
        {"op": "copy", "path": "/name", "from": "name"},
        {"op": "copy", "path": "/name", "from": "/" + "x" * 600},
        {"op": "move", "path": "/name", "from_": "/description"},
        copy("/metadata/0", "/metadata/-"), copy("/metadata/-", "/metadata/-"), move("/metadata/00", "/name"),
        copy("/name/0", "/description"), copy("/nam\u0435", "/description"), copy("/~0name", "/description"),
    ],
)  # fmt: skip
async def test_what_is_no_operation_is_refused(world: World, operation: Json) -> None:
    before = await world.get(world.model)
    assert 400 == (await world.patch(world.model, operation)).status
    assert before == await world.get(world.model)


async def test_what_an_operation_has_no_use_for_is_ignored(world: World) -> None:
    """RFC 6902, section 4."""
    named = await world.patch(world.model, {"op": "replace", "path": "/name", "value": "New", "from": "/id"})
    assert (200, "New") == (named.status, named.json["name"])
    copied = await world.patch(world.model, {**copy("/name", "/description"), "value": "other"})
    assert "New" == copied.json["description"]


# --- how much they may make ---------------------------------------------------------------------


async def test_nothing_is_moved_into_its_own_child(world: World) -> None:
    path = await world.diagram(node(data={"a": {"b": {}}}))
    before = await world.get(path)
    for source in ("/cells", "/cells/0", "/cells/0/data", "/cells/0/data/a"):
        assert 400 == (await world.patch(path, move(source, "/cells/0/data/a/b"))).status
    assert before == await world.get(path)
    assert 200 == (await world.patch(path, move("/cells/0/data/a", "/cells/0/data/a"))).status


async def test_copies_that_double_are_stopped_long_before_they_fill_the_memory(world: World) -> None:
    path = await world.diagram(node(data={"a": {"x": "y" * 1000}}))
    before = await world.get(path)
    doubling = [copy("/cells/0/data/a", f"/cells/0/data/a/{n}") for n in range(200)]
    many = await world.patch(path, *doubling)
    assert (413, "payload_too_large") == (many.status, many.json["error"])
    large = patching.COPIED_MAX_BYTES // 10
    filled = add("/cells/0/data/a", "z" * large)
    copies = [copy("/cells/0/data/a", f"/cells/0/data/{n}") for n in range(10)]
    assert 413 == (await world.patch(path, filled, *copies)).status
    assert before == await world.get(path)
    assert 200 == (await world.patch(path, filled, *copies[:1])).status


async def test_copies_into_lists_of_children_are_bounded_alike(world: World) -> None:
    threat = await world.child(KINDS[0])
    operations = [copy("/threat_type", "/threat_type/-")] * 40
    assert 413 == (await world.patch(threat, *operations)).status
    body = {"patches": [{"id": threat.rpartition("/")[2], "operations": operations}]}
    bulk = await world.rest.call("PATCH", f"{world.model}/threats/bulk", world.alice, json_body=body)
    assert 413 == bulk.status


async def test_moves_nest_nothing_deeper_than_json_may_be(world: World) -> None:
    deep = "/d" * 200
    path = await world.diagram(node(data={}))
    before = await world.get(path)
    nested: Json = {}
    for _ in range(200):
        nested = {"d": nested}
    operations = [add("/cells/0/data/0", nested)]
    for n in range(20):
        operations.append(add(f"/cells/0/data/{n + 1}", nested))
        operations.append(move(f"/cells/0/data/{n}", f"/cells/0/data/{n + 1}{deep}/d"))
    answer = await world.patch(path, *operations)
    assert (400, "The patch does not fit the diagram") == (answer.status, answer.json["error_description"])
    assert before == await world.get(path)


# --- patches that are made -----------------------------------------------------------------------


MADE: list[tuple[Json, Json, int]] = [
    ({}, {"name": "a", "gone": None}, 2),
    ({"name": "a"}, {}, 2),
    ({"name": "a", "same": [1]}, {"name": "b", "same": [1]}, 2),
    ({"text": None}, {"text": ""}, 2),
    ({"a/b~c": 1}, {"a/b~c": [1]}, 2),
    ({"list": ["a", "c"]}, {"list": ["a", "b", "c"]}, 1),
    ({"list": [{"key": "a", "value": "1"}, {"key": "b"}]}, {"list": [{"key": "b", "value": "2"}]}, 6),
    ({"list": ["a", "b", "c"]}, {"list": ["c", "a", "b"]}, 1),
    ({"person": {"id": 1, "name": "a"}}, {"person": {"id": 1, "name": "b"}}, 2),
    ({"person": None}, {"person": {"id": 1}}, 2),
    ({"list": [*range(100)]}, {"list": [*range(100, 200)]}, 2),
    ({"list": [*range(101)]}, {"list": [*range(102)]}, 2),
    ({"same": {"a": [1, 2]}}, {"same": {"a": [1, 2]}}, 0),
]


@pytest.mark.parametrize(("before", "after", "steps"), MADE)
def test_a_patch_that_is_made_leads_from_one_to_the_other_and_tests_what_it_takes_away(
    before: Json, after: Json, steps: int
) -> None:
    old, new = json.dumps(before), json.dumps(after)
    made = patching.made(before, after)
    assert (old, new) == (json.dumps(before), json.dumps(after))
    assert steps == len(made)
    assert after == jsonpatch.JsonPatch(made).apply(before)
    for place, step in enumerate(made):
        if step["op"] in ("replace", "remove"):
            assert ("test", step["path"]) == (made[place - 1]["op"], made[place - 1]["path"])
            wrong = [*made[: place - 1], made[place - 1] | {"value": "something else"}]
            with pytest.raises(jsonpatch.JsonPatchTestFailed):
                jsonpatch.JsonPatch(wrong).apply(before)
