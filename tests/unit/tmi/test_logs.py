"""Logs never hold a token, whatever a library writes."""

import pytest

from tmi.logs import without_secrets

JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (f"GET /collab/1?token={JWT}&saved=1", "GET /collab/1?[secret]&saved=1"),
        ("POST refresh_token=abc&x=1", "POST [secret]&x=1"),
        ("Authorization: Bearer abc.def", "Authorization: [secret]"),
        (f"what is {JWT} ?", "what is [token] ?"),
        ("/callback?code=abc&state=1", "/callback?[secret]&state=1"),
        ("closed with code=1012 after 3 s", "closed with code=1012 after 3 s"),
        ("Authorization: Basic YTpi", "Authorization: [secret]"),
        ("client_id=a&client_secret=b", "client_id=a&[secret]"),
        ("the secret tmi_cs_a-b_c was refused", "the secret [secret] was refused"),
        ("/ws?session_id=1&ticket=abc", "/ws?session_id=1&[secret]"),
        ("Cookie: __Host-tmi_session=abc; x=1", "Cookie: [secret] x=1"),
        ("Cookie: tmi-sign-in=abc", "Cookie: [secret]"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_what_looks_like_a_token_is_blotted_out(written: str, kept: str) -> None:
    for place in ("event", "exception", "path"):
        assert {place: kept} == without_secrets(None, "info", {place: written})
