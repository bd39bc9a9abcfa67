"""JSON Patch (RFC 6902): allowed paths, then the library, within bounds. What comes of it is checked as any
other body.

Most operations add what the body holds, which is bounded. A `copy` adds what the document holds, so that a
thousand of them could double it a thousand times: what a patch may copy in all is bounded, by the JSON that
it takes. A `move` makes nothing larger, but deeper: a result that is nested deeper than JSON may be is
refused before anything recurses into it.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import jsonpatch
import orjson
from jsonpointer import JsonPointer, JsonPointerException

from api.schemas import JsonPatchOperation
from tmi.domain.errors import BadInput, Conflict, TooLarge
from tmi.domain.roles import Grant

Json = Any

COPIED_MAX_BYTES = 4 * 1024 * 1024
"""What the `copy` operations of one patch may copy together."""
COMPARED_MAX, STEPS_MAX = 100, 20
"""A field with more entries than that, or more steps from what it was, is replaced as a whole."""
_MISFITS = (
    jsonpatch.JsonPatchException,
    JsonPointerException,
    # Of values that are no containers where a path leads through them, of what no JSON may be, and of depth.
    TypeError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    RecursionError,
)


def check_each_path(
    operations: Sequence[JsonPatchOperation], allows: Callable[[JsonPatchOperation, str], bool]
) -> None:
    """Raises BadInput for a path, of what is changed or of what is moved or copied, that is not allowed."""
    for op in operations:
        for path in op.paths:
            if not allows(op, path):
                raise BadInput(f"the path {path[:100]!r} can't be patched")


def check_paths(operations: Sequence[JsonPatchOperation], fields: AbstractSet[str]) -> None:
    """Raises BadInput for a path that is neither one of the fields nor in one."""
    check_each_path(operations, lambda _, path: is_in(path, fields))


def is_in(path: str, fields: AbstractSet[str]) -> bool:
    """Whether a path is one of the fields or in one."""
    return path[:1] == "/" and path[1:].partition("/")[0] in fields


def unique_grants(authorizations: Sequence[Any]) -> tuple[Grant, ...]:
    """The grants of a list. Raises BadInput when it names one principal twice."""
    grants = tuple(entry.grant for entry in authorizations)
    if len({grant.principal.key for grant in grants}) != len(grants):
        raise BadInput("authorization names a principal twice")
    return grants


def patched(
    document: dict[str, Json], operations: Sequence[Mapping[str, Json]], words: str
) -> dict[str, Json]:
    """What a patch makes of a document, which is the caller's own and used up.

    Raises BadInput, TooLarge for what is copied beyond the bound, and Conflict for a failed `test`.
    """
    try:
        return _applied(document, operations)
    except jsonpatch.JsonPatchTestFailed:
        raise Conflict("a test of the patch failed") from None
    except (jsonpatch.JsonPatchException, JsonPointerException) as error:
        raise BadInput(f"the patch does not fit the {words}: {str(error)[:200]}") from None
    except _MISFITS:
        raise BadInput(f"the patch does not fit the {words}") from None


def made(before: Mapping[str, Json], after: Mapping[str, Json]) -> list[dict[str, Json]]:
    """The patch that makes one object of another, field by field in their order. What it replaces or removes
    is named by a `test` before that, so that it tells of both.
    """
    document: dict[str, Json] = copy.deepcopy(dict(before))
    steps: list[dict[str, Json]] = []
    for field in sorted(before.keys() | after.keys()):
        for operation in _of_field(field, before, after):
            if operation["op"] in ("remove", "replace"):
                there = JsonPointer(operation["path"]).resolve(document)
                steps.append({"op": "test", "path": operation["path"], "value": copy.deepcopy(there)})
            steps.append(operation)
            document = jsonpatch.JsonPatch([copy.deepcopy(operation)]).apply(document, in_place=True)
    return steps


def _of_field(name: str, before: Mapping[str, Json], after: Mapping[str, Json]) -> list[dict[str, Json]]:
    path = JsonPointer.from_parts([name]).path
    if name not in after:
        return [{"op": "remove", "path": path}]
    if name not in before:
        return [{"op": "add", "path": path, "value": after[name]}]
    old, new = before[name], after[name]
    if isinstance(old, list | dict) and type(old) is type(new) and max(len(old), len(new)) <= COMPARED_MAX:
        operations: list[dict[str, Json]] = jsonpatch.make_patch({name: old}, {name: new}).patch
        if len(operations) <= STEPS_MAX:
            return operations
    return [] if old == new else [{"op": "replace", "path": path, "value": new}]


def _applied(document: dict[str, Json], operations: Sequence[Mapping[str, Json]]) -> dict[str, Json]:
    left = COPIED_MAX_BYTES
    deepens = False
    for operation in operations:
        if operation["op"] == "copy":
            # What is beyond the bound is measured once, and then refused.
            left -= len(orjson.dumps(JsonPointer(operation["from"]).resolve(document)))
            if left < 0:
                raise TooLarge(f"a patch copies {COPIED_MAX_BYTES} bytes at most")
        deepens = deepens or operation["op"] in ("move", "copy")
        document = jsonpatch.JsonPatch([operation]).apply(document, in_place=True)
    if deepens:
        orjson.dumps(document)  # raises TypeError for what is nested too deep
    return document
