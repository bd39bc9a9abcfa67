"""What an OpenAPI document promises, as bare facts: paths, methods, parameters, fields, statuses.

`tmi-1.8.22.json` beside this file is the digest of the core of TMI's OpenAPI 1.8.22 (github.com/ericfitz/tmi,
Apache-2.0), made by `python -m tests.api_contract.digest DOCUMENT > tests/api_contract/tmi-1.8.22.json`.

Of an operation: `parameters` as `place:name`, with `!` where they are required; `takes`, the media types of
the body, and `body`, its fields; `bounds`, what values these take (`values.py`); `answers`, by status the
fields that are always there; `headers`, `gives` (media types) and `values` of answers likewise. Fields are
named from the top, `threats[].id`; `!` marks those that a body requires. Of alternatives (`oneOf`), fields
are required where all of them require these.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.api_contract import values

Json = Any
Digest = dict[str, dict[str, Json]]

METHODS = ("get", "put", "post", "patch", "delete")
_DEPTH = 4


def digest(document: Mapping[str, Json]) -> Digest:
    """By operation (`GET /path`), its facts."""
    reader = _Reader(document)
    return {
        f"{method.upper()} {_unnamed(path)}": reader.operation(path_item, path_item[method])
        for path, path_item in sorted(document["paths"].items())
        for method in METHODS
        if method in path_item
    }


def _unnamed(path: str) -> str:
    """A path whatever its parameters are called."""
    return re.sub(r"{\w+}", "{}", path)


def _json_of(answer: Mapping[str, Json]) -> Mapping[str, Json]:
    content = answer.get("content", {})
    media: Mapping[str, Json] = content.get("application/json") or next(iter(content.values()), {})
    return media


class _Reader:
    def __init__(self, document: Mapping[str, Json]) -> None:
        self._document = document

    def resolved(self, node: Json) -> Json:
        """What a reference leads to."""
        while isinstance(node, dict) and "$ref" in node:
            found: Json = self._document
            for step in node["$ref"].removeprefix("#/").split("/"):
                found = found[step]
            node = found
        return node

    def operation(self, path_item: Mapping[str, Json], operation: Mapping[str, Json]) -> dict[str, Json]:
        facts: dict[str, Json] = {"parameters": sorted(self._parameters(path_item, operation))}
        bounds = self._bounds(path_item, operation)
        body = self.resolved(operation.get("requestBody"))
        if body is not None:
            content = body["content"]
            facts["takes"] = sorted(content)
            fields = [self._fields(media.get("schema", {})) for media in content.values()]
            facts["body"] = sorted(
                name + ("!" if all(one.get(name) for one in fields) else "")
                for name in {name for one in fields for name in one}
            )
            for media in content.values():
                for name, one in self._values(media.get("schema", {})).items():
                    bounds[f"body:{name}"] = one
        facts["bounds"] = bounds
        facts["answers"] = {
            status: self._promised(self.resolved(answer))
            for status, answer in sorted(operation["responses"].items())
        }
        facts["headers"] = {
            status: sorted(self.resolved(answer).get("headers", ()))
            for status, answer in sorted(operation["responses"].items())
        }
        facts["gives"] = {
            status: sorted(self.resolved(answer).get("content", ()))
            for status, answer in sorted(operation["responses"].items())
            if status < "400" and self.resolved(answer).get("content")
        }
        facts["values"] = {
            status: self._told(self.resolved(answer))
            for status, answer in sorted(operation["responses"].items())
            if status < "400" and self._told(self.resolved(answer))
        }
        return facts

    def _bounds(self, *holders: Mapping[str, Json]) -> values.Fields:
        """Of parameters, those of the path in its order."""
        found: values.Fields = {}
        for holder in holders:
            for parameter in map(self.resolved, holder.get("parameters", ())):
                name = parameter["name"].lower() if parameter["in"] == "header" else parameter["name"]
                if parameter["in"] == "path":
                    name = str(sum(one.startswith("path:") for one in found))
                for below, facts in self._values(parameter.get("schema", {})).items():
                    found[f"{parameter['in']}:{name}{below}"] = facts
        return found

    def _values(self, schema: Json) -> values.Fields:
        return {name: facts for name, facts in values.fields(schema, self.resolved, _DEPTH).items() if facts}

    def _told(self, answer: Mapping[str, Json]) -> values.Fields:
        """What is compared of the values of answers."""
        schema = _json_of(answer).get("schema", {})
        kept = {
            name: {key: fact for key, fact in facts.items() if key in ("type", "enum", "nullable")}
            for name, facts in self._values(schema).items()
        }
        return {name: facts for name, facts in kept.items() if facts}

    def _parameters(self, *holders: Mapping[str, Json]) -> Iterator[str]:
        for holder in holders:
            for parameter in map(self.resolved, holder.get("parameters", ())):
                if parameter["in"] != "path":
                    name = parameter["name"].lower() if parameter["in"] == "header" else parameter["name"]
                    yield f"{parameter['in']}:{name}{'!' if parameter.get('required') else ''}"

    def _promised(self, answer: Mapping[str, Json]) -> list[str]:
        schema = _json_of(answer).get("schema", {})
        return sorted(name for name, required in self._fields(schema).items() if required)

    def _fields(self, schema: Json, depth: int = _DEPTH) -> dict[str, bool]:
        """A schema's fields, and whether they are required together with all around them."""
        schema = self.resolved(schema)
        fields: dict[str, bool] = {}
        if depth == 0 or not isinstance(schema, dict):
            return fields
        required = schema.get("required", ())
        for name, inner in schema.get("properties", {}).items():
            fields[name] = name in required
            for below, is_required in self._fields(inner, depth - 1).items():
                joined = name + below if below.startswith("[]") else f"{name}.{below}"
                fields[joined] = is_required
        if "items" in schema:
            for below, is_required in self._fields(schema["items"], depth - 1).items():
                fields[f"[]{below}" if below.startswith("[]") else f"[].{below}"] = is_required
        for part in schema.get("allOf", ()):
            for name, is_required in self._fields(part, depth).items():
                fields[name] = fields.get(name, False) or is_required
        for name in required:
            if name in fields:
                fields[name] = True
        self._add_alternatives(fields, schema, depth)
        return fields

    def _add_alternatives(self, fields: dict[str, bool], schema: Mapping[str, Json], depth: int) -> None:
        for word in ("oneOf", "anyOf"):
            parts = [part for part in schema.get(word, ()) if self.resolved(part).get("type") != "null"]
            alternatives = [self._fields(part, depth) for part in parts]
            for name in {name for one in alternatives for name in one}:
                is_required = all(one.get(name, False) for one in alternatives)
                fields[name] = fields.get(name, False) or is_required


def contract() -> Digest:
    """The contract's."""
    text = (Path(__file__).parent / "tmi-1.8.22.json").read_text()
    found: Digest = json.loads(text)
    return found


if __name__ == "__main__":
    made = digest(json.loads(Path(sys.argv[1]).read_text()))
    lines = (f"{json.dumps(one)}: {json.dumps(made[one], separators=(',', ':'))}" for one in made)
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")
