"""The table of what this API lacks of the contract, each with its reason: `docs/api-differences.md`.

`python -m tests.api_contract.differences` writes the page anew.
"""

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.api_contract import values
from tests.api_contract.digest import Digest, Json, contract, digest
from tests.api_contract.reasons import REASONS
from tests.rest import over_memory

PAGE = Path(__file__).parents[2] / "docs" / "api-differences.md"

_HEAD = """# How the API differs from the contract

Made by `python -m tests.api_contract.differences`; a test fails while this page is stale or a difference has no reason.

The contract is the core of TMI's OpenAPI 1.8.22 (github.com/ericfitz/tmi, Apache-2.0), without what belongs to other
products. Its facts are in `tests/api_contract/tmi-1.8.22.json`. Compared are paths, methods, parameters, media types, fields
of bodies (all of the contract's are known, none is required that the contract does not require), statuses, headers of
answers, their fields, and those that they always have; of parameters and bodies their types, bounds, patterns, words, formats,
defaults and whether they may be `null` (what the contract takes is taken, and as far as bounds tell no more), of answers types, words and `null` (what is
answered is what the contract names). In what is not listed here, this API does all that the contract says.

"""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something of the contract that an operation does otherwise."""

    operation: str
    what: str

    @property
    def reason(self) -> str | None:
        """Why, if somebody said so."""
        for operation, what, reason in REASONS:
            if re.fullmatch(operation, self.operation) and re.fullmatch(what, self.what):
                return reason
        return None


def differences(ours: Digest, theirs: Digest) -> list[Difference]:
    """What `ours` lacks of `theirs`."""
    return [
        Difference(operation, what)
        for operation, facts in theirs.items()
        for what in (_lacks(ours[operation], facts) if operation in ours else ["missing"])
    ]


def _lacks(ours: dict[str, Json], theirs: dict[str, Json]) -> Iterator[str]:
    yield from _named(ours["parameters"], theirs["parameters"], "parameter {} is not taken", "parameter {} is required")
    for media_type in theirs.get("takes", ()):
        if media_type not in ours.get("takes", ()):
            yield f"body: {media_type} is not taken"
    yield from _named(
        ours.get("body", ()), theirs.get("body", ()), "body: {} is not known", "body: {} is required"
    )
    yield from _bounded_otherwise(ours["bounds"], theirs["bounds"])
    for status, fields in theirs["answers"].items():
        if status not in ours["answers"]:
            yield f"answer {status} is never given"
            continue
        for field in fields:
            if field not in ours["answers"][status]:
                yield f"answer {status}: {field} may be missing"
        yield from _otherwise_told(ours, theirs, status)


def _bounded_otherwise(ours: values.Fields, theirs: values.Fields) -> Iterator[str]:
    for name, facts in theirs.items():
        kind, _, field = name.partition(":")
        words = f"body: {field or 'the whole'}" if kind == "body" else f"parameter {name}"
        for what in values.refused(ours.get(name, {}), facts):
            yield f"{words}: {what}"
        # What is not known at all is told of by its name.
        for what in values.taken(ours[name], facts) if name in ours else ():
            yield f"{words}: {what}"


def _otherwise_told(ours: dict[str, Json], theirs: dict[str, Json], status: str) -> Iterator[str]:
    for header in theirs["headers"][status]:
        if header not in ours["headers"][status]:
            yield f"answer {status}: no header {header}"
    for media_type in theirs["gives"].get(status, ()):
        if media_type not in ours["gives"].get(status, ()):
            yield f"answer {status}: {media_type} is never given"
    known = ours["values"].get(status, {})
    for field in theirs["values"].get(status, {}):
        is_new = known and field not in known and (not _parent(field) or _parent(field) in known)
        if is_new and field not in theirs["answers"][status]:
            yield f"answer {status}: {field} is never given"
    for field, facts in theirs["values"].get(status, {}).items():
        for what in values.unexpected(ours["values"].get(status, {}).get(field, facts), facts):
            yield f"answer {status}: {field or 'the whole'} {what}"


def _parent(field: str) -> str:
    """`a.b` of `a.b[]`, `a` of `a.b`."""
    return re.sub(r"(\[\]|\.?[^.\[\]]+)$", "", field)


def _named(ours: Sequence[str], theirs: Sequence[str], lacking: str, required: str) -> Iterator[str]:
    known, expected = ({name.rstrip("!") for name in names} for names in (ours, theirs))
    for name in sorted(expected - known):
        yield lacking.format(name)
    for name in ours:
        if name.endswith("!") and name not in theirs:
            yield required.format(name.rstrip("!"))


def page(ours: Digest, theirs: Digest) -> str:
    """The page, a row for each reason and thing that differs."""
    rows: dict[tuple[str, str], list[str]] = {}
    for difference in differences(ours, theirs):
        rows.setdefault((difference.what, difference.reason or ""), []).append(difference.operation)
    merged: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (what, reason), operations in rows.items():
        merged.setdefault((reason, tuple(operations)), []).append(what)
    lines = ["| what | where | why |", "|---|---|---|"]
    for (reason, where), whats in sorted(merged.items(), key=lambda row: (row[1][0], row[0])):
        lines.append(f"| {_cell(whats)} | {_cell([f'`{one}`' for one in where])} | {reason} |")
    added = [f"`{operation}`" for operation in ours if operation not in theirs]
    is_whole = theirs.keys() <= ours.keys()
    head = _HEAD + (f"None of its {len(theirs)} operations is missing.\n\n" if is_whole else "")
    further = ["| fields of answers | where |", "|---|---|"]
    for where, fields in sorted(_further(ours, theirs).items(), key=lambda row: row[1]):
        further.append(f"| {_cell([f'`{one}`' for one in fields])} | {_cell([f'`{one}`' for one in where])} |")
    return (
        f"{head}{chr(10).join(lines)}\n\n## More than the contract\n\n{', '.join(added)}.\n\n{chr(10).join(further)}\n"
    )


def _further(ours: Digest, theirs: Digest) -> dict[tuple[str, ...], list[str]]:
    """Fields of answers that the contract does not name, by their operations; none of those in such a field.

    Where the contract names no field of an answer, it leaves all of them open.
    """
    where: dict[str, set[str]] = {}
    for operation, facts in theirs.items():
        for status, fields in ours.get(operation, {"values": {}})["values"].items():
            known = facts["values"].get(status, {})
            for name in fields:
                parent = _parent(name)
                if status[0] == "2" and known and name not in known and (not parent or parent in known):
                    where.setdefault(name, set()).add(operation)
    further: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(where):
        further.setdefault(tuple(sorted(where[name])), []).append(name)
    return further


def _cell(parts: Sequence[str]) -> str:
    return "<br>".join(part.replace("|", "\\|") for part in parts)


async def served() -> Digest:
    """The digest of the document that this service serves."""
    async with over_memory() as rest:
        return digest((await rest.call("GET", "/openapi.json")).json)


if __name__ == "__main__":
    PAGE.write_text(page(asyncio.run(served()), contract()))
