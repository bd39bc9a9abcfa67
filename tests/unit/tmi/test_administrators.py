"""Whom a name `provider:id` or `provider:e-mail` means."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from tmi.domain.ids import UserId
from tmi.domain.model import User


def user(provider: str, provider_id: str, email: str, *, email_verified: bool = True) -> User:
    return User(UserId(uuid4()), provider, provider_id, email, "Mike", datetime.now(UTC), email_verified)


@pytest.mark.parametrize("name", ["idp:4711", "idp:mike@example.org", "idp:MIKE@Example.org"])
def test_an_id_as_it_is_and_an_email_in_any_case_mean_the_user(name: str) -> None:
    assert user("idp", "4711", "Mike@example.org").is_one_of([name])


@pytest.mark.parametrize(
    "name", ["other:4711", "idp:47", "idp:mike@example.com", "idp:Mi\u212ae@example.org"]
)
def test_another_provider_a_part_or_a_lookalike_does_not(name: str) -> None:
    assert not user("idp", "4711", "Mike@example.org").is_one_of([name])


def test_an_id_is_compared_with_its_case() -> None:
    assert not user("idp", "aBc", "mike@example.org").is_one_of(["idp:abc"])


def test_an_address_that_nobody_vouches_for_means_nobody() -> None:
    mallory = user("idp", "666", "mike@example.org", email_verified=False)

    assert not mallory.is_one_of(["idp:mike@example.org"])
    assert mallory.is_one_of(["idp:666"])
