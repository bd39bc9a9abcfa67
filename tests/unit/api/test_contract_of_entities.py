"""The OpenAPI document against the published contract, for threat models and what is in them.

`contract_of_entities.txt` holds the contract's facts, one a line. Ours has them all, but for the differences
that are listed here with their reasons.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.rest import Json, over_memory

FACTS = (Path(__file__).parent / "contract_of_entities.txt").read_text().splitlines()
OPERATIONS = [line.split(" | ") for line in FACTS if " | " in line]
FIELDS = [line for line in FACTS if " | " not in line and not line.startswith("#")]

BOUNDS = (
    "nullable",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "multipleOf",
    "maxItems",
    "uniqueItems",
    "default",
)
SCHEMAS = {
    "threat": ("ThreatInput", "Threat"),
    "asset": ("AssetInput", "Asset"),
    "document": ("DocumentInput", "Document"),
    "note": ("NoteInput", "Note"),
    "repository": ("RepositoryInput", "Repository"),
    "threat_model": ("ThreatModelInput", "ThreatModelOutput"),
    "listed threat_model": (None, "ThreatModelListItem"),
}

STATUSES_LEFT_OUT = (
    # What is new, what has no version and metadata that replace others contradict nothing.
    (r"(create|bulkCreate)ThreatModel(Asset|Document|Note|Repositor|Repository|Threat)(s|ies)?", "409"),
    (r"updateThreatModel(Note|Repository)|bulkUpdateThreatModelThreats", "409"),
    (r"(update|bulkUpsert|bulkReplace)\w*Metadata(ByKey)?", "409"),
    # No content is extracted from documents.
    (r"createThreatModelDocument", "202"),
)
NEVER_ANSWERED = {
    # There are no projects, and documents are not looked at.
    "threat_model": {"project_id"},
    "document": {"access_diagnostics", "access_status_updated_at"},
}
DIFFERENT = {
    # An id is a UUID in its usual form; nothing is another word for none.
    *(f"threat.{name}_id" for name in ("asset", "cell", "diagram")),
    # The pattern keeps control characters out as well.
    "threat_model.authorization[].provider_id",
    # What is left out is no: the contract does not say.
    "threat.mitigated",
    # None is taken as well.
    "threat_model.authorization[].display_name",
    "threat_model.authorization[].email",
}


@pytest.fixture(scope="module")
def document() -> Any:
    import asyncio

    async def read() -> Json:
        async with over_memory() as rest:
            return (await rest.call("GET", "/openapi.json")).json

    return asyncio.run(read())


@pytest.mark.parametrize("line", OPERATIONS, ids=lambda line: line[1])
def test_an_operation_is_there_with_its_parameters_and_statuses(document: Json, line: list[str]) -> None:
    (method, path), name = line[0].split(" "), line[1]
    parameters, statuses = line[2].split(), line[3].split()

    ours = document["paths"][path][method.lower()]

    assert name == ours["operationId"]
    have = {parameter["name"].lower().replace("_", "-") for parameter in ours["parameters"]}
    assert {parameter.lower().replace("_", "-") for parameter in parameters} <= have
    left_out = {status for pattern, status in STATUSES_LEFT_OUT if re.fullmatch(pattern, name)}
    assert set(statuses) - left_out <= ours["responses"].keys()


@pytest.mark.parametrize("kind", SCHEMAS)
def test_fields_are_those_of_the_contract_with_its_bounds(document: Json, kind: str) -> None:
    input_, output = SCHEMAS[kind]
    schemas = document["components"]["schemas"]
    ours = set(_facts(kind, {"$ref": f"#/components/schemas/{input_}"}, schemas)) if input_ else set()
    expected = {line for line in FIELDS if line.startswith((f"{kind}.", f"{kind}:", f"{kind} requires"))}

    different = expected - ours

    assert not {line for line in different if line.partition(":")[0] not in DIFFERENT}
    assert DIFFERENT >= {line.partition(":")[0] for line in different}
    (answers,) = [line for line in FIELDS if line.startswith(f"{kind} answers ")]
    fields = set(answers.removeprefix(f"{kind} answers ").split())
    assert fields - NEVER_ANSWERED.get(kind, set()) <= schemas[output]["properties"].keys()


def _facts(path: str, schema: Json, schemas: Json) -> list[str]:
    """A schema in the words of the table."""
    nullable = False
    while "$ref" in schema or "anyOf" in schema:
        kinds = schema.get("anyOf") or [schemas[schema["$ref"].rpartition("/")[2]]]
        nullable = nullable or {"type": "null"} in kinds
        schema = kinds[0]
    schema = {**schema, "nullable": True} if nullable else schema
    words = [schema["type"]]
    words += [f"{name}={json.dumps(schema[name])}" for name in BOUNDS if name in schema]
    if "enum" in schema:
        words.append("enum=" + "/".join(schema["enum"]))
    if "pattern" in schema:
        words.append("pattern=" + schema["pattern"].replace(r"\"", '"'))
    facts = [f"{path}: {' '.join(words)}"]
    if "items" in schema:
        facts += _facts(f"{path}[]", schema["items"], schemas)
    if schema["type"] == "object":
        facts.append(f"{path} requires {' '.join(sorted(schema.get('required', [])))}")
        for name, field in schema.get("properties", {}).items():
            facts += _facts(f"{path}.{name}", field, schemas)
    return facts
