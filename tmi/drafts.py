"""Threat models that somebody wrote by hand, in the words of the API: `tmi import` takes them as well.

`{"threat_model": {...}, "diagrams": [{"id", "name", "type", "cells"}], "threats": [...], ...}` holds what
clients would send: the bodies of `POST /threat_models`, of each diagram and of each child. The ids of
diagrams and children are the file's own, so that others can name them, and may be left out. Nobody owns such
a file, so whoever imports it names the owner.
"""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from pydantic import BaseModel

from api import schemas
from api.bodies import checked
from api.diagram_changes import check_cells
from crdt.diagram import reconcile
from crdt.document import Document
from tmi.domain.errors import BadInput, TmiError
from tmi.domain.kinds import KINDS
from tmi.domain.model import User
from tmi.domain.roles import Role

Json = Any
Row = dict[str, Json]

_PLURALS = ("diagrams", *(kind.plural for kind in KINDS))


def is_draft(file: Mapping[str, Json]) -> bool:
    """Whether this was written by hand, and not by `tmi export`."""
    return "format" not in file and "threat_model" in file


def completed(file: Mapping[str, Json], owner: User) -> Row:
    """All that the file of `tmi export` would have. Raises BadInput, which names the place."""
    if unknown := sorted(file.keys() - {"threat_model", *_PLURALS}):
        raise BadInput(f"the file has {unknown[0]!r}; it may have threat_model, {', '.join(_PLURALS)}")
    for plural in _PLURALS:
        rows = file.get(plural, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise BadInput(f"{plural} is to be a list of objects")
    now = datetime.now(UTC).isoformat()
    made: Row = {"diagrams": []}
    for at, row in enumerate(file.get("diagrams", [])):
        made["diagrams"].append(_diagram(f"diagrams.{at}", row, at + 1, now))
    for kind in KINDS:
        made[kind.plural] = []
        for at, row in enumerate(file.get(kind.plural, [])):
            words, (key, body) = f"{kind.plural}.{at}", _with_key(row)
            draft, _ = schemas.draft_of(kind, _as(words, schemas.CHILD_BODIES[kind.name].input, body))
            fields = dict(draft.fields)
            content = fields.pop(kind.apart, None) if kind.apart is not None else None
            common = {"id": key, "alias": at + 1, "created_at": now, "modified_at": now, "version": 1}
            made[kind.plural].append(
                {**common, "fields": fields, "content": content, "metadata": dict(draft.metadata)}
            )
    _check_references(made)
    given = _as("threat_model", schemas.ThreatModelInput, file["threat_model"])
    if given.authorization:
        raise BadInput("threat_model: leave authorization out; the owner is who you name")
    made["threat_model"] = {
        "id": str(uuid4()),
        "name": given.name,
        "description": given.description,
        "threat_model_framework": given.threat_model_framework or schemas.DEFAULT_FRAMEWORK,
        "issue_uri": given.issue_uri,
        "is_confidential": given.is_confidential,
        "created_by": _person(owner),
        "created_at": now,
        "modified_at": now,
        "version": 1,
        "last_diagram_alias": len(made["diagrams"]),
        "status": schemas.DEFAULT_STATUS,
        "metadata": {entry.key: entry.value for entry in given.metadata or ()},
    }
    grant = {"position": 0, "principal_type": "user", "display_name": owner.name, "role": int(Role.OWNER)}
    person = {"provider": owner.provider, "provider_id": owner.provider_id, "email": owner.email}
    return {**made, "authorization": [{**grant, **person}]}


def _diagram(words: str, row: Row, alias: int, now: str) -> Row:
    key, body = _with_key(row)
    cells = body.pop("cells", [])
    if not isinstance(cells, list):
        raise BadInput(f"{words}.cells is to be a list")
    given = _as(words, schemas.DiagramDetails, body)
    if given.image is not None or given.metadata or given.color_palette:
        raise BadInput(f"{words}: image, metadata and color_palette are not taken; write them afterwards")
    document = Document()
    try:
        check_cells(cells, {})
        reconcile(document, cells)
    except TmiError as error:
        raise BadInput(f"{words}.cells: {error.detail}") from None
    return {
        "id": key,
        "alias": alias,
        "name": given.name,
        "type": given.type,
        "created_at": now,
        "modified_at": now,
        "version": 1,
        "description": given.description,
        "include_in_report": given.include_in_report,
        "timmy_enabled": given.timmy_enabled,
        "metadata": {},
        "seq": 1 if cells else 0,
        "document": base64.b64encode(document.encode()).decode(),
    }


def _with_key(row: Row) -> tuple[str, Row]:
    """Its id in lower case, and the rest. Raises BadInput."""
    body = dict(row)
    given = body.pop("id", None)
    if given is None:
        return str(uuid4()), body
    try:
        return str(UUID(given)), body
    except (ValueError, AttributeError, TypeError):
        raise BadInput(f"the id {str(given)[:64]!r} is no UUID") from None


def _as(words: str, schema: type[BaseModel], body: Json) -> Any:
    try:
        return checked(schema, body)
    except TmiError as error:
        raise BadInput(f"{words}: {error.detail}") from None


def _check_references(made: Row) -> None:
    """Raises BadInput for ids that are there twice, and for fields that name what is not there."""
    keys = {plural: [row["id"] for row in made[plural]] for plural in _PLURALS}
    every = [key for some in keys.values() for key in some]
    if len(set(every)) < len(every):
        raise BadInput("an id is there twice")
    for kind in KINDS:
        for at, row in enumerate(made[kind.plural]):
            for name, plural in (("diagram_id", "diagrams"), ("asset_id", "assets")):
                named = row["fields"].get(name)
                if named is None:
                    continue
                row["fields"][name] = str(named).lower()
                if row["fields"][name] not in keys[plural]:
                    raise BadInput(f"{kind.plural}.{at}: {name} names what is not in the file's {plural}")


def _person(user: User) -> Row:
    return {
        "provider": user.provider,
        "provider_id": user.provider_id,
        "email": user.email,
        "name": user.name,
    }
