"""What a service refuses is told in its words, with the setting to raise."""

import pytest
from picows import WSHandshakeError
from picows.common import WSUpgradeResponse

from api.errors import problem_of
from api.live.upgrade import response
from bench.machine import ROOT
from bench.refusals import ANY_OF, LIMITS, Refused, with_setting
from tmi.domain.errors import Forbidden, TmiError, TooManyRequests, Unavailable
from tmi.settings import describe_settings


def _refused(answer: bytes, error: TmiError) -> str:
    """What is made of the service's own answer, as picows hands it over."""
    upgrade = WSUpgradeResponse.create_error_response(problem_of(error).status)
    return str(Refused.by(WSHandshakeError("refused", None, answer.partition(b"\r\n\r\n")[2], upgrade)))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            TooManyRequests("this user has too many open documents"),
            "429: This user has too many open documents (the service's limit TMI_DOCUMENTS_PER_USER_MAX)",
        ),
        (
            Unavailable("this node has as many sockets as it may"),
            "503: This node has as many sockets as it may (the service's limit TMI_SOCKETS_MAX)",
        ),
        (
            TooManyRequests("many sign-in requests of this address"),
            "429: Many sign-in requests of this address (the service's limit TMI_SIGN_IN_REQUESTS_PER_MIN)",
        ),
        (Forbidden("you have no role here"), "403: You have no role here"),
    ],
)
def test_a_refused_upgrade_names_the_setting(error: TmiError, told: str) -> None:
    assert f"refused with {told}" == _refused(response(problem_of(error)), error)


def test_an_answer_of_somebody_else_names_what_it_can_be() -> None:
    told = _refused(b"HTTP/1.1 429\r\n\r\n<html>slow down</html>", TooManyRequests("x"))
    assert f"refused with 429: Too Many Requests (the service's limit {ANY_OF[429]})" == told


def test_what_is_no_limit_is_told_as_it_is() -> None:
    assert "the service is stopping" == with_setting("the service is stopping")


@pytest.mark.parametrize("words", LIMITS)
def test_the_words_are_those_of_the_service(words: str) -> None:
    files = [file for folder in ("api", "rooms", "tmi") for file in (ROOT / folder).rglob("*.py")]
    assert any(words in file.read_text().lower() for file in files)


def test_words_that_hold_others_come_before_them() -> None:
    told = list(LIMITS)
    assert [] == [(one, later) for n, one in enumerate(told) for later in told[n + 1 :] if one in later]


def test_the_settings_are_those_of_the_service() -> None:
    known = {name for name, _, _ in describe_settings()}
    named = {
        word.strip(",") for text in (*LIMITS.values(), *ANY_OF.values()) for word in text.split()
        if word.startswith("TMI_")
    }  # fmt: skip
    assert named <= known
