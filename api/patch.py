"""JSON Patch (RFC 6902): allowed paths, then the library, then the contract's checks."""

import re
from collections.abc import Sequence, Set
from typing import Annotated, Any

import jsonpatch
from jsonpointer import JsonPointerException
from pydantic import Field

from api.bodies import checked
from api.schemas import (
    AuthorizationOutput,
    Authorizations,
    Description,
    Input,
    JsonPatchOperation,
    Name,
)
from tmi.domain.errors import BadInput, Conflict, LastOwner
from tmi.domain.model import ThreatModel
from tmi.domain.ports import ThreatModelChange
from tmi.domain.roles import Grant, has_owner

_FIELDS = frozenset({"name", "description"})
_AUTHORIZATION = re.compile(r"/authorization(/(-|0|[1-9][0-9]{0,3}))?")


class _Fields(Input):
    name: Name
    description: Description | None = None


class _Sharing(Input):
    authorization: Annotated[Authorizations, Field(default_factory=list)]


def touches_authorization(operations: Sequence[JsonPatchOperation]) -> bool:
    """Whether a patch looks at or changes who has which role."""
    return any(op.path == "/authorization" or op.path.startswith("/authorization/") for op in operations)


def apply(model: ThreatModel, operations: Sequence[JsonPatchOperation]) -> ThreatModelChange:
    """What a patch makes of a threat model.

    Raises BadInput for a path that can't be patched or a result that the contract refuses, Conflict for a
    failed `test`, LastOwner where no user would own the threat model any more.
    """
    check_paths([op for op in operations if not _AUTHORIZATION.fullmatch(op.path)], _FIELDS)
    before = _document(model)
    after = patched(before, operations, "threat model")
    fields = checked(_Fields, {key: after[key] for key in ("name", "description") if key in after})
    return ThreatModelChange(
        name=fields.name if fields.name != model.name else None,
        description=fields.description if fields.description != model.description else None,
        clear_description=fields.description is None and model.description is not None,
        grants=_changed_grants(before, after),
    )


def check_paths(operations: Sequence[JsonPatchOperation], fields: Set[str]) -> None:
    """Raises BadInput for a path that is neither one of the fields nor in one."""
    for op in operations:
        if op.path[:1] != "/" or op.path[1:].partition("/")[0] not in fields:
            raise BadInput(f"the path {op.path[:100]!r} can't be patched")


def unique_grants(authorizations: Sequence[Any]) -> tuple[Grant, ...]:
    """The grants of a list. Raises BadInput when it names one principal twice."""
    grants = tuple(entry.grant for entry in authorizations)
    if len({grant.principal.key for grant in grants}) != len(grants):
        raise BadInput("authorization names a principal twice")
    return grants


def _document(model: ThreatModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "description": model.description,
        "authorization": [
            AuthorizationOutput.of(grant).model_dump(exclude_none=True) for grant in model.grants
        ],
    }


def patched(
    document: dict[str, Any], operations: Sequence[JsonPatchOperation], words: str
) -> dict[str, Any]:
    """What a patch makes of a document, which stays as it is. Raises BadInput, and Conflict for a failed
    `test`.
    """
    raw = [op.model_dump(exclude_unset=True) for op in operations]
    try:
        after: dict[str, Any] = jsonpatch.JsonPatch(raw).apply(document)
    except jsonpatch.JsonPatchTestFailed:
        raise Conflict("a test of the patch failed") from None
    except (jsonpatch.JsonPatchException, JsonPointerException):
        raise BadInput(f"the patch does not fit the {words}") from None
    return after


def _changed_grants(before: dict[str, Any], after: dict[str, Any]) -> tuple[Grant, ...] | None:
    if after.get("authorization") == before["authorization"]:
        return None
    given = {key: value for key, value in after.items() if key == "authorization"}
    grants = unique_grants(checked(_Sharing, given).authorization)
    if not has_owner(grants):
        raise LastOwner
    return grants
