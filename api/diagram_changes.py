"""What a PUT or a PATCH makes of a diagram, worked out where its room is (`rooms/editing.py`).

A change is JSON, since it may travel to the node that owns the room: `{"set": {...}}` gives fields and cells
their values and leaves out what is to stay; `{"patch": [...]}` is a JSON Patch (RFC 6902) of the diagram as
the room shows it; `{"roll_back": {...}}` gives what was there once. Cells that a change leaves as they are
need not follow the contract: an editor wrote them.
"""

import contextlib
import re
from collections.abc import Container, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import orjson
from pydantic import Field, ValidationError

from api import patch, sanitising
from api.bodies import checked
from api.schemas import CELL, MAX_CELLS, DiagramDetails, DiagramUpdate, JsonPatchOperation
from crdt.reading import AT_ONCE
from rooms.editing import Shown, Wanted
from tmi.domain.diagrams import DiagramFields, DiagramImage
from tmi.domain.errors import BadInput
from tmi.domain.ids import Seq
from tmi.domain.model import Diagram

Json = Any

PALETTE = "color_palette"
_FAULTS_MAX = 5

_CELLS = re.compile(r"/cells(/.*)?", re.DOTALL)
_FIELD = re.compile(
    r"/(name|description|include_in_report|timmy_enabled|image(/(svg|update_vector))?"
    r"|color_palette(/(-|[0-7])(/(position|color))?)?|metadata(/(-|0|[1-9][0-9]{0,4})(/(key|value))?)?)"
)
_SERVER_COMPUTED = frozenset(
    ("id", "alias", "created_at", "modified_at", "deleted_at", "update_vector", "auto_generated", "version")
)


class _Patched(DiagramDetails):
    cells: Annotated[list[Any], Field(max_length=MAX_CELLS)]


def of_put(given: DiagramUpdate) -> Json:
    """The change that a PUT asks for."""
    wanted = given.model_dump(exclude={*_SERVER_COMPUTED, "cells"})
    wanted["cells"] = given.cells
    if given.metadata is None:
        del wanted["metadata"]
    return {"set": wanted}


def of_patch(operations: Sequence[JsonPatchOperation]) -> Json:
    """The change that a PATCH asks for. Raises BadInput for a path that can't be patched."""
    patch.check_each_path(operations, _is_allowed)
    return {"patch": [op.raw for op in operations]}


def _is_allowed(op: JsonPatchOperation, path: str) -> bool:
    is_tested = op.op == "test" and path == "/type"
    return is_tested or _FIELD.fullmatch(path) is not None or _CELLS.fullmatch(path) is not None


def interpret(diagram: Diagram, shown: Shown, change: Json) -> Wanted:
    """What a change makes of a diagram.

    Raises BadInput for what the contract refuses, with the cell and the reason, and Conflict for a failed
    `test`.
    """
    if "roll_back" in change:
        return _rolled_back(diagram, shown, change["roll_back"])
    known = shown.wires
    if known is None:
        known = {cell["id"]: orjson.dumps(cell) for cell in shown.cells}
    before = _document(diagram, shown)
    if "set" in change:
        after = {**before, **change["set"]}
    else:
        after = patch.patched(before, change["patch"], "diagram")
    model = checked(_Patched, after)
    after = {**model.model_dump(exclude={"cells"}), "cells": model.cells}
    check_cells(model.cells, known, shown.vetted)
    fields = _fields(diagram, after, shown.seq)
    return Wanted(fields, after["cells"], _meta(shown, after))


def _rolled_back(diagram: Diagram, shown: Shown, past: Mapping[str, Json]) -> Wanted:
    """What was there before need not follow the contract: it did not have to then."""
    metadata = diagram.metadata
    if "metadata" in past:
        metadata = {entry["key"]: entry["value"] for entry in past["metadata"]}
    cells = past.get("cells", shown.cells)
    fields = DiagramFields(
        past.get("name", diagram.name),
        past.get("description", diagram.description),
        _past_image(past) or (diagram.image if cells == shown.cells else None),
        past.get("include_in_report", diagram.include_in_report),
        past.get("timmy_enabled", diagram.timmy_enabled),
        metadata,
    )
    then = past.get("meta", shown.meta)
    keys = then.keys() | shown.meta.keys()
    meta = {key: then.get(key) for key in keys if shown.meta.get(key) != then.get(key)}
    return Wanted(fields, cells, meta)


def _past_image(past: Mapping[str, Json]) -> DiagramImage | None:
    """The picture of the cells of then, with the update that it shows, if the trail keeps it. Where it does
    not, the present one would mislead if the cells are others; editors make a new one.
    """
    image = past.get("image") if "cells" in past else None
    if image is None or "svg" not in image:
        return None
    return DiagramImage(image["svg"], image.get("update_vector"))


def _document(diagram: Diagram, shown: Shown) -> dict[str, Json]:
    image = diagram.image
    return {
        "name": diagram.name,
        "type": diagram.type,
        "description": diagram.description,
        "image": None if image is None else {"svg": image.svg, "update_vector": image.update_vector},
        "include_in_report": diagram.include_in_report,
        "timmy_enabled": diagram.timmy_enabled,
        "metadata": [{"key": key, "value": value} for key, value in sorted(diagram.metadata.items())],
        PALETTE: palette(shown.meta),
        "cells": shown.cells,
    }


def vet(change: Json, known: Mapping[str, bytes]) -> Generator[None, None, set[bytes]]:
    """The JSON of those cells that a PUT brings, and changes, which are the contract's. What is wrong is left
    to `interpret`. A step takes some milliseconds.
    """
    vetted: set[bytes] = set()
    cells = change.get("set", {}).get("cells") or ()
    for first in range(0, len(cells), AT_ONCE):
        with contextlib.suppress(BadInput):
            vetted.update(check_cells(cells[first : first + AT_ONCE], known))
        yield
    return vetted


def check_cells(
    cells: Sequence[Json], known: Mapping[str, bytes], vetted: Container[bytes] = frozenset()
) -> list[bytes]:
    """The JSON of what was looked at. Raises BadInput for what has changed and is none of the contract's
    cells.
    """
    found: list[bytes] = []
    for at, cell in enumerate(cells):
        if not isinstance(cell, dict):
            raise BadInput(f"cells.{at}: a cell is an object")
        cell_id = cell.get("id")
        try:
            wire = orjson.dumps(cell)
            if wire in vetted or (isinstance(cell_id, str) and known.get(cell_id) == wire):
                continue
            CELL.validate_python(cell)
            sanitising.checked(wire.decode())
            found.append(wire)
        except ValidationError as error:
            raise BadInput(_fault(at, cell_id, error)) from None
        except orjson.JSONEncodeError:
            raise BadInput(f"cells.{at}: a number or a text is none that JSON knows") from None
        except ValueError as error:
            raise BadInput(f"cells.{at}{_name_of(cell_id)}: {error}") from None
    return found


def _fault(at: int, cell_id: Json, error: ValidationError) -> str:
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    told = (
        f"{'.'.join(map(str, fault['loc']))[:100]}: {fault['msg'][:150]}"
        for fault in faults[:_FAULTS_MAX]
    )
    return f"cells.{at}{_name_of(cell_id)}: {'; '.join(told)}"


def _name_of(cell_id: Json) -> str:
    return f" ({cell_id[:64]})" if isinstance(cell_id, str) else ""


def _fields(diagram: Diagram, after: Mapping[str, Json], seq: Seq) -> DiagramFields:
    image = after["image"]
    drawn = None
    if image is not None:
        drawn = DiagramImage(image["svg"], image["update_vector"])
        is_new = diagram.image is None or diagram.image.svg != drawn.svg
        if drawn.svg is not None and drawn.update_vector is None and is_new:
            drawn = replace(drawn, update_vector=seq)
    entries = after["metadata"] or []
    metadata = {entry["key"]: entry["value"] for entry in entries}
    if len(metadata) != len(entries):
        raise BadInput("metadata names a key twice")
    return DiagramFields(
        after["name"],
        after["description"],
        drawn,
        after["include_in_report"],
        after["timmy_enabled"],
        metadata,
    )


def _meta(shown: Shown, after: Mapping[str, Json]) -> dict[str, Json]:
    wanted = after[PALETTE]
    if wanted is not None:
        wanted = [{**entry, "color": _long(entry["color"])} for entry in wanted]
    return {} if wanted == palette(shown.meta) else {PALETTE: wanted}


def palette(meta: Mapping[str, Json]) -> list[Json] | None:
    """The diagram's colors by their positions, so far as they are what the contract says."""
    told = meta.get(PALETTE)
    if not isinstance(told, list):
        return None
    shown = [
        {"position": entry["position"], "color": _long(entry["color"])}
        for entry in told
        if isinstance(entry, dict) and _is_position(entry.get("position")) and _is_color(entry.get("color"))
    ]
    return sorted(shown, key=lambda entry: entry["position"])[:8]


def _is_position(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 8


def _is_color(value: Json) -> bool:
    return isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{3}([0-9a-fA-F]{3})?", value) is not None


def _long(color: str) -> str:
    """In the one form: `#rrggbb`."""
    digits = color[1:].lower()
    return "#" + (digits if len(digits) == 6 else "".join(digit * 2 for digit in digits))
