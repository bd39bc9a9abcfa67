"""Characters that are not seen are refused in every text that a client may write, by whatever way it comes.

The texts of children come from the table of kinds; other bodies from the table of all operations: each text
in them is tried with a character in it.
"""

import copy
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from tests.rest import RestClient, over_memory
from tests.security.test_role_matrix_entities import BODIES
from tests.security.test_role_matrix_rest import ROWS, House, house
from tmi.domain.kinds import KINDS, Field, Kind, Record, Several, Shape, Text

__all__ = ["house"]
Json = Any
PATCH = "application/json-patch+json"

UNSEEN = ("\x00", "\x1b", "\x85", "\u200b", "\u202e", "\u2028", "\u2066", "\ufeff", "\ufdd0", "\U000e0001")


@pytest.fixture
async def rest() -> AsyncIterator[RestClient]:
    async with over_memory() as client:
        yield client


def samples(shape: Shape, hostile: str) -> Iterator[Json]:
    """Values of a shape, each with one hostile text in it."""
    match shape:
        case Text():
            yield hostile
        case Several(of=of):
            for sample in samples(of, hostile):
                yield [sample]
        case Record(fields=fields):
            for field in fields:
                if isinstance(field.shape, Text):
                    yield {"refType": "tag", "refValue": "v1", field.name: hostile}
        case _:
            return


def texts(kind: Kind) -> Iterator[tuple[Field, Json]]:
    for field in kind.fields:
        for character in UNSEEN:
            for sample in samples(field.shape, f"seen{character}text"):
                yield field, sample


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_each_text_of_a_kind_refuses_them_by_post_put_patch_and_in_bulk(
    rest: RestClient, kind: Kind
) -> None:
    alice = await rest.sign_in("alice")
    all_ = f"/threat_models/{(await rest.create_model(alice))['id']}/{kind.plural}"
    made = (await rest.call("POST", all_, alice, json_body=BODIES[kind.name])).json
    one, tried = f"{all_}/{made['id']}", 0
    for field, sample in texts(kind):
        body = {**BODIES[kind.name], field.name: sample}
        operations = [{"op": "add", "path": f"/{field.name}", "value": sample}]
        requests: list[tuple[str, str, Json, str]] = [
            ("POST", all_, body, "application/json"),
            ("PUT", one, body, "application/json"),
            ("PATCH", one, operations, PATCH),
        ]
        if kind.bulk_most:
            requests.append(("POST", f"{all_}/bulk", [body], "application/json"))
            requests.append(("PUT", f"{all_}/bulk", [{"id": made["id"], **body}], "application/json"))
        if kind.has_all_bulk:
            patches = {"patches": [{"id": made["id"], "operations": operations}]}
            requests.append(("PATCH", f"{all_}/bulk", patches, "application/json"))
        for method, path, sent, content_type in requests:
            answer = await rest.call(method, path, alice, json_body=sent, content_type=content_type)
            assert 400 == answer.status, (method, path, field.name, sample)
            tried += 1
    assert 3 * len(UNSEEN) < tried
    assert [made] == [(await rest.call("GET", one, alice)).json]
    assert 1 == (await rest.call("GET", all_, alice)).json["total"]


def leaves(node: Json, path: Sequence[str | int] = ()) -> Iterator[tuple[Sequence[str | int], str]]:
    """Where texts are in a body."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, [*path, key])
    elif isinstance(node, list):
        for at, value in enumerate(node):
            yield from leaves(value, [*path, at])


def with_text(body: Json, path: Sequence[str | int], text: str) -> Json:
    changed = copy.deepcopy(body)
    holder = changed
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = text
    return changed


WITH_BODIES = [row for row in ROWS if isinstance(row.body, dict | list) and any(leaves(row.body))]


async def test_each_text_of_every_other_body_refuses_them(house: House) -> None:
    tried = 0
    for row in WITH_BODIES:
        for path, text in leaves(row.body):
            for character in ("\u202e", "\u200b", "\x85"):
                hostile = replace(row, body=with_text(row.body, path, f"{text[:4]}{character}{text[4:]}x"))
                status = await house.call(hostile, house.tokens[row.allowed])
                assert 400 <= status < 500, (row.operation, path, character)
                tried += 1
    assert 60 < tried


async def test_the_texts_of_threat_models_and_metadata_refuse_them(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    made = await rest.create_model(alice)
    path = f"/threat_models/{made['id']}"
    for character in UNSEEN:
        text = f"seen{character}text"
        uri = f"https://x.example/{character}x"
        fields: dict[str, Json] = {"name": text, "description": text, "issue_uri": uri}
        fields |= {"metadata": [{"key": "k", "value": text}], "threat_model_framework": text}
        for name, value in fields.items():
            body = {"name": "Shop", name: value}
            assert 400 == (await rest.call("POST", "/threat_models", alice, json_body=body)).status, name
            assert 400 == (await rest.call("PUT", path, alice, json_body=body)).status, name
            patch = {"op": "replace", "path": f"/{name}", "value": value}
            assert 400 == (await rest.patch(alice, made["id"], patch)).status, name
        for status in (text, f"{character}x"):
            patch = {"op": "replace", "path": "/status", "value": status}
            assert 400 == (await rest.patch(alice, made["id"], patch)).status
        entry = {"key": "k", "value": text}
        for method, target, sent in (
            ("POST", "metadata", entry),
            ("POST", "metadata/bulk", [entry]),
            ("PUT", "metadata/bulk", [entry]),
            ("PATCH", "metadata/bulk", [entry]),
        ):
            assert 400 == (await rest.call(method, f"{path}/{target}", alice, json_body=sent)).status
    assert made == (await rest.call("GET", path, alice)).json


async def test_labels_and_all_other_texts_of_cells_refuse_them(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    model = (await rest.create_model(alice))["id"]
    diagram = (await rest.create_diagram(alice, model))["id"]
    path = f"/threat_models/{model}/diagrams/{diagram}"
    node = {"id": str(uuid4()), "shape": "process", "x": 1, "y": 2, "width": 80, "height": 60}
    ends = {"source": {"cell": node["id"]}, "target": {"cell": node["id"]}}

    def cells(text: str) -> list[Json]:
        flow = {"id": str(uuid4()), "shape": "flow", **ends}
        return [
            {**node, "attrs": {"text": {"text": text}}},
            {**node, "data": {"_metadata": [{"key": "k", "value": text}]}},
            {**node, "data": {"notes": {"deep": [text]}}},
            {**node, "data": {text: 1}},
            {**node, "ports": {"items": [{"id": text, "group": "top"}]}},
            {**flow, "labels": [{"attrs": {"text": {"text": text}}}]},
            {**flow, "router": {"name": "normal", "args": {"a": text}}},
        ]

    for cell in cells("seen"):
        body = {"name": "Flow", "type": "DFD-1.0.0", "cells": [cell]}
        assert 200 == (await rest.call("PUT", path, alice, json_body=body)).status, cell
    before = (await rest.call("GET", path, alice)).json
    for character in ("\u202e", "\u200b", "\x85", "\ufeff", "\U000e0001"):
        text = f"seen{character}text"
        for cell in cells(text):
            body = {"name": "Flow", "type": "DFD-1.0.0", "cells": [cell]}
            assert 400 == (await rest.call("PUT", path, alice, json_body=body)).status, cell
            patch = [{"op": "add", "path": "/cells/-", "value": {**cell, "id": str(uuid4())}}]
            answer = await rest.call("PATCH", path, alice, json_body=patch, content_type=PATCH)
            assert 400 == answer.status, cell
            assert b"not seen" in answer.data
        for field in ("name", "description"):
            body = {"name": "Flow", "type": "DFD-1.0.0", "cells": [], field: text}
            assert 400 == (await rest.call("PUT", path, alice, json_body=body)).status, field
    assert before == (await rest.call("GET", path, alice)).json
