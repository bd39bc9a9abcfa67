"""The served OpenAPI document is a superset of the contract, but for what a page says with its reasons."""

import copy

from tests.api_contract import values
from tests.api_contract.differences import PAGE, Difference, differences, page, served
from tests.api_contract.digest import contract, digest


async def test_every_difference_from_the_contract_has_a_reason() -> None:
    found = differences(await served(), contract())
    assert [] == [(one.operation, one.what) for one in found if not one.reason]


async def test_the_page_of_differences_is_fresh() -> None:
    fresh = page(await served(), contract())
    assert fresh == PAGE.read_text(), "run `python -m tests.api_contract.differences`"


async def test_no_operation_of_the_contract_is_missing_and_the_page_says_so() -> None:
    ours, told = await served(), f"None of its {len(contract())} operations is missing."
    assert set() == contract().keys() - ours.keys()
    assert told in PAGE.read_text()
    assert "| `changes`<br>`changes_omitted`<br>`update_vector` |" in PAGE.read_text()
    del ours["GET /threat_models"]
    assert told not in page(ours, contract())


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
    del patch["values"]["200"]["description"]
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
        Difference(where, "answer 200: description is never given"),
        Difference(where, "answer 409 is never given"),
        Difference("GET /threat_models/{}/diagrams", "parameter query:secret is required"),
    } == lost


async def test_a_narrower_bound_a_wider_answer_and_a_lost_header_are_noticed() -> None:
    ours = await served()
    before = differences(ours, contract())
    poorer = copy.deepcopy(ours)
    listed, threat = poorer["GET /threat_models"], poorer["POST /threat_models/{}/threats"]
    model = poorer["GET /threat_models/{}"]
    limit, name = listed["bounds"]["query:limit"], threat["bounds"]["body:name"]
    limit["maximum"], limit["minimum"], limit["default"] = 50, 2, 10
    name |= {"maxLength": 20, "minLength": 3, "pattern": "^x$"}
    threat["bounds"]["body:description"].pop("nullable")
    threat["bounds"]["body:cwe_id"]["maxItems"] = 4
    threat["bounds"]["body:severity"] |= {"enum": ["high"], "type": ["string"]}
    threat["bounds"]["body:mitigated"]["type"] = ["string"]
    model["headers"]["200"].remove("ETag")
    model["values"]["200"]["authorization[].role"]["enum"].append("king")
    model["values"]["200"]["name"] |= {"nullable": True, "type": ["integer"]}
    created = "POST /threat_models/{}/threats"
    assert {
        Difference("GET /threat_models", "parameter query:limit: maximum 50 instead of 100"),
        Difference("GET /threat_models", "parameter query:limit: minimum 2 instead of 1"),
        Difference("GET /threat_models", "parameter query:limit: default 10 instead of 20"),
        Difference(created, "body: name: maxLength 20 instead of 256"),
        Difference(created, "body: name: minLength 3 instead of 1"),
        Difference(created, """body: name: pattern `^x$` instead of `^[^<>"'&]*$`"""),
        Difference(created, "body: description: null is not taken"),
        Difference(created, "body: cwe_id: maxItems 4 instead of 50"),
        Difference(created, "body: severity: only high are taken"),
        Difference(created, "body: mitigated: boolean is not taken"),
        Difference(created, "body: mitigated: string is taken, too"),
        Difference("GET /threat_models/{}", "answer 200: no header ETag"),
        Difference("GET /threat_models/{}", "answer 200: authorization[].role may be king"),
        Difference("GET /threat_models/{}", "answer 200: name may be integer"),
        Difference("GET /threat_models/{}", "answer 200: name may be null"),
    } == {*differences(poorer, contract())} - {*before}


async def test_a_bound_wider_than_the_contracts_is_noticed() -> None:
    ours = await served()
    before = differences(ours, contract())
    looser = copy.deepcopy(ours)
    listed, threat = looser["GET /threat_models"], looser["POST /threat_models/{}/threats"]
    model = looser["GET /threat_models/{}"]
    limit, name = listed["bounds"]["query:limit"], threat["bounds"]["body:name"]
    limit["maximum"], limit["minimum"] = 500, 0
    del name["maxLength"], name["minLength"], name["pattern"]
    threat["bounds"]["body:cwe_id"]["maxItems"] = 60
    threat["bounds"]["body:name"]["nullable"] = True
    threat["bounds"]["body:mitigated"]["type"] = ["boolean", "string"]
    del model["bounds"]["path:0"]["format"]
    created = "POST /threat_models/{}/threats"
    assert {
        Difference("GET /threat_models", "parameter query:limit: maximum 500, wider than 100"),
        Difference("GET /threat_models", "parameter query:limit: minimum 0, wider than 1"),
        Difference(created, "body: name: maxLength none, wider than 256"),
        Difference(created, "body: name: minLength none, wider than 1"),
        Difference(created, """body: name: whatever does not match `^[^<>"'&]*$` is taken, too"""),
        Difference(created, "body: name: null is taken, too"),
        Difference(created, "body: cwe_id: maxItems 60, wider than 50"),
        Difference(created, "body: mitigated: string is taken, too"),
        Difference("GET /threat_models/{}", "parameter path:0: what is no uuid is taken, too"),
    } == {*differences(looser, contract())} - {*before}


def test_of_a_value_more_words_and_repetitions_are_noticed_and_a_form_bounds_its_length() -> None:
    theirs: values.Facts = {"enum": ["a"], "type": ["string"]}
    assert ["taken are also b"] == [*values.taken({"enum": ["a", "b"], "type": ["string"]}, theirs)]
    assert ["taken are also any word"] == [*values.taken({"type": ["string"]}, theirs)]
    theirs = {"maxLength": 36, "type": ["string"], "format": "uuid"}
    assert [] == [*values.taken({"pattern": "^x{36}$", "type": ["string"]}, theirs)]
    assert ["values twice are taken, too"] == [
        *values.taken({"type": ["array"]}, {"type": ["array"], "uniqueItems": True})
    ]


def test_of_alternatives_the_widest_counts_and_of_parts_the_narrowest() -> None:
    schema = {
        "allOf": [{"maxLength": 9, "minLength": 1}, {"maxLength": 7, "type": "string"}],
        "properties": {
            "a": {"oneOf": [{"type": "string", "maxLength": 3}, {"type": "string", "maxLength": 5}]},
            "b": {"anyOf": [{"type": "integer", "minimum": 2}, {"type": "null"}]},
            "c": {"type": "number", "maximum": 1, "exclusiveMaximum": True},
            "d": {"type": ["string", "null"], "enum": ["y", "x", None]},
            "e": {"type": "array", "items": {"const": 1}},
        },
    }
    assert {
        "": {"maxLength": 7, "minLength": 1, "type": ["string"]},
        "a": {"maxLength": 5, "type": ["string"]},
        "b": {"minimum": 2, "type": ["integer"], "nullable": True},
        "c": {"exclusiveMaximum": 1, "type": ["number"]},
        "d": {"enum": ["x", "y"], "type": ["string"], "nullable": True},
        "e": {"type": ["array"]},
        "e[]": {"enum": [1]},
    } == values.fields(schema, lambda node: node, 4)


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
            "bounds": {"body:": {"type": ["array"]}},
            "answers": {"200": ["p"]},
            "headers": {"200": []},
            "gives": {"200": ["application/json"]},
            "values": {"200": {"": {"nullable": True}}},
        }
    } == digest(document)
