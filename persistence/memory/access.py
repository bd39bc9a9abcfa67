"""Access control in memory: whom a grant means is said in migration 0008, view user_grants; this is its
twin.
"""

from collections.abc import Iterable, Mapping, Sequence

from persistence.memory.store import MemoryStore
from tmi.domain.errors import NotFound
from tmi.domain.ids import DiagramId, ThreatModelId, UserId
from tmi.domain.model import User
from tmi.domain.ports import Access, Entrant, Standing
from tmi.domain.roles import EVERYONE, Grant, Principal, Role

EVERYONES_PROVIDERS = ("tmi", "*")


class MemoryAccessControl:
    """The port `AccessControl`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def to_diagram(self, user: UserId, diagram: DiagramId) -> Access:
        """The user's access to a diagram. Raises NotFound."""
        self._store.visit()
        model = self._model_of(diagram)
        return Access(model, self._role(user, model))

    async def to_threat_model(
        self, user: UserId, model: ThreatModelId, *, deleted: bool = False
    ) -> Role | None:
        """The user's role on a threat model (`deleted`: on one that may be deleted). Raises NotFound."""
        self._store.visit()
        gone = self._store.deleted_models.get(model) if deleted else None
        if gone is not None:
            return max(roles_of(self._store, user, gone.grants), default=None)
        return self._role(user, model)

    async def to_threat_models(
        self, pairs: Sequence[tuple[UserId, ThreatModelId]]
    ) -> Sequence[Role | None]:
        """The role of each of many users on a threat model, in their order."""
        self._store.visit()
        known = self._store.threat_models
        return [self._role(user, model) if model in known else None for user, model in pairs]

    async def to_diagram_of_all(
        self, users: Sequence[UserId], diagram: DiagramId
    ) -> Mapping[UserId, Role | None]:
        """The roles of many users on one diagram. Raises NotFound."""
        self._store.visit()
        model = self._model_of(diagram)
        return {user: self._role(user, model) for user in users}

    async def standings(self, entrants: Sequence[Entrant]) -> Sequence[Standing]:
        """How each of many entrants stands, in their order."""
        self._store.visit()
        return [self._standing(entrant) for entrant in entrants]

    def _standing(self, entrant: Entrant) -> Standing:
        session = self._store.standing(entrant.sign_in)
        diagram = self._store.diagrams.get(entrant.diagram)
        model = None if diagram is None else diagram.threat_model_id
        role = None if model is None else self._role(entrant.user, model)
        signed_in = session is not None and session.user == entrant.user
        provider = self._store.users[entrant.user].provider if signed_in else None
        return Standing(signed_in, model, role, provider)

    def _model_of(self, diagram: DiagramId) -> ThreatModelId:
        found = self._store.diagrams.get(diagram)
        if found is None:
            raise NotFound("There is no such diagram.")
        return found.threat_model_id

    def _role(self, user: UserId, model: ThreatModelId) -> Role | None:
        return max(roles_of(self._store, user, self._store.threat_model(model).grants), default=None)


def roles_of(store: MemoryStore, user: UserId, grants: Iterable[Grant]) -> list[Role]:
    """The roles that `grants` give a user, who is nobody before the first sign-in."""
    known = store.users.get(user)
    return [] if known is None else [g.role for g in grants if means(store, g.principal, known)]


def means(store: MemoryStore, principal: Principal, user: User) -> bool:
    """Whether a principal of an authorization list means a user."""
    if principal.principal_type == "group":
        everyone = principal.provider in EVERYONES_PROVIDERS and principal.provider_id == EVERYONE
        return everyone or user.id in store.groups.get((principal.provider, principal.provider_id), ())
    return principal.provider == user.provider and user.is_called(principal.provider_id)
