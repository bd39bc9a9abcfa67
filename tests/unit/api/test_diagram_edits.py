"""PUT and PATCH of diagrams that people have open: one node, in memory."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from pycrdt import Map

from crdt.messages import SyncStep1, Update
from persistence.memory.store import MemoryStore
from tests.rest import OPTIONS, Answer, RestClient, over_memory, user_grant
from tests.unit.rooms.conftest import Editor, World, until
from tmi.domain.ids import DiagramId, UserId
from tmi.domain.ports import Origin
from tmi.domain.roles import Role

Json = Any
PATCH = "application/json-patch+json"


def node(**fields: Json) -> dict[str, Json]:
    return {
        "id": str(uuid4()),
        "shape": "process",
        "position": {"x": 10, "y": 20},
        "size": {"width": 80, "height": 60},
        **fields,
    }


class Diagram:
    """A diagram, its owner `alice` and its writer `bob`."""

    def __init__(self, rest: RestClient, store: MemoryStore) -> None:
        self.rest, self.store = rest, store
        self.token = self.other = self.path = ""
        self.id = DiagramId(uuid4())
        self.edited = 0

    async def prepare(self) -> "Diagram":
        self.token, self.other = await self.rest.sign_in("alice"), await self.rest.sign_in("bob")
        model = await self.rest.create_model(self.token, user_grant("bob", "writer"))
        diagram = await self.rest.create_diagram(self.token, model["id"])
        self.id = DiagramId(UUID(diagram["id"]))
        self.path = f"/threat_models/{model['id']}/diagrams/{diagram['id']}"
        return self

    async def put(
        self, *cells: Json, headers: Mapping[str, str] | None = None, token: str = "", **fields: Json
    ) -> Answer:
        body = {"name": "Flow", "type": "DFD-1.0.0", "cells": list(cells), **fields}
        return await self.rest.call("PUT", self.path, token or self.token, json_body=body, headers=headers)

    async def patch(self, *operations: Json, headers: Mapping[str, str] | None = None) -> Answer:
        return await self.rest.call(
            "PATCH", self.path, self.token, json_body=list(operations), content_type=PATCH, headers=headers
        )

    async def get(self) -> Json:
        return (await self.rest.call("GET", self.path, self.token)).json

    async def open(self) -> Editor:
        """An editor's replica, synced."""
        bob = self.store.users[UserId(UUID(await self.rest.user_id("bob")))]
        editor = Editor(World(), bob, Role.WRITER)
        editor.session = await self.rest.services.rooms.join(self.id, editor.member, editor)
        editor.session.receive(SyncStep1(editor.doc.get_state()))
        return editor


@pytest.fixture
async def diagram() -> AsyncIterator[Diagram]:
    store = MemoryStore()
    async with over_memory(store=store) as rest:
        yield await Diagram(rest, store).prepare()


async def test_a_put_is_seen_by_open_editors_and_logged_as_the_callers(diagram: Diagram) -> None:
    editor = await diagram.open()
    cell = node(attrs={"text": {"text": "Web"}})
    colors = [{"position": 1, "color": "#ABC"}]
    answer = await diagram.put(cell, name="Checkout", description="d", color_palette=colors)
    assert 200 == answer.status, answer.data
    body = answer.json
    assert ("Checkout", "d") == (body["name"], body["description"])
    assert (1, 2) == (body["update_vector"], body["version"])
    assert '"2"' == answer.headers["ETag"]
    assert [{"position": 1, "color": "#aabbcc"}] == body["color_palette"]
    assert (10, 80) == (body["cells"][0]["x"], body["cells"][0]["size"]["width"])
    await until(lambda: cell["id"] in editor.cells)
    assert "process" == editor.cells[cell["id"]]["shape"]
    ((_, row),) = diagram.store.logs[diagram.id].rows
    alice = UserId(UUID(await diagram.rest.user_id("alice")))
    assert (Origin.REST, alice, 1) == (row.origin, row.author, row.seq)
    assert body == await diagram.get()


async def test_a_patch_counts_cells_as_they_are_shown_and_merges_with_open_editors(diagram: Diagram) -> None:
    one, two = node(), node()
    await diagram.put(one, two)
    editor = await diagram.open()
    await until(lambda: two["id"] in editor.cells)
    before = editor.doc.get_state()
    editor.cells[two["id"]]["angle"] = 45
    assert editor.session is not None
    editor.session.receive(Update(editor.doc.get_update(before)))
    answer = await diagram.patch(
        {"op": "test", "path": "/cells/1/id", "value": two["id"]},
        {"op": "replace", "path": "/cells/1/position", "value": {"x": 1, "y": 2}},
        {"op": "add", "path": "/cells/-", "value": node(shape="store")},
    )
    assert 200 == answer.status, answer.data
    cell = answer.json["cells"][1]
    assert (45, 1, {"x": 1, "y": 2}) == (cell["angle"], cell["x"], cell["position"])
    assert ["process", "process", "store"] == [shown["shape"] for shown in answer.json["cells"]]
    await until(lambda: len(editor.cells) == 3)
    assert 1 == editor.cells[two["id"]]["position"]["x"]


async def test_a_batch_is_applied_whole_or_not_at_all(diagram: Diagram) -> None:
    cell = node()
    await diagram.put(cell)
    before = await diagram.get()
    remove = {"op": "remove", "path": "/cells/0"}
    rename = {"op": "replace", "path": "/name", "value": "New"}
    cases: list[tuple[int, Json]] = [
        (409, {"op": "test", "path": "/name", "value": "other"}),
        (400, {"op": "remove", "path": "/cells/7"}),
        (400, {"op": "add", "path": "/cells/-", "value": {"id": "x", "shape": "process"}}),
        (400, {"op": "replace", "path": "/name", "value": ""}),
        (400, {"op": "replace", "path": "/name", "value": "a\u202eb"}),
        (400, {"op": "replace", "path": "/version", "value": 7}),
        (400, {"op": "add", "path": "/cells/0/0/x/y", "value": 7}),
        (400, {"op": "replace", "path": "/cells", "value": 7}),
        (400, {"op": "replace", "path": "/cells", "value": [7]}),
    ]
    for status, operation in cases:
        answer = await diagram.patch(remove, rename, operation)
        assert status == answer.status, (operation, answer.data)
        assert before == await diagram.get()


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ({"id": "7"}, "id:"),
        ({"shape": "circle"}, "shape"),
        ({"size": {"width": 1, "height": 60}}, "size.width"),
        ({"position": {"x": "1", "y": 2}}, "position.x"),
        ({"attrs": {"body": {"fill": "url(http://x)"}}}, "attrs.body.fill"),
        ({"data": {"_metadata": [{"key": "a b", "value": "c"}]}}, "data._metadata.0.key"),
        ({"shape": "flow"}, "source"),
    ],
)
async def test_a_bad_cell_is_refused_by_its_place_and_reason(
    diagram: Diagram, cell: dict[str, Json], why: str
) -> None:
    answer = await diagram.put(node(), node(**cell))
    assert 400 == answer.status
    told = answer.json["error_description"]
    assert told.startswith("Cells.1"), told
    assert why in told
    assert 0 == (await diagram.get())["update_vector"]


async def test_two_cells_with_one_id_are_refused(diagram: Diagram) -> None:
    cell = node()
    assert "same id" in (await diagram.put(cell, cell)).json["error_description"]


async def test_what_an_editor_wrote_against_the_contract_may_be_sent_back(diagram: Diagram) -> None:
    editor = await diagram.open()
    before = editor.doc.get_state()
    editor.cells["odd"] = Map({"shape": "star", "size": {"width": 1, "height": 1}})
    assert editor.session is not None
    editor.session.receive(Update(editor.doc.get_update(before)))
    shown = await diagram.get()
    answer = await diagram.rest.call(
        "PUT", diagram.path, diagram.token, json_body={**shown, "description": "kept"}
    )
    assert (200, shown["cells"]) == (answer.status, answer.json["cells"])
    assert 400 == (await diagram.put({**shown["cells"][0], "angle": 3})).status


async def test_versions(diagram: Diagram) -> None:
    assert 200 == (await diagram.put(headers={"If-Match": '"1"'})).status
    stale = await diagram.put(node(), headers={"If-Match": '"1"'})
    assert (409, "version_mismatch") == (stale.status, stale.json["details"]["code"])
    assert 409 == (await diagram.put(version=1)).status
    assert 400 == (await diagram.put(headers={"If-Match": "x"})).status
    assert 200 == (await diagram.put(headers={"If-Match": "*"})).status
    assert 3 == (await diagram.get())["version"]


async def test_a_setting_asks_for_the_version() -> None:
    store = MemoryStore()
    async with over_memory(replace(OPTIONS, if_match_required=True), store) as rest:
        diagram = await Diagram(rest, store).prepare()
        answer = await diagram.put()
        assert (428, "precondition_required") == (answer.status, answer.json["error"])
        assert 200 == (await diagram.put(headers={"If-Match": "1"})).status


async def test_fifty_writers_at_once_lose_nothing(diagram: Diagram) -> None:
    adds = [{"op": "add", "path": "/cells/-", "value": node()} for _ in range(50)]
    answers = await asyncio.gather(*(diagram.patch(add) for add in adds))
    assert {200} == {answer.status for answer in answers}
    after = await diagram.get()
    assert {add["value"]["id"] for add in adds} == {cell["id"] for cell in after["cells"]}  # type: ignore[index]
    assert (51, 50) == (after["version"], after["update_vector"])
    # Each answer is of one moment: as many cells as its number says.
    assert all(len(answer.json["cells"]) == answer.json["update_vector"] for answer in answers)


async def test_of_fifty_writers_of_one_version_one_wins_and_the_rest_know(diagram: Diagram) -> None:
    answers = await asyncio.gather(*(diagram.put(node(), headers={"If-Match": "1"}) for _ in range(50)))
    assert [200] + [409] * 49 == sorted(answer.status for answer in answers)
    assert 1 == len((await diagram.get())["cells"])


async def test_a_name_that_a_diagram_may_be_made_with_may_be_written_back(diagram: Diagram) -> None:
    models = diagram.path.rsplit("/", 1)[0]
    body = {"name": "Tom's <flow> & \"more\"", "type": "DFD-1.0.0"}
    made = await diagram.rest.call("POST", models, diagram.token, json_body=body)
    assert 201 == made.status
    diagram.path = f"{models}/{made.json['id']}"
    assert 200 == (await diagram.patch({"op": "add", "path": "/cells/-", "value": node()})).status
    shown = await diagram.get()
    assert 200 == (await diagram.rest.call("PUT", diagram.path, diagram.token, json_body=shown)).status


async def test_fields_and_image(diagram: Diagram) -> None:
    await diagram.put(node())
    answer = await diagram.patch(
        {"op": "add", "path": "/image", "value": {"svg": "PHN2Zz4="}},
        {"op": "replace", "path": "/include_in_report", "value": False},
        {"op": "add", "path": "/metadata/-", "value": {"key": "k", "value": "v"}},
    )
    assert 200 == answer.status, answer.data
    body = answer.json
    assert ({"svg": "PHN2Zz4=", "update_vector": 1}, False) == (body["image"], body["include_in_report"])
    assert [{"key": "k", "value": "v"}] == body["metadata"]
    assert 1 == body["update_vector"]
    listed = await diagram.rest.call("GET", diagram.path.rsplit("/", 1)[0], diagram.token)
    assert body["image"] == listed.json["diagrams"][0]["image"]
    assert [] == (await diagram.put(metadata=[])).json["metadata"]
    assert "image" not in await diagram.get()
    twice = [{"key": "k", "value": "v"}, {"key": "k", "value": "w"}]
    assert 400 == (await diagram.put(metadata=twice)).status


async def test_a_diagram_at_its_size_limit_takes_deletions_alone(diagram: Diagram) -> None:
    await diagram.put(node(data={"text": "x" * 5000}), node())
    room = diagram.rest.services.rooms.owned(diagram.id)
    assert room is not None
    room.room._size._max_bytes = 6000
    before = await diagram.get()
    answer = await diagram.patch({"op": "add", "path": "/cells/0/data/more", "value": "y" * 3000})
    assert 413 == answer.status
    assert before == await diagram.get()
    assert 200 == (await diagram.patch({"op": "remove", "path": "/cells/0"})).status
    assert 1 == len((await diagram.get())["cells"])


async def test_without_a_database_nothing_is_changed(diagram: Diagram) -> None:
    await diagram.put(node())
    diagram.store.unavailable = True
    room = diagram.rest.services.rooms.owned(diagram.id)
    assert 503 == (await diagram.put()).status
    assert room is not None
    assert 1 == room.room.seq
