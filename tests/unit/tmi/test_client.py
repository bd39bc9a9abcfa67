"""What keeps `tmi token` from getting one."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tmi.client import Credential, access_token, read_credential
from tmi.domain.errors import Unavailable
from tmi.settings import BadSetting, read_settings

BOTH = {"TMI_CLIENT_ID": "a", "TMI_CLIENT_SECRET": "b"}


@pytest.mark.parametrize(
    ("file", "environment", "said"),
    [
        (None, {}, "Give a client credential"),
        (None, {"TMI_CLIENT_ID": "a"}, "Give a client credential"),
        (None, BOTH | {"TMI_CLIENT_SECRET_FILE": "c"}, "not both"),
        (None, {"TMI_CLIENT_ID": "a", "TMI_CLIENT_SECRET_FILE": "/nowhere"}, "can't be read"),
        ("/nowhere", {}, "can't be read"),
        ("/dev/null", BOTH, "JSON object"),
    ],
)
def test_a_credential_that_is_not_there_is_named(
    file: str | None, environment: Mapping[str, str], said: str
) -> None:
    with pytest.raises(BadSetting, match=said):
        read_credential(None if file is None else Path(file), environment)


def test_a_credential_is_read_from_a_file_or_the_environment(tmp_path: Path) -> None:
    answer, secret = tmp_path / "answer.json", tmp_path / "secret"
    answer.write_text('{"id": "1", "client_id": "a", "client_secret": "b"}')
    secret.write_text("b\n")
    by_file = {"TMI_CLIENT_ID": "a", "TMI_CLIENT_SECRET_FILE": str(secret)}
    expected = Credential("a", "b")
    assert expected == read_credential(answer, {})
    assert expected == read_credential(None, BOTH)
    assert expected == read_credential(None, by_file)
    assert "b" not in repr(Credential("a", "b")).removeprefix("Credential")


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost", "ftp://localhost", "http://tmi.example.org", "http://a:b@localhost", "http://[",
        "http://127.0.0.1:1?x=y",
    ],
)  # fmt: skip
def test_a_secret_goes_nowhere_but_to_https_or_this_machine(url: str) -> None:
    with pytest.raises(BadSetting):
        access_token(url, Credential("a", "b"))


def test_a_service_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        access_token("http://127.0.0.1:1", Credential("a", "b"))


def test_what_scripts_use_does_not_stop_a_service() -> None:
    read_settings({}, BOTH)
