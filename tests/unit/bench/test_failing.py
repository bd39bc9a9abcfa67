"""What is told of an error: one plain line, and all of it without tokens."""

import pytest

from bench.failing import in_full, plain_words
from bench.servers import ServerError


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ServerError("did not start.\nIt said:\nTraceback"), "did not start."),
        (ConnectionError(), "ConnectionError"),
        (TimeoutError(), "it took longer than it may (TimeoutError)"),
        (TimeoutError("no answer"), "no answer"),
        (KeyError("clock"), "KeyError: 'clock'"),
        (ValueError("odd\nand even"), "ValueError: odd"),
        (AssertionError(), "AssertionError"),
        (ExceptionGroup("a", [ExceptionGroup("b", [OSError("first")]), OSError("second")]), "first"),
    ],
)
def test_an_error_is_one_plain_line(error: Exception, words: str) -> None:
    assert words == plain_words(error)


def test_the_traceback_of_an_error_holds_no_token() -> None:
    error = OSError("no answer from ws://localhost/x?token=ey.secret&a=b and wss://localhost/y?token=ey.secret")
    told = in_full(error)
    assert "secret" not in told
    assert "?token=...&a=b" in told
