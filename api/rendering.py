"""Threat models and their children as answers, of what is stored as JSON already and stays so."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from api import schemas
from tmi.domain.children import StoredChild, listed
from tmi.domain.kinds import BY_NAME, Kind
from tmi.domain.model import ThreatModel, ThreatModelSummary
from tmi.domain.ports import Contents

_PLURALS = {kind.name: kind.plural for kind in BY_NAME.values()}


def whole(model: ThreatModel, contents: Contents | None = None) -> dict[str, Any]:
    """A threat model with what is in it, for `bodies.answer`."""
    body: dict[str, Any] = schemas.ThreatModelOutput.of(model).model_dump(exclude_none=True)
    if contents is None:
        return body
    diagrams = map(schemas.DiagramListItem.of, contents.diagrams)
    body["diagrams"] = [diagram.model_dump(exclude_none=True) for diagram in diagrams]
    id_ = str(model.id)
    texts: dict[str, list[str]] = {}
    for child in contents.children:
        texts.setdefault(child.kind, []).append(text_of(child, id_))
    body |= {_PLURALS[kind]: _list(of_kind) for kind, of_kind in texts.items()}
    return body


def models(found: Sequence[ThreatModelSummary], **counts: int) -> dict[str, Any]:
    """A page of the list of threat models, for `bodies.answer`."""
    items = [schemas.ThreatModelListItem.of(summary).model_dump(exclude_none=True) for summary in found]
    return {"threat_models": items, **counts}


def page(kind: Kind, model: str, found: Sequence[StoredChild], **counts: int) -> dict[str, Any]:
    """A page of children, for `bodies.answer`."""
    return {kind.plural: _list([text_of(child, model) for child in found]), **counts}


def text_of(child: StoredChild, model: str) -> str:
    """What `domain.children.shown` makes of a child, as JSON."""
    name, id_, alias, fields, metadata, auto_generated, created_at, modified_at, version = child
    kind = BY_NAME[name]
    created = moment(created_at)
    modified = created if modified_at == created_at else moment(modified_at)
    more = f',"version":{version}' if kind.has_version else ""
    if kind.shows_origin:
        more += ',"auto_generated":true' if auto_generated else ',"auto_generated":false'
    if name == "document":
        more += ',"access_status":"unknown"'
    return (
        f'{{"id":"{id_}","threat_model_id":"{model}","alias":{alias},{fields[1:-1]}'
        f'{"," if len(fields) > len("{}") else ""}"metadata":{_metadata(metadata)},'
        f'"created_at":"{created}","modified_at":"{modified}"{more}}}'
    )


def moment(at: datetime) -> str:
    """As orjson writes it with OPT_UTC_Z."""
    text = at.isoformat()
    return text[:-6] + "Z" if text.endswith("+00:00") else moment(at.astimezone(UTC))


def _list(texts: Sequence[str]) -> orjson.Fragment:
    return orjson.Fragment(f"[{','.join(texts)}]")


def _metadata(text: str) -> str:
    if text == "{}":
        return "[]"
    entries: Mapping[str, str] = orjson.loads(text)
    return orjson.dumps(listed(entries)).decode()
