"""JSON Patch (RFC 6902): allowed paths, then the library. What comes of it is checked as any other body."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import jsonpatch
from jsonpointer import JsonPointerException

from api.schemas import JsonPatchOperation
from tmi.domain.errors import BadInput, Conflict
from tmi.domain.roles import Grant


def check_paths(operations: Sequence[JsonPatchOperation], fields: AbstractSet[str]) -> None:
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
    except (jsonpatch.JsonPatchException, JsonPointerException, TypeError, KeyError):
        raise BadInput(f"the patch does not fit the {words}") from None
    return after
