"""Settings that administrators may change while the service runs. All others are the environment's.

Whatever the environment says wins: an operator who writes a limit into a deployment means it. What the
database says comes next, then the default.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from tmi.domain.errors import BadInput
from tmi.domain.ids import UserId

Kind = Literal["string", "int", "bool", "json", "float"]
"""What the contract knows. A setting that can be changed is an `int` or a `string` so far."""

SIGNALED = UUID(int=0)
"""Among the ids of a signal about quotas: the settings have changed."""


@dataclass(frozen=True, slots=True)
class Changeable:
    """A setting that can be changed while the service runs."""

    kind: Literal["int", "string"]
    description: str
    maximum: int = 2**53 - 1
    """Of a number, from 0 on; or the length of a text."""
    among: tuple[str, ...] = ()
    """The texts that it may be; empty: any."""

    def check(self, value: str, kind: Kind) -> str:
        """The value as it is kept. Raises BadInput."""
        if kind != self.kind:
            raise BadInput(f"this setting is of the type {self.kind}")
        if self.kind == "string":
            if len(value) > self.maximum or (self.among and value not in self.among):
                wanted = " or ".join(self.among) or f"at most {self.maximum} characters"
                raise BadInput(f"the value is to be {wanted}")
            return value
        if not (value.isascii() and value.isdecimal() and len(value) <= 16 and int(value) <= self.maximum):
            raise BadInput(f"the value is to be a whole number from 0 to {self.maximum}")
        return str(int(value))


def _limit(what: str) -> Changeable:
    return Changeable("int", f"{what}; 0 for no limit.")


CHANGEABLE: Mapping[str, Changeable] = {
    "user_requests_per_min": _limit("What one user may ask over REST in a minute"),
    "user_requests_per_hour": _limit("What one user may ask over REST in an hour"),
    "address_requests_per_min": _limit(
        "Requests, upgrades to sockets included, from one IPv4 address or IPv6 /64 in a minute"
    ),
    "sign_in_requests_per_min": _limit("Requests that sign in, from one address in a minute"),
    "user_threat_models_max": _limit("Threat models that one user may have"),
    "user_diagrams_max": _limit("Diagrams that one user may have in all threat models"),
    "user_stored_max_bytes": _limit("Bytes that one user's diagrams may take in the database"),
    "documents_per_user_max": _limit("Diagrams that one user may have open at once, each tab counted"),
    "operator_name": Changeable("string", "Who runs this service, for its clients to show.", 256),
    "operator_contact": Changeable("string", "How to reach who runs this service.", 1024),
    "operator_jurisdiction": Changeable("string", "The law under which this service is run.", 256),
    "default_theme": Changeable("string", "How clients look at first.", 5, ("auto", "light", "dark")),
}


@dataclass(frozen=True, slots=True)
class StoredSetting:
    """A setting that an administrator has changed."""

    key: str
    value: str
    kind: Kind
    description: str | None
    modified_at: datetime
    modified_by: UserId | None


@dataclass(frozen=True, slots=True)
class GivenSetting:
    """A setting as the process was started with it. Never a secret."""

    key: str
    value: str
    kind: Kind
    description: str
    is_from_environment: bool
    """Otherwise it is the default."""
