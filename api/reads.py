"""What is read most: a threat model, the list of them, a page of its children, one child.

Each returns None where the caller may not see it or there is no such thing; who asks then says which
(`context.model_for`). Handlers and the short way (`api/short_way.py`) answer with the same bodies.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from api import rendering, schemas
from api.services import Services
from tmi.domain.children import ChildFilter, shown
from tmi.domain.ids import ChildId, ThreatModelId, UserId
from tmi.domain.kinds import Kind
from tmi.domain.ports import Page

MOST_SHOWN = 1000
"""How many children of each kind a threat model is shown with."""
_NO_FILTERS = frozenset({"limit", "offset", "include_deleted", "sort"})


class Found(NamedTuple):
    """A body for `bodies.answer`, and the version that its ETag tells."""

    body: BaseModel | Mapping[str, Any]
    version: int | None = None


async def models(services: Services, user: UserId, query: schemas.ThreatModelQuery) -> Found:
    """A page of the threat models on which the user has a role."""
    part = Page(query.limit, query.offset)
    found, total = await services.threat_models.visible_to(user, part, query.filter)
    return Found(rendering.models(found, total=total, limit=query.limit, offset=query.offset))


async def model(services: Services, user: UserId, key: ThreatModelId) -> Found | None:
    """A threat model with what is in it."""
    read = await services.reads.model(user, key, MOST_SHOWN)
    return None if read is None else Found(rendering.whole(*read), read[0].version)


async def page(
    services: Services, user: UserId, model: ThreatModelId, kind: Kind, query: schemas.DeletedQuery
) -> Found | None:
    """A page of children, of those that are not deleted."""
    part = Page(query.limit, query.offset)
    read = await services.reads.page(user, model, kind, wanted(query), part)
    if read is None:
        return None
    children, total = read
    counts = {"total": total, "limit": query.limit, "offset": query.offset}
    return Found(rendering.page(kind, str(model), children, **counts))


async def child(
    services: Services, user: UserId, model: ThreatModelId, kind: Kind, key: ChildId
) -> Found | None:
    """A child with all its fields."""
    read = await services.reads.child(user, model, kind, key)
    return None if read is None else Found(shown(read), read.version if kind.has_version else None)


def wanted(query: schemas.DeletedQuery) -> ChildFilter:
    """Which children a query asks for, and in which order."""
    given = query.model_dump(exclude_none=True)
    conditions = {name: value for name, value in given.items() if name not in _NO_FILTERS}
    name, _, direction = given.get("sort", "created_at:asc").partition(":")
    return ChildFilter(conditions, name, direction == "desc", query.include_deleted)
