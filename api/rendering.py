"""Threat models and their children as answers, in the shapes of `api.schemas`.

What is stored as JSON already stays so; and what this service knows to be right is not checked again by
pydantic, which takes longer than all else. `tests/unit/api/test_rendering.py` compares both.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from api import schemas
from tmi.domain.children import StoredChild, listed
from tmi.domain.kinds import BY_NAME, Kind
from tmi.domain.model import ThreatModel, ThreatModelSummary, User
from tmi.domain.ports import Contents
from tmi.domain.roles import Grant, Principal

_WHOLE = len("2026-11-26 12:00:00.123456+00")
_PLURALS = {kind.name: kind.plural for kind in BY_NAME.values()}


def whole(model: ThreatModel, contents: Contents) -> dict[str, Any]:
    """A threat model with what is in it, for `bodies.answer`."""
    body = {
        **_head(model),
        "is_confidential": model.is_confidential,
        "authorization": [_granted(grant) for grant in model.grants],
        "metadata": listed(model.metadata),
        "version": model.version,
        **{plural: [] for plural in _PLURALS.values()},
    }
    diagrams = map(schemas.DiagramListItem.of, contents.diagrams)
    body["diagrams"] = [diagram.model_dump(exclude_none=True) for diagram in diagrams]
    id_ = str(model.id)
    texts: dict[str, list[str]] = {}
    for child in contents.children:
        texts.setdefault(child.kind, []).append(text_of(child, id_))
    return body | {_PLURALS[kind]: _list(of_kind) for kind, of_kind in texts.items()}


def models(found: Sequence[ThreatModelSummary], **counts: int) -> dict[str, Any]:
    """A page of the list of threat models, for `bodies.answer`."""
    items = [
        {**_head(summary.model), **{name: summary.counts.get(kind, 0) for kind, name in _COUNTS}}
        for summary in found
    ]
    return {"threat_models": items, **counts}


_COUNTS = (
    ("diagram", "diagram_count"),
    ("document", "document_count"),
    ("repository", "repo_count"),
    ("threat", "threat_count"),
    ("asset", "asset_count"),
    ("note", "note_count"),
)


def _head(model: ThreatModel) -> dict[str, Any]:
    """What a list and a threat model itself have in common."""
    head = {
        "id": model.id,
        "alias": model.alias,
        "name": model.name,
        "description": model.description,
        "owner": model.owner and _user(model.owner),
        "created_by": model.created_by and _user(model.created_by),
        "threat_model_framework": model.threat_model_framework,
        "issue_uri": model.issue_uri,
        "status": model.status,
        "status_updated": model.status_updated or model.created_at,
        "security_reviewer": model.security_reviewer and _principal(model.security_reviewer),
        "created_at": model.created_at,
        "modified_at": model.modified_at,
        "deleted_at": model.deleted_at,
    }
    return {name: value for name, value in head.items() if value is not None}


def _user(user: User) -> dict[str, Any]:
    return {
        "principal_type": "user",
        "provider": user.provider,
        "provider_id": user.provider_id,
        "display_name": user.name,
        "email": user.email,
    }


def _principal(principal: Principal) -> dict[str, Any]:
    told = {
        "principal_type": principal.principal_type,
        "provider": principal.provider,
        "provider_id": principal.provider_id,
        "display_name": principal.display_name,
        "email": principal.email,
    }
    return {name: value for name, value in told.items() if value is not None}


def _granted(grant: Grant) -> dict[str, Any]:
    return {**_principal(grant.principal), "role": grant.role.label}


def page(kind: Kind, model: str, found: Sequence[StoredChild], **counts: int) -> dict[str, Any]:
    """A page of children, for `bodies.answer`."""
    return {kind.plural: _list([text_of(child, model) for child in found]), **counts}


def text_of(child: StoredChild, model: str) -> str:
    """What `domain.children.shown` makes of a child, as JSON."""
    name, id_, alias, fields, metadata, auto_generated, created_at, modified_at, version = child
    kind = BY_NAME[name]
    more = f',"version":{version}' if kind.has_version else ""
    if kind.shows_origin:
        more += ',"auto_generated":true' if auto_generated else ',"auto_generated":false'
    if name == "document":
        more += ',"access_status":"unknown"'
    return (
        f'{{"id":"{id_}","threat_model_id":"{model}","alias":{alias},{fields[1:-1]}'
        f'{"," if len(fields) > len("{}") else ""}"metadata":{_metadata(metadata)},'
        f'"created_at":"{moment(created_at)}","modified_at":"{moment(modified_at)}"{more}}}'
    )


def moment(text: str) -> str:
    """A time of a `StoredChild` as orjson writes it: with six digits or none."""
    if len(text) == _WHOLE:
        return f"{text[:10]}T{text[11:-3]}Z"
    return f"{text[:10]}T{text[11:-3]:0<15}Z" if "." in text else f"{text[:10]}T{text[11:-3]}Z"


def _list(texts: Sequence[str]) -> orjson.Fragment:
    return orjson.Fragment(f"[{','.join(texts)}]")


def _metadata(text: str) -> str:
    if text == "{}":
        return "[]"
    entries: Mapping[str, str] = orjson.loads(text)
    return orjson.dumps(listed(entries)).decode()
