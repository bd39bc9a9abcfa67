"""ETag and If-Match: the version that a writer has read (RFC 9110, sections 8.8.3 and 13.1.1)."""

import re

from quart import request

from api.context import services
from api.errors import PreconditionRequired
from tmi.domain.errors import BadInput, VersionMismatch

_IF_MATCH = re.compile(r'\*|(?:W/)?"?([0-9]{1,10})"?')


def expected_version() -> int | None:
    """The version of If-Match; None where any will do.

    Raises BadInput, and PreconditionRequired where a setting wants one and there is none.
    """
    text = request.headers.get("If-Match")
    if text is None:
        if services().options.if_match_required:
            raise PreconditionRequired
        return None
    match = _IF_MATCH.fullmatch(text.strip())
    if match is None:
        raise BadInput('If-Match takes a version, as in If-Match: "3"')
    return None if match[1] is None else int(match[1])


def check_version(expected: int | None, present: int, words: str) -> None:
    """Raises VersionMismatch."""
    if expected is not None and expected != present:
        raise VersionMismatch(f"the {words} is at version {present} now")


def etag(version: int | None) -> dict[str, str]:
    """The header that tells a version, of what has one."""
    return {} if version is None else {"ETag": f'"{version}"'}
