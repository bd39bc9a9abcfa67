"""A threat model as one file: everything in it, in TMI's own JSON, to keep or to bring elsewhere.

`{"format": "tmi.threat-model", "version": 1, ...}` holds the `threat_model`, its `authorization`, the
children by their kinds (the table in `tmi/domain/kinds.py`), and `diagrams`. A diagram has its `document`, a
Yjs state in base64, its `seq`, and for readers its `cells`; with history every update with its author, and
the threat model's `events`.

People are named by provider and id there. On import, who has an account here is found again; edits of others
have no author here, and nobody gets an account by an import. What is deleted is left out, or comes along with
its `deleted_at`, and is as deleted where it is imported.

What is imported follows the rules for what clients write: what breaks them is refused, and Markdown is made
safe. So are past states in `events`, since a rollback brings them back. But nobody can correct these: those
that break a rule are left out, as if they were past their retention.

Ids are kept, so that a file restores what was; where they are taken, that is refused. Or all ids of objects
are made anew, wherever they are named: in fields, in past states, and in the cells, by an edit of each
document.
"""

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import orjson
from pydantic import BaseModel

from api import sanitising
from api.bodies import checked
from api.schemas import CHILD_BODIES, DiagramDetails, ImageInput, MetadataInput, ThreatModelInput
from crdt.diagram import reconcile
from crdt.document import Document
from crdt.reading import read_cells
from persistence.postgres.archive import COLUMNS, PostgresArchives, Rows
from tmi import drafts
from tmi.domain.errors import BadInput, TmiError
from tmi.domain.events import ChangeType, ObjectType
from tmi.domain.ids import ThreatModelId
from tmi.domain.kinds import BY_NAME, KINDS
from tmi.domain.model import User

Json = Any
Row = dict[str, Json]

FORMAT, VERSION = "tmi.threat-model", 1
MAX_BYTES = 512 * 1024 * 1024
"""Of a file."""
_SERVER = 4
"""The origin of an update that no person made."""


# --- export ---------------------------------------------------------------------------------------


async def exported(
    archives: PostgresArchives, model: ThreatModelId, *, history: bool, deleted: bool = False
) -> bytes:
    """The file of a threat model, with what is `deleted` in it if that is wanted. Raises NotFound."""
    tables = await archives.read(model, history=history, deleted=deleted)
    people = {row["id"]: _without(row, "id") for row in tables["people"]}
    (threat_model,) = tables["threat_models"]
    threat_model["created_by"] = people.get(threat_model["created_by"])
    children: dict[str, list[Row]] = {kind.plural: [] for kind in KINDS}
    for row in tables["children"]:
        children[BY_NAME[row["kind"]].plural].append(_without(row, "threat_model_id", "kind"))
    file = {
        "format": FORMAT,
        "version": VERSION,
        "by": f"tmi {version('tmi')}",
        "exported_at": datetime.now(UTC).isoformat(),
        "threat_model": threat_model,
        "authorization": [_without(row, "threat_model_id") for row in tables["grants"]],
        **children,
        "diagrams": [_diagram(row, tables, people, history=history) for row in tables["diagrams"]],
    }
    if history:
        file["events"] = [_without(row, "threat_model_id", "number", "actor_id") for row in tables["events"]]
    return orjson.dumps(file, option=orjson.OPT_INDENT_2) + b"\n"


def _diagram(row: Row, tables: Mapping[str, Rows], people: Mapping[str, Row], *, history: bool) -> Row:
    updates = [one for one in tables["diagram_updates"] if one["diagram_id"] == row["id"]]
    snapshot = next((one for one in tables["diagram_snapshots"] if one["diagram_id"] == row["id"]), None)
    start = 0 if snapshot is None else snapshot["seq"]
    state = None if snapshot is None else _from_hex(snapshot["state"])
    document = Document.load(state, [_from_hex(one["data"]) for one in updates if one["seq"] > start])
    shown = _without(row, "threat_model_id")
    shown["seq"] = max([start, *(one["seq"] for one in updates)])
    shown["cells"] = read_cells(document)
    shown["document"] = _to_base64(document.encode())
    if history:
        shown["updates"] = [
            {
                "seq": one["seq"],
                "author": people.get(one["author"]),
                "origin": one["origin"],
                "created_at": one["created_at"],
                "data": _to_base64(_from_hex(one["data"])),
            }
            for one in updates
        ]
    return shown


# --- import ---------------------------------------------------------------------------------------


async def imported(
    archives: PostgresArchives,
    data: bytes,
    *,
    new_ids: bool,
    owner: User | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[ThreatModelId, int]:
    """Store a file's threat model, all of it or nothing; its id and alias here. `tell` is called with what is
    left out.

    `owner`: of one that was written by hand (`tmi/drafts.py`). Raises BadInput for what is no such file, and
    Conflict where its ids are taken.
    """
    file = _parsed(data, owner)
    if new_ids:
        file = _renewed(file)
    try:
        tables = await _tables(archives, file, tell)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise BadInput(f"the file is damaged: {type(error).__name__}: {str(error)[:200]}") from None
    alias = None if new_ids else file["threat_model"].get("alias")
    taken = await archives.write(tables, alias=alias)
    return ThreatModelId(UUID(file["threat_model"]["id"])), taken


def _parsed(data: bytes, owner: User | None) -> dict[str, Json]:
    if len(data) > MAX_BYTES:
        raise BadInput(f"the file is larger than {MAX_BYTES // 1024 // 1024} MiB")
    try:
        file = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadInput(f"the file is no JSON: {error}") from None
    if isinstance(file, dict) and drafts.is_draft(file):
        if owner is None:
            raise BadInput("tmi export did not write this file: say with --owner whose it is to be")
        return {"format": FORMAT, "version": VERSION, **drafts.completed(file, owner)}
    if owner is not None:
        raise BadInput("an exported file says itself who owns it; leave the owner out")
    if not isinstance(file, dict) or file.get("format") != FORMAT:
        raise BadInput("the file is no exported threat model")
    if file.get("version") != VERSION:
        raise BadInput(f"the file's version is {file.get('version')!r}; this TMI reads version {VERSION}")
    if not isinstance(file.get("threat_model"), dict):
        raise BadInput("the file has no threat model in it")
    return file


async def _tables(
    archives: PostgresArchives, file: dict[str, Json], tell: Callable[[str], None]
) -> dict[str, Rows]:
    model = file["threat_model"]["id"]
    who = await _who(archives, file)
    tables: dict[str, Rows] = {table: [] for table in COLUMNS}
    creator = file["threat_model"].get("created_by")
    _check_text("threat_model", file["threat_model"])
    _check_text("authorization", file["authorization"])
    tables["threat_models"] = [{**_cleaned(file["threat_model"]), "created_by": who(creator)}]
    tables["grants"] = [{**row, "threat_model_id": model} for row in file["authorization"]]
    if not any(row["role"] == 3 and row["principal_type"] == "user" for row in tables["grants"]):
        raise BadInput("the threat model in the file has no owner")
    for kind in KINDS:
        for at, row in enumerate(file.get(kind.plural, ())):
            child = _checked_child(kind.name, at, row)
            tables["children"].append({**child, "threat_model_id": model, "kind": kind.name})
    for at, row in enumerate(file["diagrams"]):
        _check_text(f"diagrams.{at}", _without(row, "document", "updates", "cells", "renaming"))
        tables["diagrams"].append({**row, "threat_model_id": model})
        tables["diagram_updates"] += _updates(row, who)
    for at, row in enumerate(file.get("events", ())):
        event = _checked_event(at, row, tell)
        tables["events"].append({**event, "threat_model_id": model, "actor_id": who(row)})
    return tables


def _checked_child(kind: str, at: int, row: Row) -> Row:
    """By the rules for what clients write, its Markdown made safe as theirs is. Raises BadInput."""
    fields = dict(row["fields"])
    apart = BY_NAME[kind].apart
    if apart is not None and row.get("content") is not None:
        fields[apart] = row["content"]
    words = f"{BY_NAME[kind].plural}.{at} ({str(row.get('id'))[:64]})"
    try:
        clean = _clean(CHILD_BODIES[kind].input, fields)
    except TmiError as error:
        raise BadInput(f"{words}: {error.detail}") from None
    _check_text(words, row)
    kept = {**row, "fields": {name: clean[name] for name in row["fields"] if name in clean}}
    return kept if apart is None or apart not in fields else {**kept, "content": clean.get(apart)}


def _clean(schema: type[BaseModel], given: Mapping[str, Json]) -> Row:
    """What clients may write, made safe; without what then has no value. Raises what `checked` raises."""
    clean = checked(schema, given).model_dump(exclude_none=True)
    return {name: clean.get(name) for name, value in given.items() if name in clean or value is None}


def _checked_event(at: int, row: Row, tell: Callable[[str], None]) -> Row:
    """An entry of the trail, its state made safe, or without one. Raises BadInput."""
    words = f"events.{at} ({str(row.get('id'))[:64]})"
    _check_text(words, _without(row, "state"))
    try:
        object_type, _ = ObjectType(row["object_type"]), ChangeType(row["change_type"])
    except ValueError as error:
        raise BadInput(f"{words}: {error}") from None
    if row.get("state") is None:
        return row
    try:
        return {**row, "state": _checked_state(object_type, row["state"])}
    except (TmiError, TypeError, AttributeError, KeyError) as error:
        tell(f"{words}: its past state breaks the rules, and is left out: {str(error)[:200]}")
        return {**row, "state": None}


def _checked_state(object_type: ObjectType, state: Row) -> Row:
    """What a rollback may bring back. Raises BadInput."""
    _check_text("state", state)
    kept = _STATES[object_type]
    others = {name: value for name, value in state.items() if name in kept.others}
    if object_type is ObjectType.DIAGRAM and others.get("image") is not None:
        checked(ImageInput, _without(others["image"], "bytes"))
    checked(MetadataInput, state.get("metadata", []))
    return {**others, **_clean(kept.schema, _without(state, *kept.others))}


class _Kept(NamedTuple):
    """How the states of a kind of object are checked."""

    schema: type[BaseModel]
    others: frozenset[str] = frozenset({"metadata"})
    """What no rollback brings back, and what is checked apart."""


_STATES = {
    **{ObjectType(kind.name): _Kept(CHILD_BODIES[kind.name].input) for kind in KINDS},
    ObjectType.DIAGRAM: _Kept(DiagramDetails, frozenset({"metadata", "image"})),
    ObjectType.THREAT_MODEL: _Kept(
        ThreatModelInput,
        frozenset({"metadata", "authorization", "security_reviewer", "status", "is_confidential"}),
    ),
}


def _cleaned(model: Row) -> Row:
    """A threat model's row, its texts as clients may write them. Raises BadInput."""
    given = {name: model.get(name) for name in ("name", "description", "issue_uri")}
    try:
        clean = checked(ThreatModelInput, given)
    except TmiError as error:
        raise BadInput(f"threat_model: {error.detail}") from None
    return {**model, "name": clean.name, "description": clean.description, "issue_uri": clean.issue_uri}


def _check_text(words: str, node: Json) -> None:
    """Raises BadInput for a character that is not seen, wherever it is."""
    if isinstance(node, str):
        try:
            sanitising.checked(node)
        except ValueError as error:
            raise BadInput(f"{words}: {error}") from None
    elif isinstance(node, dict):
        for key, value in node.items():
            _check_text(words, key)
            _check_text(words, value)
    elif isinstance(node, list):
        for value in node:
            _check_text(words, value)


def _updates(row: Row, who: Callable[[Json], str | None]) -> Rows:
    """What a diagram's log begins with: its history, or its document as one update of the same number."""
    state = _from_base64(row["document"])
    document = Document.load(state, ())
    if document.rejected:
        raise BadInput(f"the document of diagram {row['id']} cannot be read")
    common = {"diagram_id": row["id"], "fence": 0}
    if "updates" in row:
        updates = [
            {**one, **common, "author": who(one["author"]), "data": _to_hex(_from_base64(one["data"]))}
            for one in row["updates"]
        ]
        if [one["seq"] for one in updates] != [*range(1, len(updates) + 1)]:
            raise BadInput(f"the history of diagram {row['id']} has gaps")
        told = [_from_base64(one["data"]) for one in row["updates"]]
        replayed = Document.load(None, [*told, _from_base64(row["renaming"])] if "renaming" in row else told)
        if replayed.rejected or read_cells(replayed) != read_cells(document):
            raise BadInput(f"the history of diagram {row['id']} does not lead to its document")
    elif row["seq"]:
        made = {**common, "seq": row["seq"], "origin": _SERVER, "author": None, "data": _to_hex(state)}
        updates = [{**made, "created_at": row["modified_at"]}]
    else:
        updates = []
    renaming = row.get("renaming")
    if renaming is not None:
        seq = (updates[-1]["seq"] if updates else 0) + 1
        now = datetime.now(UTC).isoformat()
        made = {**common, "seq": seq, "origin": _SERVER, "author": None, "created_at": now}
        updates.append({**made, "data": _to_hex(_from_base64(renaming))})
    return updates


async def _who(archives: PostgresArchives, file: dict[str, Json]) -> Callable[[Json], str | None]:
    """Finds accounts of this service."""
    named = [file["threat_model"].get("created_by"), *file.get("events", ())]
    named += [update["author"] for row in file["diagrams"] for update in row.get("updates", ())]
    people = {(p["provider"], p["provider_id"]): p for p in named if p is not None}
    known = await archives.known([*people.values()])

    def who(person: Json) -> str | None:
        found = None if person is None else known.get((person["provider"], person["provider_id"]))
        return None if found is None else str(found)

    return who


# --- new ids --------------------------------------------------------------------------------------


def _renewed(file: dict[str, Json]) -> dict[str, Json]:
    """The file with new ids for the threat model and all that is in it, wherever they are named.

    Raises BadInput.
    """
    try:
        old = [file["threat_model"]["id"], *(row["id"] for row in _objects(file))]
        new = {str(UUID(one)): str(uuid4()) for one in old}
        diagrams = [_with_renamed_cells(row, new) for row in file["diagrams"]]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadInput(f"the file is damaged: {type(error).__name__}: {str(error)[:200]}") from None
    kept = {**file, "diagrams": [_without(row, "document", "updates", "renaming") for row in diagrams]}
    renewed: dict[str, Json] = _replaced(kept, new)
    for row, before in zip(renewed["diagrams"], diagrams, strict=True):
        row.update({name: before[name] for name in ("document", "updates", "renaming") if name in before})
    return renewed


def _objects(file: dict[str, Json]) -> Iterable[Row]:
    for plural in (*(kind.plural for kind in KINDS), "diagrams", "events"):
        yield from file.get(plural, ())


def _with_renamed_cells(row: Row, new: Mapping[str, str]) -> Row:
    """A diagram with the edit that names others by their new ids, if it names any."""
    document = Document.load(_from_base64(row["document"]), ())
    update = reconcile(document, _replaced(read_cells(document), new))
    if update is None:
        return row
    return {**row, "document": _to_base64(document.encode()), "renaming": _to_base64(update)}


def _replaced(node: Json, new: Mapping[str, str]) -> Json:
    if isinstance(node, str):
        return new.get(node, node)
    if isinstance(node, list):
        return [_replaced(item, new) for item in node]
    return {key: _replaced(item, new) for key, item in node.items()} if isinstance(node, dict) else node


# --- bytes ----------------------------------------------------------------------------------------


def _without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}


def _from_hex(text: str) -> bytes:
    """As PostgreSQL writes bytes in JSON."""
    return bytes.fromhex(text.removeprefix("\\x"))


def _to_hex(data: bytes) -> str:
    return "\\x" + data.hex()


def _to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _from_base64(text: str) -> bytes:
    """Raises BadInput."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadInput("the file is damaged: a document is no base64") from None
