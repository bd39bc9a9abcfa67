"""Links of the OpenAPI document (OpenAPI 3.1, section 4.8.20): from an answer to what can be done with it.

Made by one rule, from the paths alone. What a `POST` to a collection creates has an id; whatever operation
has that id as its path's next parameter, and no parameter after it, is linked. So a new threat leads to
reading, replacing, patching, deleting and restoring it, to its metadata and to its trail, without a line here
for threats. Where nothing is created so, the first of a list leads on: an audit trail's newest entry, a room.
"""

import re
from collections.abc import Mapping
from typing import Any

Json = Any

_IDS = ("user_internal_uuid", "id", "internal_uuid", "key", "user_id")
"""What ids are called, in this order."""
_PARAMETER = re.compile(r"{(\w+)}")
_METHODS = ("get", "put", "post", "patch", "delete")


def add_links(document: dict[str, Json]) -> None:
    """Give the answers of a document their links."""
    paths, schemas = document["paths"], document["components"]["schemas"]
    for path, operations in paths.items():
        made = operations.get("post", {}).get("responses", {}).get("201")
        answer = made or operations.get("get", {}).get("responses", {}).get("200", {})
        found = _id_in(_schema_of(answer, schemas), schemas)
        # Whoever reads one thing has its id already.
        if found is not None and (made or "/" in found):
            _add(answer, path, found, paths)


def _add(answer: dict[str, Json], path: str, pointer: str, paths: Mapping[str, Json]) -> None:
    known = {name: f"$request.path.{name}" for name in _PARAMETER.findall(path)}
    links = {}
    for target, operations in paths.items():
        below = re.match(rf"{re.escape(path)}/{{(\w+)}}(/|$)", target)
        if below is None or set(_PARAMETER.findall(target)) != {*known, below[1]}:
            continue
        parameters = {**known, below[1]: f"$response.body#/{pointer}"}
        for method in _METHODS:
            if method in operations:
                name = operations[method]["operationId"]
                links[name] = {"operationId": name, "parameters": parameters}
    if links:
        answer["links"] = links


def _schema_of(answer: Mapping[str, Json], schemas: Mapping[str, Json]) -> Mapping[str, Json]:
    content = answer.get("content", {}).get("application/json", {})
    return _resolved(content.get("schema", {}), schemas)


def _resolved(schema: Json, schemas: Mapping[str, Json]) -> Mapping[str, Json]:
    while "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    found: Mapping[str, Json] = schema
    return found


def _id_in(schema: Mapping[str, Json], schemas: Mapping[str, Json]) -> str | None:
    """Where an id is in a body, as a JSON Pointer: its own, or that of the first of a list in it."""
    properties = schema.get("properties", {})
    own = next((name for name in _IDS if name in properties), None)
    if own is not None:
        return own
    lists = [(f"{name}/0", one) for name, one in properties.items() if one.get("type") == "array"]
    if schema.get("type") == "array":
        lists.append(("0", schema))
    for pointer, one in lists:
        items = _resolved(one.get("items", {}), schemas).get("properties", {})
        for name in _IDS:
            if name in items:
                return f"{pointer}/{name}"
    return None
