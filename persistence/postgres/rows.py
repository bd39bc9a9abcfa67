"""Rows of the tables as entities of the domain."""

from datetime import UTC, datetime
from functools import lru_cache
from uuid import UUID

import orjson

from persistence.postgres.database import Record
from tmi.domain.diagrams import DiagramImage
from tmi.domain.ids import DiagramId, ThreatModelId, UserId
from tmi.domain.model import Diagram, User
from tmi.domain.roles import Grant, Principal, PrincipalType, Role


def user(row: Record) -> User:
    """A row of users."""
    return User(
        id=UserId(row["id"]),
        provider=row["provider"],
        provider_id=row["provider_id"],
        email=row["email"],
        name=row["name"],
        created_at=row["created_at"],
        email_verified=row["email_verified"],
    )


USER_AS_JSON = """json_build_array(u.id, u.provider, u.provider_id, u.email, u.name, u.created_at,
           u.email_verified)::text"""
"""Of a row `u` of users within another row. asyncpg takes apart a record in a row five times as slowly as
orjson does such a list.
"""


@lru_cache(1024)
def user_of_json(text: str | None) -> User | None:
    """What `USER_AS_JSON` has made. Few users make a list, each many times."""
    if text is None:
        return None
    key, provider, provider_id, email, name, created_at, email_verified = orjson.loads(text)
    since = datetime.fromisoformat(created_at).astimezone(UTC)
    return User(UserId(UUID(key)), provider, provider_id, email, name, since, email_verified)


def grants_of_json(text: str | None) -> tuple[Grant, ...]:
    """Of a list of the columns that `grant` takes."""
    return () if text is None else tuple(grant(*columns) for columns in orjson.loads(text))


def diagram(row: Record) -> Diagram:
    """A row of diagrams."""
    return Diagram(
        id=DiagramId(row["id"]),
        threat_model_id=ThreatModelId(row["threat_model_id"]),
        alias=row["alias"],
        name=row["name"],
        type=row["type"],
        description=row["description"],
        created_at=row["created_at"],
        modified_at=row["modified_at"],
        version=row["version"],
        image=None
        if row["image_svg"] is None
        else DiagramImage(row["image_svg"] or None, row["image_update_vector"]),
        include_in_report=row["include_in_report"],
        timmy_enabled=row["timmy_enabled"],
        metadata=orjson.loads(row["metadata"]),
        deleted_at=row["deleted_at"],
    )


def grant(
    principal_type: PrincipalType,
    provider: str,
    provider_id: str,
    email: str | None,
    display_name: str | None,
    role: int,
) -> Grant:
    """The columns of a row of grants."""
    return Grant(Principal(principal_type, provider, provider_id, email, display_name), Role(role))
