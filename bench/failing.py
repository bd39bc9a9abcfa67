"""What broke something off, in plain words for people, and as a traceback for whoever looks into it."""

import re
import traceback

from picows import WSError

from bench.servers.base import ServerError

_TOKEN = re.compile(r"(token=)[^\s&'\")]+")


def plain_words(error: BaseException) -> str:
    """One line. Of several errors at once it tells the first; of one that nobody foresaw also the kind."""
    error = _first(error)
    lines = str(error).strip().splitlines()
    if isinstance(error, TimeoutError) and not lines:
        return "it took longer than it may (TimeoutError)"
    if isinstance(error, (ServerError, WSError, OSError)):
        return lines[0] if lines else type(error).__name__
    kind = type(error).__name__
    return f"{kind}: {lines[0]}" if lines else kind


def in_full(error: BaseException) -> str:
    """The traceback, without tokens."""
    return _TOKEN.sub(r"\1...", "".join(traceback.format_exception(error)))


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
