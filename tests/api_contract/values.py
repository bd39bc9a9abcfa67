"""What values an OpenAPI schema allows: types, bounds, patterns, words, formats and defaults of its fields.

Of 3.0 (`nullable`, boolean `exclusiveMinimum`) and 3.1 alike. Of alternatives the widest counts, since what
one of them takes is taken; of parts (`allOf`) the narrowest.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Json = Any
Facts = dict[str, Json]
Fields = dict[str, Facts]

_LEAST = ("minimum", "minLength", "minItems", "exclusiveMinimum")
_MOST = ("maximum", "maxLength", "maxItems", "exclusiveMaximum")
_ALIKE = ("pattern", "format", "default", "uniqueItems")


def fields(schema: Json, resolve: Callable[[Json], Json], depth: int) -> Fields:
    """The facts of a schema (by the name ``) and of its fields (`a.b`, `a[]`)."""
    schema = resolve(schema)
    if not isinstance(schema, dict):
        return {}
    found: Fields = {"": _own(schema)}
    if depth:
        for name, inner in schema.get("properties", {}).items():
            for below, facts in fields(inner, resolve, depth - 1).items():
                found[_joined(name, below)] = facts
        if "items" in schema:
            for below, facts in fields(schema["items"], resolve, depth - 1).items():
                found[_joined("[]", below)] = facts
    for part in schema.get("allOf", ()):
        for name, facts in fields(part, resolve, depth).items():
            found[name] = _narrowest(found[name], facts) if name in found else facts
    for word in ("oneOf", "anyOf"):
        _add_alternatives(found, [fields(part, resolve, depth) for part in schema.get(word, ())])
    return found


def _joined(name: str, below: str) -> str:
    return name + below if not below or below.startswith("[]") else f"{name}.{below}"


def _add_alternatives(found: Fields, alternatives: list[Fields]) -> None:
    for name in {name for one in alternatives for name in one}:
        widest: Facts | None = None
        for one in alternatives:
            if name in one and one[name].get("type") != ["null"]:
                widest = one[name] if widest is None else _widest(widest, one[name])
        if widest is None:
            continue
        if not name and any(one[""].get("type") == ["null"] for one in alternatives):
            widest = {**widest, "nullable": True}
        found[name] = _narrowest(found[name], widest) if name in found else widest


def _own(schema: Mapping[str, Json]) -> Facts:
    facts: Facts = {key: schema[key] for key in (*_LEAST, *_MOST, *_ALIKE) if key in schema}
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(facts.get(exclusive), bool):
            is_exclusive = facts.pop(exclusive)
            if is_exclusive and bound in facts:
                facts[exclusive] = facts.pop(bound)
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else list(types)
    is_nullable = schema.get("nullable") is True or ("null" in types and len(types) > 1)
    if is_nullable:
        facts["nullable"] = True
        types = [name for name in types if name != "null"]
    if types:
        facts["type"] = sorted(types)
    words = [schema["const"]] if "const" in schema else schema.get("enum")
    if words is not None:
        facts["enum"] = sorted((word for word in words if word is not None), key=str)
    return facts


def _widest(one: Facts, other: Facts) -> Facts:
    both: Facts = {key: min(one[key], other[key]) for key in _LEAST if key in one and key in other}
    both |= {key: max(one[key], other[key]) for key in _MOST if key in one and key in other}
    both |= {key: one[key] for key in _ALIKE if key in one and one[key] == other.get(key)}
    for key in ("type", "enum"):
        if key in one and key in other:
            both[key] = sorted({*one[key], *other[key]}, key=str)
    if one.get("nullable") or other.get("nullable"):
        both["nullable"] = True
    return both


def _narrowest(one: Facts, other: Facts) -> Facts:
    both = {**one, **other}
    both |= {key: max(one[key], other[key]) for key in _LEAST if key in one and key in other}
    both |= {key: min(one[key], other[key]) for key in _MOST if key in one and key in other}
    if "enum" in one and "enum" in other:
        both["enum"] = [word for word in one["enum"] if word in other["enum"]]
    return both


# --- comparing ----------------------------------------------------------------------------------


def refused(ours: Facts, theirs: Facts) -> Iterator[str]:
    """What `theirs` takes of a value, or says of one that is left out, and `ours` does not."""
    yield from _missing_types(ours, theirs)
    if theirs.get("nullable") and not ours.get("nullable") and ("type" in ours or "enum" in ours):
        yield "null is not taken"
    if "enum" in ours:
        if "enum" not in theirs:
            yield f"only {_shown(ours['enum'])} are taken"
        else:
            lacking = [word for word in theirs["enum"] if word not in ours["enum"]]
            if lacking:
                yield f"{_shown(lacking)} are not taken"
    if "enum" not in theirs and "enum" not in ours:
        yield from _narrower(ours, theirs)
    if "default" in theirs and ours.get("default", theirs["default"]) != theirs["default"]:
        yield f"default {_shown(ours['default'])} instead of {_shown(theirs['default'])}"


def _missing_types(ours: Facts, theirs: Facts) -> Iterator[str]:
    if "type" not in ours:
        return
    wide = {*ours["type"], *(["integer"] if "number" in ours["type"] else [])}
    if "type" not in theirs:
        yield f"only {' or '.join(ours['type'])} is taken"
    else:
        lacking = [name for name in theirs["type"] if name not in wide]
        if lacking:
            yield f"{' and '.join(lacking)} is not taken"


def _narrower(ours: Facts, theirs: Facts) -> Iterator[str]:
    for key in _LEAST:
        least = 0 if key in ("minLength", "minItems") else float("-inf")
        if key in ours and ours[key] > theirs.get(key, least):
            yield f"{key} {ours[key]} instead of {theirs.get(key, 'none')}"
    for key in _MOST:
        if key in ours and ours[key] < theirs.get(key, float("inf")):
            yield f"{key} {ours[key]} instead of {theirs.get(key, 'none')}"
    for key in ("format", "pattern"):
        if key in ours and _plain(ours[key]) != _plain(theirs.get(key)):
            yield f"{key} `{ours[key]}` instead of {'`' + theirs[key] + '`' if key in theirs else 'none'}"
    if ours.get("uniqueItems") and not theirs.get("uniqueItems"):
        yield "values twice are not taken"


_FORMATS = ("byte", "date-time", "email", "uri", "uuid")
"""Those of texts. A number's says how it is stored."""


def taken(ours: Facts, theirs: Facts) -> Iterator[str]:
    """What `ours` takes of a value and `theirs` does not, as far as bounds tell. Of two patterns nobody knows
    which is the wider: that they differ is told by `refused`. What has a format or a pattern has its lengths
    by it.
    """
    if "type" in theirs:
        narrow = {*theirs["type"], *(["integer"] if "number" in theirs["type"] else [])}
        more = [name for name in ours.get("type", ["anything else"]) if name not in narrow]
        if more and "enum" not in ours:
            yield f"{' or '.join(more)} is taken, too"
    if ours.get("nullable") and not theirs.get("nullable"):
        yield "null is taken, too"
    if "enum" in theirs:
        more = [word for word in ours.get("enum", ["any word"]) if word not in theirs["enum"]]
        if more:
            yield f"taken are also {_shown(more)}"
    elif "enum" not in ours:
        yield from _wider(ours, theirs)


def _wider(ours: Facts, theirs: Facts) -> Iterator[str]:
    has_form = "pattern" in ours or "format" in ours
    for key in _LEAST:
        least = 0 if key in ("minLength", "minItems") else float("-inf")
        if key in theirs and ours.get(key, least) < theirs[key] and not (has_form and key not in ours):
            yield f"{key} {ours.get(key, 'none')}, wider than {theirs[key]}"
    for key in _MOST:
        if key in theirs and ours.get(key, float("inf")) > theirs[key] and not (has_form and key not in ours):
            yield f"{key} {ours.get(key, 'none')}, wider than {theirs[key]}"
    if "pattern" in theirs and not has_form:
        yield f"whatever does not match `{theirs['pattern']}` is taken, too"
    if theirs.get("format") in _FORMATS and not has_form:
        yield f"what is no {theirs['format']} is taken, too"
    if theirs.get("uniqueItems") and not ours.get("uniqueItems"):
        yield "values twice are taken, too"


def _plain(pattern: str | None) -> str | None:
    """One spelling of a pattern: slashes, hyphens and quotes need no backslash."""
    return None if pattern is None else re.sub(r"""\\([/"'-])""", r"\1", pattern)


def unexpected(ours: Facts, theirs: Facts) -> Iterator[str]:
    """What `ours` may give as a value that `theirs` does not name."""
    if "type" in theirs:
        narrow = {*theirs["type"], *(["integer"] if "number" in theirs["type"] else [])}
        more = [name for name in ours.get("type", ["anything"]) if name not in narrow]
        if more and "enum" not in ours:
            yield f"may be {' or '.join(more)}"
    if ours.get("nullable") and not theirs.get("nullable"):
        yield "may be null"
    if "enum" in theirs:
        more = [word for word in ours.get("enum", ["any word"]) if word not in theirs["enum"]]
        if more:
            yield f"may be {_shown(more)}"


def _shown(value: Json) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else json.dumps(value)
