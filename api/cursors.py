"""Places in a list that grows at its newest end, as clients hand them back."""

import base64
import binascii
import re

from tmi.domain.errors import BadInput

_CURSOR = re.compile(r"([on])([0-9]{1,18})")


def parsed(text: str | None) -> tuple[bool, int | None]:
    """Whether towards newer entries, and from where. Raises BadInput."""
    if text is None:
        return False, None
    try:
        match = _CURSOR.fullmatch(base64.urlsafe_b64decode(text.encode("ascii")).decode("ascii"))
    except (binascii.Error, ValueError):
        match = None
    if match is None:
        raise BadInput("the cursor is none of this service's")
    return match[1] == "n", int(match[2])


def older(number: int | None) -> str | None:
    """The cursor of the page after one that ends at `number`; None where there is none."""
    return None if number is None else _encoded("o", number)


def newer(number: int | None) -> str | None:
    """The cursor of the page before one that begins at `number`; None where there is none."""
    return None if number is None else _encoded("n", number)


def _encoded(direction: str, number: int) -> str:
    return base64.urlsafe_b64encode(f"{direction}{number}".encode()).decode()
