"""Who may do what: one pure function decides, and REST and frames both ask it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Literal

PrincipalType = Literal["user", "group"]
EVERYONE = "everyone"
"""The group that every signed-in user belongs to."""


class Role(IntEnum):
    """A role on a threat model; a higher one includes the lower. Diagrams inherit it."""

    READER = 1
    WRITER = 2
    OWNER = 3

    @property
    def label(self) -> str:
        """The contract's word for it."""
        return self.name.lower()

    @classmethod
    def parse(cls, label: str) -> "Role":
        """The role of a contract word. Raises ValueError for any other word."""
        try:
            return cls[label.upper()]
        except KeyError:
            raise ValueError(f"{label!r} is no role: use reader, writer or owner") from None


class Action(Enum):
    """Everything that a role can allow."""

    READ = "read"
    WATCH = "watch"
    """Join a diagram's room, receive everything and have presence."""
    EDIT = "edit"
    """Change a diagram's content."""
    WRITE = "write"
    """Change a threat model's fields and create diagrams."""
    DELETE_DIAGRAM = "delete_diagram"
    DELETE_MODEL = "delete_model"
    RESTORE = "restore"
    """See what is deleted, and restore it. Administrators may, too."""
    END_COLLABORATION = "end_collaboration"
    """End a collaboration session that somebody else hosts."""
    SHARE = "share"
    """Change who has which role."""


NEEDS: dict[Action, Role] = {
    Action.READ: Role.READER,
    Action.WATCH: Role.READER,
    Action.EDIT: Role.WRITER,
    Action.WRITE: Role.WRITER,
    Action.DELETE_DIAGRAM: Role.WRITER,
    Action.DELETE_MODEL: Role.OWNER,
    Action.RESTORE: Role.OWNER,
    Action.END_COLLABORATION: Role.OWNER,
    Action.SHARE: Role.OWNER,
}


def may(role: Role | None, action: Action) -> bool:
    """Whether a user of `role` (None: no role at all) may do `action`."""
    return role is not None and role >= NEEDS[action]


@dataclass(frozen=True, slots=True)
class Principal:
    """A user or a group as named in an authorization list; it need not have signed in yet.

    `provider_id` is the provider's own id of the user or group: for provider `tmi` the e-mail address,
    for the group of all signed-in users `everyone`.
    """

    principal_type: PrincipalType
    provider: str
    provider_id: str
    email: str | None = None
    display_name: str | None = None

    @property
    def key(self) -> tuple[PrincipalType, str, str]:
        """What makes two principals the same one."""
        return (self.principal_type, self.provider, self.provider_id)


def fold(text: str) -> bytes:
    """Letters in lower case, those of ASCII only: folding all of Unicode would make one mailbox of two."""
    return text.encode().lower()


@dataclass(frozen=True, slots=True)
class Grant:
    """One entry of an authorization list."""

    principal: Principal
    role: Role


def has_owner(grants: Iterable[Grant]) -> bool:
    """Whether a user (a group does not count) would still own a threat model with these grants."""
    return any(g.role is Role.OWNER and g.principal.principal_type == "user" for g in grants)
