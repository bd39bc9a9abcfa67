"""Where there is no room left, nobody edits live.

An edit that was made already is never refused for a quota: its author would keep it and diverge. Instead
roles are bounded. While who is charged for a diagram has more stored bytes than allowed, everybody is a
reader of it: newcomers from the start, and whoever is there by the way on which every change of a role
reaches open sessions. REST keeps the roles, so that diagrams can be deleted, and refuses what would add to
them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tmi.domain.errors import StorageFull
from tmi.domain.ids import DiagramId, ThreatModelId, UserId
from tmi.domain.ports import Access, AccessControl, Entrant, Standing, Storage
from tmi.domain.roles import Role


class StorageBoundAccess:
    """The port `AccessControl`, bounded for live sessions."""

    def __init__(self, access: AccessControl, storage: Storage, default: Callable[[], int]) -> None:
        """`default` tells what everybody may store, in bytes; 0 for as much as they like."""
        self._access = access
        self._storage = storage
        self._default = default
        self._over: frozenset[UserId] = frozenset()

    async def refresh(self) -> bool:
        """Look who is over the limit; whether that is somebody else than before. Raises
        DatabaseUnavailable.
        """
        before, self._over = self._over, await self._storage.payers_over(self._default())
        return before != self._over

    async def check_room(self, model: ThreatModelId) -> None:
        """Before something is added to a threat model. Raises StorageFull where there is no room left.

        Without a query while nobody is over the limit; so it may be noticed a moment late.
        """
        limit = await self._storage.limit_passed(model, self._default()) if self._over else None
        if limit is not None:
            raise StorageFull("stored_bytes", limit, "who is charged for this threat model")

    async def is_full(self, diagram: DiagramId) -> bool:
        """Whether nothing may be added to a diagram now."""
        return bool(await self._full([diagram]))

    async def to_diagram(self, user: UserId, diagram: DiagramId) -> Access:
        """See the port."""
        return await self._access.to_diagram(user, diagram)

    async def to_threat_model(
        self, user: UserId, model: ThreatModelId, *, deleted: bool = False
    ) -> Role | None:
        """See the port."""
        return await self._access.to_threat_model(user, model, deleted=deleted)

    async def to_threat_models(
        self, pairs: Sequence[tuple[UserId, ThreatModelId]]
    ) -> Sequence[Role | None]:
        """See the port."""
        return await self._access.to_threat_models(pairs)

    async def to_diagram_of_all(
        self, users: Sequence[UserId], diagram: DiagramId
    ) -> Mapping[UserId, Role | None]:
        """See the port; readers at most where there is no room."""
        roles = await self._access.to_diagram_of_all(users, diagram)
        if not await self._full([diagram]):
            return roles
        return {user: _reader(role) for user, role in roles.items()}

    async def standings(self, entrants: Sequence[Entrant]) -> Sequence[Standing]:
        """See the port; readers at most where there is no room."""
        standings = await self._access.standings(entrants)
        full = await self._full([entrant.diagram for entrant in entrants])
        return [
            replace(standing, role=_reader(standing.role)) if entrant.diagram in full else standing
            for entrant, standing in zip(entrants, standings, strict=True)
        ]

    async def _full(self, diagrams: Sequence[DiagramId]) -> frozenset[DiagramId]:
        """Without a query while nobody is over the limit."""
        return await self._storage.paid_by(diagrams, self._over) if self._over else frozenset()


def _reader(role: Role | None) -> Role | None:
    return None if role is None else min(role, Role.READER)
