"""What a PUT or a PATCH makes of a threat model: allowed fields, bounds, and who stays an owner."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from api import patch, schemas
from api.bodies import checked
from tmi.domain.children import listed
from tmi.domain.errors import BadInput, Conflict, LastOwner
from tmi.domain.events import State
from tmi.domain.model import ThreatModel
from tmi.domain.ports import ThreatModelChange
from tmi.domain.roles import Grant, Principal, Role, has_owner

FIELDS = frozenset(
    {"name", "description", "threat_model_framework", "issue_uri", "status", "security_reviewer", "metadata"}
)
_AUTHORIZATION = re.compile(r"/authorization(/(-|0|[1-9][0-9]{0,3}))?")
_SHARING = frozenset({"authorization", "security_reviewer"})


class _Sharing(schemas.Input):
    authorization: Annotated[schemas.Authorizations, Field(default_factory=list)]


def touches_roles(operations: Sequence[schemas.JsonPatchOperation]) -> bool:
    """Whether a patch looks at or changes who has which role. A security reviewer becomes an owner."""
    return any(patch.is_in(path, _SHARING) for op in operations for path in op.paths)


def check_paths(operations: Sequence[schemas.JsonPatchOperation]) -> None:
    """Raises BadInput for a path that can't be patched."""
    patch.check_each_path(
        operations, lambda _, path: patch.is_in(path, FIELDS) or bool(_AUTHORIZATION.fullmatch(path))
    )


def of_patch(model: ThreatModel, operations: Sequence[schemas.JsonPatchOperation]) -> ThreatModelChange:
    """What a patch makes of a threat model.

    Raises BadInput for a path that can't be patched or a result that the contract refuses, Conflict for a
    failed `test`, LastOwner where no user would own the threat model any more.
    """
    check_paths(operations)
    before = _document(model)
    after = patch.patched(_document(model), [op.raw for op in operations], "threat model")
    fields = checked(schemas.ThreatModelFields, {key: after[key] for key in FIELDS if key in after})
    grants = None
    if after.get("authorization") != before["authorization"]:
        given = {key: value for key, value in after.items() if key == "authorization"}
        grants = patch.unique_grants(checked(_Sharing, given).authorization)
    return _change(
        model,
        name=fields.name,
        description=fields.description,
        framework=fields.threat_model_framework,
        issue_uri=fields.issue_uri,
        status=fields.status or schemas.DEFAULT_STATUS,
        reviewer=None if fields.security_reviewer is None else fields.security_reviewer.principal,
        metadata=schemas.metadata_of(fields.metadata),
        grants=grants,
    )


def of_put(model: ThreatModel, given: schemas.ThreatModelInput) -> ThreatModelChange:
    """What a body makes of a threat model. Roles and metadata stay where it does not speak of them; status
    and security reviewer are changed by patches only.

    Raises BadInput where it is to become confidential, or not, after its creation; and LastOwner.
    """
    has = given.model_fields_set
    if "is_confidential" in has and given.is_confidential != model.is_confidential:
        raise BadInput("is_confidential can be set at creation only")
    grants = None
    if "authorization" in has:
        grants = patch.unique_grants(given.authorization)
    return _change(
        model,
        name=given.name,
        description=given.description,
        framework=given.threat_model_framework,
        issue_uri=given.issue_uri,
        status=model.status,
        reviewer=model.security_reviewer,
        metadata=schemas.metadata_of(given.metadata) if "metadata" in has else model.metadata,
        grants=grants,
    )


def of_roll_back(model: ThreatModel, past: State) -> ThreatModelChange:
    """What makes a threat model what it was. Roles stay, the security reviewer's too."""
    return _change(
        model,
        name=past["name"],
        description=past["description"],
        framework=past["threat_model_framework"],
        issue_uri=past["issue_uri"],
        status=past.get("status", model.status),
        reviewer=model.security_reviewer,
        metadata={entry["key"]: entry["value"] for entry in past.get("metadata", ())},
        grants=None,
    )


def _change(
    model: ThreatModel,
    *,
    name: str,
    description: str | None,
    framework: str | None,
    issue_uri: str | None,
    status: str,
    reviewer: Principal | None,
    metadata: Mapping[str, str],
    grants: tuple[Grant, ...] | None,
) -> ThreatModelChange:
    """What differs. Empty texts are none."""
    framework = framework or schemas.DEFAULT_FRAMEWORK
    issue_uri = issue_uri or None
    return ThreatModelChange(
        name=_if_new(name, model.name),
        description=_if_new(description, model.description),
        clear_description=description is None and model.description is not None,
        grants=_grants(model, reviewer, grants),
        threat_model_framework=_if_new(framework, model.threat_model_framework),
        issue_uri=_if_new(issue_uri, model.issue_uri),
        clear_issue_uri=issue_uri is None and model.issue_uri is not None,
        status=_if_new(status, model.status),
        security_reviewer=reviewer if _key(reviewer) != _key(model.security_reviewer) else None,
        clear_security_reviewer=reviewer is None and model.security_reviewer is not None,
        metadata=metadata if metadata != model.metadata else None,
    )


def _if_new(given: str | None, present: str | None) -> str | None:
    return given if given != present else None


def _key(principal: Principal | None) -> object:
    return None if principal is None else principal.key


def _grants(
    model: ThreatModel, reviewer: Principal | None, given: tuple[Grant, ...] | None
) -> tuple[Grant, ...] | None:
    """The new authorization list, if it changes. A new security reviewer becomes an owner, and nobody who
    writes the list takes that away. Who lost it otherwise, with an account or by a transfer, does not get it
    back by a write of something else.

    Raises LastOwner and Conflict.
    """
    grants = model.grants if given is None else given
    is_new = _key(reviewer) != _key(model.security_reviewer)
    if reviewer is not None and not _is_owner(reviewer, grants):
        if is_new:
            others = tuple(grant for grant in grants if grant.principal.key != reviewer.key)
            grants = (*others, Grant(reviewer, Role.OWNER))
        elif _is_owner(reviewer, model.grants):
            raise Conflict("the security reviewer stays an owner while assigned")
    if grants == model.grants:
        return None
    if not has_owner(grants):
        raise LastOwner
    return grants


def _is_owner(principal: Principal, grants: Sequence[Grant]) -> bool:
    return any(grant.principal.key == principal.key and grant.role is Role.OWNER for grant in grants)


def _document(model: ThreatModel) -> dict[str, Any]:
    reviewer = schemas.reviewer_output(model.security_reviewer)
    return {
        "name": model.name,
        "description": model.description,
        "threat_model_framework": model.threat_model_framework,
        "issue_uri": model.issue_uri,
        "status": model.status,
        "security_reviewer": None if reviewer is None else reviewer.model_dump(exclude_none=True),
        "metadata": listed(model.metadata),
        "authorization": [
            schemas.AuthorizationOutput.of(grant).model_dump(exclude_none=True) for grant in model.grants
        ],
    }
