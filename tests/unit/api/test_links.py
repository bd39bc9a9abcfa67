"""Links of the OpenAPI document: they are there for every kind, and lead where they say."""

import re
from collections.abc import Mapping
from typing import Any

from tests.rest import RestClient, over_memory
from tests.security.test_role_matrix_entities import BODIES
from tmi.domain.kinds import KINDS

Json = Any

DIAGRAM = {"name": "Flow", "type": "DFD-1.0.0"}


async def document(rest: RestClient) -> Json:
    return (await rest.call("GET", "/openapi.json")).json


def operations(found: Json) -> dict[str, tuple[str, str]]:
    return {
        operation["operationId"]: (method.upper(), path)
        for path, methods in found["paths"].items()
        for method, operation in methods.items()
    }


def followed(template: str, link: Json, request: Mapping[str, str], answer: Json) -> str:
    """The path to which a link leads."""

    def value(name: str) -> str:
        expression = link["parameters"][name]
        if expression.startswith("$request.path."):
            return request[expression.removeprefix("$request.path.")]
        found = answer
        for step in expression.removeprefix("$response.body#/").split("/"):
            found = found[int(step)] if step.isdigit() else found[step]
        return str(found)

    return re.sub(r"{(\w+)}", lambda match: value(match[1]), template)


async def test_what_is_created_leads_to_all_that_can_be_done_with_it() -> None:
    async with over_memory() as rest:
        alice, found = await rest.sign_in("alice"), await document(rest)
        by_id = operations(found)
        model = await rest.create_model(alice)
        collections = {"diagrams": DIAGRAM} | {kind.plural: BODIES[kind.name] for kind in KINDS}
        tried = 0
        for plural, body in collections.items():
            path = f"/threat_models/{{threat_model_id}}/{plural}"
            links = found["paths"][path]["post"]["responses"]["201"]["links"]
            made = await rest.call("POST", f"/threat_models/{model['id']}/{plural}", alice, json_body=body)
            shapes = set()
            for name, link in links.items():
                method, template = by_id[name]
                target = followed(template, link, {"threat_model_id": model["id"]}, made.json)
                assert target.startswith(f"/threat_models/{model['id']}/{plural}/{made.json['id']}")
                shapes.add((method, re.sub(r".*}", "", template)))
                if method == "GET" and not template.endswith("/collaborate"):
                    assert 200 == (await rest.call("GET", target, alice)).status, target
                    tried += 1
            wanted = {(method, "") for method in ("GET", "PUT", "PATCH", "DELETE")}
            wanted |= {("POST", "/restore"), ("GET", "/audit_trail")}
            wanted |= {("GET", "/metadata"), ("POST", "/metadata")}
            wanted |= {(method, "/metadata/bulk") for method in ("POST", "PUT", "PATCH")}
            assert wanted <= shapes, plural
        assert 3 * len(collections) <= tried


async def test_a_key_and_an_entry_of_a_trail_lead_on() -> None:
    async with over_memory() as rest:
        alice, found = await rest.sign_in("alice"), await document(rest)
        by_id = operations(found)
        model = (await rest.create_model(alice))["id"]
        sources = (
            ("post", "/threat_models/{threat_model_id}/metadata", "201", {"key": "a", "value": "b"}),
            ("get", "/threat_models/{threat_model_id}/audit_trail", "200", ...),
        )
        for method, path, status, body in sources:
            links = found["paths"][path][method]["responses"][status]["links"]
            answer = await rest.call(
                method.upper(), path.format(threat_model_id=model), alice, json_body=body
            )
            reads = [(name, link) for name, link in links.items() if by_id[name][0] == "GET"]
            for name, link in reads:
                target = followed(by_id[name][1], link, {"threat_model_id": model}, answer.json)
                assert 200 == (await rest.call("GET", target, alice)).status, target
            assert reads


async def test_links_name_operations_that_are_there_and_all_their_paths_parameters() -> None:
    async with over_memory() as rest:
        found = await document(rest)
    by_id = operations(found)
    links = [
        link
        for methods in found["paths"].values()
        for operation in methods.values()
        for answer in operation["responses"].values()
        for link in answer.get("links", {}).values()
    ]
    assert 150 < len(links)
    for link in links:
        _, path = by_id[link["operationId"]]
        assert set(re.findall(r"{(\w+)}", path)) == link["parameters"].keys()
