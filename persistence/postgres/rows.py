"""Rows of the tables as entities of the domain."""

from persistence.postgres.database import Record
from tmi.domain.ids import DiagramId, ThreatModelId, UserId
from tmi.domain.model import Diagram, User
from tmi.domain.roles import Grant, Principal, Role


def user(row: Record) -> User:
    """A row of users."""
    return User(
        id=UserId(row["id"]),
        provider=row["provider"],
        provider_id=row["provider_id"],
        email=row["email"],
        name=row["name"],
        created_at=row["created_at"],
    )


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
    )


def grant(row: Record) -> Grant:
    """A row of grants."""
    principal = Principal(
        principal_type=row["principal_type"],
        provider=row["provider"],
        provider_id=row["provider_id"],
        email=row["email"],
        display_name=row["display_name"],
    )
    return Grant(principal, Role(row["role"]))
