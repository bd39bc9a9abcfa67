"""The served OpenAPI document is a superset of the contract, but for what a page says with its reasons."""

import copy

from tests.api_contract.differences import PAGE, Difference, differences, page, served
from tests.api_contract.digest import contract, digest


async def test_every_difference_from_the_contract_has_a_reason() -> None:
    found = differences(await served(), contract())
    assert [] == [(one.operation, one.what) for one in found if not one.reason]


async def test_the_page_of_differences_is_fresh() -> None:
    fresh = page(await served(), contract())
    assert fresh == PAGE.read_text(), "run `python -m tests.api_contract.differences`"


async def test_a_lost_operation_parameter_field_or_status_is_noticed() -> None:
    ours = await served()
    before = differences(ours, contract())
    assert 150 < len(contract())
    poorer = copy.deepcopy(ours)
    del poorer["GET /threat_models"]
    patch, listed = poorer["PATCH /threat_models/{}/diagrams/{}"], poorer["GET /threat_models/{}/diagrams"]
    patch["parameters"].remove("header:if-match")
    patch["takes"] = ["application/json"]
    patch["body"].remove("[].value")
    patch["answers"]["200"].remove("cells")
    del patch["answers"]["409"]
    listed["parameters"].append("query:secret!")
    lost = {*differences(poorer, contract())} - {*before}
    where = "PATCH /threat_models/{}/diagrams/{}"
    assert {
        Difference("GET /threat_models", "missing"),
        Difference(where, "parameter header:if-match is not taken"),
        Difference(where, "body: application/json-patch+json is not taken"),
        Difference(where, "body: [].value is not known"),
        Difference(where, "answer 200: cells may be missing"),
        Difference(where, "answer 409 is never given"),
        Difference("GET /threat_models/{}/diagrams", "parameter query:secret is required"),
    } == lost


def test_fields_are_found_through_references_parts_and_alternatives() -> None:
    schemas = {
        "A": {"properties": {"id": {}, "b": {"$ref": "#/components/schemas/B"}}, "required": ["id", "b"]},
        "B": {"allOf": [{"properties": {"x": {}}, "required": ["x"]}, {"properties": {"y": {}}}]},
        "C": {"oneOf": [{"properties": {"p": {}}, "required": ["p"]}, {"type": "null"}]},
    }
    body = {"type": "array", "items": {"$ref": "#/components/schemas/A"}}
    answer = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/C"}}}}
    operation = {
        "requestBody": {"content": {"application/json": {"schema": body}}},
        "responses": {"200": answer},
    }
    document = {"paths": {"/a/{id}": {"post": operation}}, "components": {"schemas": schemas}}
    assert {
        "POST /a/{}": {
            "parameters": [],
            "takes": ["application/json"],
            "body": ["[].b!", "[].b.x!", "[].b.y", "[].id!"],
            "answers": {"200": ["p"]},
        }
    } == digest(document)
