"""Who may do what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tmi.domain.ids import DiagramId, SignInId, ThreatModelId, UserId
from tmi.domain.roles import Role
from tmi.domain.values import value


@dataclass(frozen=True, slots=True)
class Access:
    """What one user may do with one diagram, as the database has it now."""

    threat_model: ThreatModelId
    role: Role | None
    """None: the diagram exists, and the user has no role on its threat model."""


@value
class Entrant:
    """Who asks to enter a diagram's room, and the sign-in session they speak for."""

    user: UserId
    sign_in: SignInId
    diagram: DiagramId


@value
class Standing:
    """What the database says of an entrant."""

    signed_in: bool
    """The session stands, and is this user's."""
    threat_model: ThreatModelId | None
    """The diagram's; None: there is no such diagram."""
    role: Role | None
    provider: str | None
    """The identity provider that the user came by; None where the session does not stand."""

    @property
    def exists(self) -> bool:
        """There is such a diagram."""
        return self.threat_model is not None


class AccessControl(Protocol):
    """Looks roles up: the highest matching grant wins, `everyone` and the user's groups included."""

    async def to_diagram(self, user: UserId, diagram: DiagramId) -> Access:
        """The user's access to a diagram. Raises NotFound."""

    async def to_threat_model(
        self, user: UserId, model: ThreatModelId, *, deleted: bool = False
    ) -> Role | None:
        """The user's role on a threat model (`deleted`: on one that may be deleted). Raises NotFound."""

    async def to_threat_models(
        self, pairs: Sequence[tuple[UserId, ThreatModelId]]
    ) -> Sequence[Role | None]:
        """The role of each of many users on a threat model, in their order and in one query; None also where
        there is no such threat model.
        """

    async def to_diagram_of_all(
        self, users: Sequence[UserId], diagram: DiagramId
    ) -> Mapping[UserId, Role | None]:
        """The roles of many users on one diagram, in one query. Raises NotFound."""

    async def standings(self, entrants: Sequence[Entrant]) -> Sequence[Standing]:
        """How each of many entrants stands, in their order and in one query."""
