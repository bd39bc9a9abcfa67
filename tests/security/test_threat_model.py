"""The threat model of TMI itself is complete, names tests that exist, and is what its page says."""

import ast
import re
from collections import Counter
from functools import cache

import pytest

from api.schemas.base import UUID_PATTERN
from crdt.cells import checked
from tests.rest import over_memory
from tests.security import threat_model
from tests.security.threat_model import CATEGORIES, ROOT, STRIDE, cells, label, load, reasons, shown_by

DOCUMENT = load()
NAME = re.compile(r"[^<>\"'&\x00-\x1F]{1,256}")
METADATA_KEY = re.compile(r"[a-zA-Z0-9_./:-]{1,256}")


@cache
def functions_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


@pytest.mark.parametrize("cell", cells(DOCUMENT), ids=label)
def test_each_element_has_each_category_of_its_kind_or_a_reason(cell: threat_model.Json) -> None:
    threats = [threat for threat in DOCUMENT["threats"] if threat["cell_id"] == cell["id"]]
    found = {category for threat in threats for category in threat["threat_type"]}
    assert set() == found & set(reasons(cell)), "a category has both"
    assert set(STRIDE[cell["shape"]]) == found | set(reasons(cell))


@pytest.mark.parametrize("threat", DOCUMENT["threats"], ids=lambda threat: threat["name"])
def test_each_threat_has_a_mitigation_and_tests_that_exist(threat: threat_model.Json) -> None:
    assert threat["mitigation"].strip()
    named = shown_by(threat)
    assert named
    for test in named:
        path, _, name = test.partition("::")
        assert path.startswith("tests/"), test
        assert name.startswith("test_"), test
        assert name in functions_in(path), f"there is no {test}"


def test_the_document_is_within_the_bounds_of_the_contract() -> None:
    diagram, ids = DOCUMENT["diagrams"][0], {cell["id"] for cell in DOCUMENT["diagrams"][0]["cells"]}
    fields = {"name", "description", "threat_model_framework", "is_confidential"}
    assert fields == set(DOCUMENT["threat_model"])
    assert len(ids) == len(diagram["cells"]) == len(checked(diagram["cells"]))
    for cell in diagram["cells"]:
        assert re.fullmatch(UUID_PATTERN, cell["id"])
        assert {cell[end]["cell"] for end in ("source", "target") if end in cell} <= ids
        assert cell.get("parent") is None or cell["parent"] in ids
        if cell["shape"] != "flow":
            assert cell["width"] >= 40
            assert cell["height"] >= 30
        for item in cell["data"]["_metadata"]:
            assert METADATA_KEY.fullmatch(item["key"])
            assert 0 < len(item["value"]) <= 1024
    for threat in DOCUMENT["threats"]:
        assert NAME.fullmatch(threat["name"])
        assert 0 < len(threat["description"]) <= 2048
        assert "<" not in threat["description"]
        assert len(threat["mitigation"]) <= 1024
        assert threat["cell_id"] in ids
        assert diagram["id"] == threat["diagram_id"]
        assert set(threat["threat_type"]) <= set(CATEGORIES)
        for item in threat["metadata"]:
            assert METADATA_KEY.fullmatch(item["key"])
            assert 0 < len(item["value"]) <= 1024
    assert 1 == max(Counter(threat["name"] for threat in DOCUMENT["threats"]).values())


def test_the_page_says_what_the_document_says() -> None:
    assert threat_model.page(DOCUMENT) == threat_model.PAGE.read_text(encoding="utf-8"), (
        "write it anew: python -m tests.security.threat_model"
    )


async def test_the_service_takes_the_threat_model_of_itself() -> None:
    async with over_memory() as rest:
        alice = await rest.sign_in("alice")

        async def send(method: str, path: str, body: threat_model.Json) -> threat_model.Json:
            answer = await rest.call(method, path, alice, json_body=body)
            assert answer.status in (200, 201), answer.data
            return answer.json

        model = (await send("POST", "/threat_models", DOCUMENT["threat_model"]))["id"]
        ids = {}
        for diagram in DOCUMENT["diagrams"]:
            path = f"/threat_models/{model}/diagrams"
            made = await send("POST", path, {"name": diagram["name"], "type": diagram["type"]})
            ids[diagram["id"]] = made["id"]
            drawn = {"name": diagram["name"], "type": diagram["type"], "cells": diagram["cells"]}
            shown = await send("PUT", f"{path}/{made['id']}", drawn)
            assert [cell["id"] for cell in diagram["cells"]] == [cell["id"] for cell in shown["cells"]]
        for threat in DOCUMENT["threats"]:
            body = threat | {"diagram_id": ids[threat["diagram_id"]]}
            made = await send("POST", f"/threat_models/{model}/threats", body)
            kept = {name: made[name] for name in body if name != "metadata"}
            assert {name: value for name, value in body.items() if name != "metadata"} == kept
            assert sorted(shown_by(threat)) == sorted(shown_by(made))
        listed = (await rest.call("GET", f"/threat_models/{model}/threats?limit=1", alice)).json
        assert len(DOCUMENT["threats"]) == listed["total"]
