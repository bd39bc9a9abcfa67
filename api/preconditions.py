"""ETag and If-Match: the version that a writer has read (RFC 9110, sections 8.8.3 and 13.1.1)."""

import re

from quart import request

from api import schemas
from api.context import services
from api.errors import PreconditionRequired
from tmi.domain.errors import BadInput

_IF_MATCH = re.compile(schemas.IF_MATCH)
_MOST_DIGITS = 10
_NO_VERSION = 0
"""What no version equals. A weak tag never matches: If-Match compares strongly (section 13.1.1)."""


def expected_version(*, of_deletion: bool = False) -> int | None:
    """The version of If-Match; None where any will do.

    Raises BadInput, and PreconditionRequired where a setting wants one and there is none: of a deletion none
    does, since the contract's clients never send one with it.
    """
    text = request.headers.get("If-Match")
    if text is None:
        if services().options.if_match_required and not of_deletion:
            raise PreconditionRequired
        return None
    if _IF_MATCH.fullmatch(text) is None:
        raise BadInput('If-Match takes a version, as in If-Match: "3"')
    version = re.sub("[^0-9]", "", text)
    if not version:
        return None
    return _NO_VERSION if "W" in text or len(version) > _MOST_DIGITS else int(version)


def etag(version: int | None) -> dict[str, str]:
    """The header that tells a version, of what has one."""
    return {} if version is None else {"ETag": f'"{version}"'}
