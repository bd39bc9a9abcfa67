"""Authorization lists as they are stored: each principal once, the creator an owner."""

from collections.abc import Iterable

from tmi.domain.errors import BadInput
from tmi.domain.model import User
from tmi.domain.roles import Grant, Principal, Role


def unique(grants: Iterable[Grant]) -> tuple[Grant, ...]:
    """The grants as they are. Raises BadInput if a principal is named twice."""
    listed = tuple(grants)
    if len({g.principal.key for g in listed}) != len(listed):
        raise BadInput("A principal is named twice in the authorization list.")
    return listed


def with_creator(creator: User, grants: Iterable[Grant]) -> tuple[Grant, ...]:
    """The grants of a new threat model: the creator first, as an owner. Raises BadInput as `unique` does."""
    principal = Principal("user", creator.provider, creator.provider_id, creator.email, creator.name)
    others = [g for g in unique(grants) if g.principal.key != principal.key]
    return (Grant(principal, Role.OWNER), *others)
