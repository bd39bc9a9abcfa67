"""The ports `Users`, `SignIns` and `SigningKeys`."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from tests.contracts.conftest import Ports
from tmi.domain.errors import NotFound
from tmi.domain.ids import SignInId, UserId
from tmi.domain.model import AuthorizationCode, SigningKey, User

HOUR = timedelta(hours=1)
PAST = timedelta(seconds=-1)


def code_for(user: User) -> AuthorizationCode:
    return AuthorizationCode(user, "http://127.0.0.1:1234/callback", "challenge", "openid profile")


async def test_a_user_who_signs_in_again_is_the_same_with_a_current_name(ports: Ports) -> None:
    first = await ports.users.sign_in("corp", "1", "dave@example.com", "Dave")

    again = await ports.users.sign_in("corp", "1", "david@example.com", "David")

    assert replace(first, email="david@example.com", name="David") == again
    assert again == await ports.users.get(first.id)


async def test_one_id_at_two_providers_is_two_users(ports: Ports) -> None:
    users = [await ports.users.sign_in(provider, "1", "d@example.com", "D") for provider in ("corp", "other")]

    assert users[0].id != users[1].id


async def test_many_first_sign_ins_at_once_make_one_user(ports: Ports) -> None:
    users = await asyncio.gather(*(ports.user() for _ in range(20)))

    assert 1 == len({user.id for user in users})


async def test_an_unknown_user_is_not_found(ports: Ports) -> None:
    with pytest.raises(NotFound):
        await ports.users.get(UserId(uuid4()))


async def test_a_code_is_redeemed_once(ports: Ports) -> None:
    grant = code_for(await ports.user())
    await ports.sign_ins.issue_code("code", grant, HOUR)

    assert [grant, None] == [await ports.sign_ins.redeem_code("code") for _ in range(2)]


async def test_of_many_redemptions_at_once_one_succeeds(ports: Ports) -> None:
    grant = code_for(await ports.user())
    await ports.sign_ins.issue_code("code", grant, HOUR)

    redeemed = await asyncio.gather(*(ports.sign_ins.redeem_code("code") for _ in range(20)))

    assert 19 == redeemed.count(None)
    assert grant in redeemed


async def test_an_expired_and_an_unknown_code_are_worth_nothing(ports: Ports) -> None:
    await ports.sign_ins.issue_code("code", code_for(await ports.user()), PAST)

    assert [None, None] == [await ports.sign_ins.redeem_code(code) for code in ("code", "unknown")]


async def test_a_session_stands_until_it_expires(ports: Ports) -> None:
    alice = await ports.user()

    started = await ports.sign_ins.start(alice.id, "token", HOUR)
    expired = await ports.sign_ins.start(alice.id, "another token", PAST)

    assert alice == started.user
    assert timedelta(0) < started.expires_at - datetime.now(UTC) <= HOUR
    assert started == await ports.sign_ins.get(started.id)
    assert None is await ports.sign_ins.get(expired.id)
    assert None is await ports.sign_ins.get(SignInId(uuid4()))


async def test_a_session_shows_its_user_as_now_known(ports: Ports) -> None:
    alice = await ports.user()
    started = await ports.sign_ins.start(alice.id, "token", HOUR)
    renamed = await ports.users.sign_in("tmi", "alice@tmi.local", "alice@tmi.local", "Alice B.")

    found = await ports.sign_ins.get(started.id)

    assert found is not None
    assert renamed == found.user


async def test_a_refresh_token_is_exchanged_and_prolongs_the_session(ports: Ports) -> None:
    started = await ports.sign_ins.start((await ports.user()).id, "first", HOUR)

    rotated = await ports.sign_ins.rotate("first", "second", 2 * HOUR)
    again = await ports.sign_ins.rotate("second", "third", 3 * HOUR)

    assert rotated is not None
    assert again is not None
    assert started.id == rotated.id == again.id
    assert started.expires_at < rotated.expires_at < again.expires_at
    assert again == await ports.sign_ins.get(started.id)


async def test_a_token_used_twice_ends_its_whole_session_and_no_other(ports: Ports) -> None:
    alice = await ports.user()
    copied = await ports.sign_ins.start(alice.id, "first", HOUR)
    other = await ports.sign_ins.start(alice.id, "other", HOUR)
    await ports.sign_ins.rotate("first", "second", HOUR)

    assert None is await ports.sign_ins.rotate("first", "stolen", HOUR)

    assert None is await ports.sign_ins.get(copied.id)
    assert [None, None] == [await ports.sign_ins.rotate(token, "x", HOUR) for token in ("second", "stolen")]
    assert other == await ports.sign_ins.get(other.id)


async def test_of_many_exchanges_at_once_one_succeeds_and_the_session_ends(ports: Ports) -> None:
    started = await ports.sign_ins.start((await ports.user()).id, "first", HOUR)

    answers = await asyncio.gather(*(ports.sign_ins.rotate("first", f"next {n}", HOUR) for n in range(10)))

    assert 9 == answers.count(None)
    assert None is await ports.sign_ins.get(started.id)


async def test_an_expired_and_an_unknown_token_end_nothing(ports: Ports) -> None:
    alice = await ports.user()
    started = await ports.sign_ins.start(alice.id, "token", HOUR)
    await ports.sign_ins.start(alice.id, "expired", PAST)

    assert [None, None] == [
        await ports.sign_ins.rotate(token, "next", HOUR) for token in ("expired", "unknown")
    ]
    assert started == await ports.sign_ins.get(started.id)


async def test_the_first_signing_key_wins(ports: Ports) -> None:
    first, second = [SigningKey(kid, "EdDSA", b"pem", datetime(2026, 1, 1, tzinfo=UTC)) for kid in ("a", "b")]
    assert [] == list(await ports.signing_keys.current())

    assert [[first], [first]] == [list(await ports.signing_keys.add_first(key)) for key in (first, second)]

    assert [first] == list(await ports.signing_keys.current())


async def test_of_many_first_signing_keys_at_once_one_wins_and_all_learn_it(ports: Ports) -> None:
    keys = [SigningKey(str(n), "EdDSA", b"pem", datetime(2026, 1, 1, tzinfo=UTC)) for n in range(8)]

    answers = await asyncio.gather(*(ports.signing_keys.add_first(key) for key in keys))

    assert [list(answers[0])] * 8 == [list(answer) for answer in answers]
    assert 1 == len(answers[0])
