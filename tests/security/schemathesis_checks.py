"""Checks of Schemathesis that this API passes but for what is named here, each with its reason.

Schemathesis loads this (`SCHEMATHESIS_HOOKS`) in a process of its own; the checks that these stand for are
left out there.
"""

import json
import re
from collections.abc import Callable
from typing import Any

import schemathesis
from schemathesis.specs.openapi import checks

Check = Callable[..., bool | None]

REFUSED: tuple[tuple[str, str, str], ...] = (
    # Operation, what the answer says, and why no schema does.
    (r"PATCH .*", r".*", "What a patch makes is judged as a whole; its paths have an allow-list."),
    (r".*", r".*\b(key|id) is there twice", "JSON Schema knows no uniqueness by a member."),
    (r".*", r"Authorization names a principal twice", "The same."),
    (r"PUT .*", r"Is_confidential can be set at creation only", "A rule between what is there and a body."),
    (r"GET .*", r"A parameter holds a NUL, which no text may", "Not all parameters have a pattern."),
    (r".*", r".*it holds the character U\+.*", "Characters that are not seen are too many for a pattern."),
    (r".*", r".*nothing is left of it without.*", "What HTML leaves behind is known to who takes it out."),
    (r".*", r".*it holds (a link to a script|HTML that is .*)", "The same."),
    (r"PUT .*/metadata/{key}", r"The key is not that of the path", "A rule between a path and a body."),
    (r"GET .*audit.*", r"The cursor is none of this service's", "Only this service makes cursors."),
    (r"(POST|PUT) .*", r"(.*_id: )?There is no such .*", "What is there is not in a schema."),
    (r"(GET|POST) /(oauth2|session)/.*", r".*", "What it names began, or is set up, elsewhere."),
    (r".*", r".*Input should be a valid integer", "JSON Schema calls 1.0 an integer; here it is none."),
    (r".*", r".*String should match pattern .*", "Engines differ in what `\\s` is, and in where `$` is."),
    (r"(POST|PUT) /me/preferences", r"A client's name has .*", "A rule for names of members."),
    (r"POST .*/test", r"The endpoint is not verified", "What is there is not in a schema."),
    (r"PUT /admin/settings/.*", r"This setting is of the type .*", "The same."),
    (r"POST .*/subscriptions", r"The URL.*", "Where a webhook may lead is judged by its host."),
    (r"POST .*/client_credentials", r"Expires_at is past", "Only a clock knows."),
)
ALSO_IDS = re.compile(r"/(bulk|automation|reencrypt)$")
"""`/threats/bulk` is also an id of `/threats/{id}`, if no good one, and `/metadata/bulk` a key: a method of
the latter is taken there, and `Allow` names it. Every path of both kinds is tried in
tests/unit/api/test_every_operation.py.
"""
NOT_MADE_YET = re.compile(r"/(collaborate|members)(/|$)")
"""A new diagram has no collaboration session, and a new group no member who is nobody."""


def _said(response: Any) -> str:
    try:
        return str(json.loads(response.content)["error_description"])
    except (ValueError, KeyError, TypeError):
        return ""


def _is_rightly_refused(response: Any, label: str) -> bool:
    said = _said(response)
    return response.status_code == 400 and any(
        re.fullmatch(operation, label) and re.fullmatch(words, said, re.IGNORECASE | re.DOTALL)
        for operation, words, _ in REFUSED
    )


@schemathesis.check
def valid_data_is_taken(ctx: Any, response: Any, case: Any) -> bool | None:
    """`positive_data_acceptance`, but for what a schema cannot say."""
    if _is_rightly_refused(response, case.operation.label):
        return None
    return checks.positive_data_acceptance(ctx, response, case)


@schemathesis.check
def other_methods_are_405(ctx: Any, response: Any, case: Any) -> bool | None:
    """`unsupported_method`, but where a path is also another's id."""
    if ALSO_IDS.search(case.operation.path):
        return None
    return checks.unsupported_method(ctx, response, case)


@schemathesis.check
def allow_names_the_methods(ctx: Any, response: Any, case: Any) -> bool | None:
    """`allow_header_conformance`, but where a path is also another's id."""
    if ALSO_IDS.search(case.operation.path):
        return None
    return checks.allow_header_conformance(ctx, response, case)


@schemathesis.check
def what_was_made_is_there(ctx: Any, response: Any, case: Any) -> bool | None:
    """`ensure_resource_availability`, but for what was not made with it."""
    if NOT_MADE_YET.search(case.operation.path):
        return None
    return checks.ensure_resource_availability(ctx, response, case)
