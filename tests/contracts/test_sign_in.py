"""The ports `Users`, `Codes`, `SignIns`, `RefreshTokens` and `SigningKeys`."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from tests.contracts.conftest import Ports
from tests.contracts.test_accounts import entry
from tests.contracts.test_client_credentials import made
from tmi.domain.errors import NotFound, Unauthenticated
from tmi.domain.ids import SignInId, UserId
from tmi.domain.model import AuthorizationCode, SignIn, SigningKey, User
from tmi.domain.ports import Page
from tmi.domain.sign_ins import Begun, RefreshToken, Refusal, Refused

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
    await ports.codes.issue("code", grant, HOUR)

    assert [grant, Refused(Refusal.REUSED)] == [await ports.codes.redeem("code") for _ in range(2)]


async def test_of_many_redemptions_at_once_one_succeeds(ports: Ports) -> None:
    grant = code_for(await ports.user())
    await ports.codes.issue("code", grant, HOUR)

    redeemed = await asyncio.gather(*(ports.codes.redeem("code") for _ in range(20)))

    assert 19 == redeemed.count(Refused(Refusal.REUSED))
    assert grant in redeemed


async def test_a_code_that_comes_back_ends_the_sign_in_that_it_began(ports: Ports) -> None:
    alice = await ports.user()
    await ports.codes.issue("code", code_for(alice), HOUR)
    await ports.codes.redeem("code")
    begun = await ports.sign_ins.start(alice.id, "token", HOUR, Begun(code="code"))
    other = await ports.sign_ins.start(alice.id, "other", HOUR)

    assert Refused(Refusal.REUSED, alice.id, begun.id, True) == await ports.codes.redeem("code")
    assert Refused(Refusal.REUSED, None, begun.id) == replace(await replayed(ports, "code"), user=None)

    assert None is await ports.sign_ins.get(begun.id)
    assert other == await ports.sign_ins.get(other.id)


async def replayed(ports: Ports, code: str) -> Refused:
    refused = await ports.codes.redeem(code)
    assert isinstance(refused, Refused)
    return refused


async def test_a_code_that_comes_back_before_its_sign_in_begins_keeps_it_from_beginning(ports: Ports) -> None:
    alice = await ports.user()
    await ports.codes.issue("code", code_for(alice), HOUR)
    await ports.codes.redeem("code")
    await ports.codes.redeem("code")

    with pytest.raises(Unauthenticated):
        await ports.sign_ins.start(alice.id, "token", HOUR, Begun(code="code"))

    assert Refused(Refusal.UNKNOWN) == await ports.refresh_tokens.rotate("token", "next", HOUR)
    assert ([], 0) == await ports.sign_ins.of_user(alice.id, Page(10, 0))


async def test_of_replays_at_any_moment_none_leaves_a_sign_in_standing(ports: Ports) -> None:
    alice = await ports.user()
    for n in range(5):
        code = f"code {n}"
        await ports.codes.issue(code, code_for(alice), HOUR)
        await ports.codes.redeem(code)
        started = ports.sign_ins.start(alice.id, f"token {n}", HOUR, Begun(code=code))
        await asyncio.gather(started, ports.codes.redeem(code), return_exceptions=True)

    assert ([], 0) == await ports.sign_ins.of_user(alice.id, Page(10, 0))


async def test_who_is_deleted_while_they_sign_in_is_refused(ports: Ports) -> None:
    for n in range(8):
        alice = await ports.user()
        code, other = f"code {n}", f"other {n}"
        await ports.codes.issue(code, code_for(alice), HOUR)
        await ports.codes.redeem(code)
        credential = await made(ports, alice, f"job {n}")
        begun = [Begun(code=code), Begun(credential=credential.id)]

        _, issued, *started = await asyncio.gather(
            ports.accounts.delete(alice.id, entry()),
            ports.codes.issue(other, code_for(alice), HOUR),
            *(ports.sign_ins.start(alice.id, None, HOUR, one) for one in begun),
            return_exceptions=True,
        )

        assert None is issued
        assert Refused(Refusal.UNKNOWN) == await ports.codes.redeem(other)
        for one in started:
            assert isinstance(one, SignIn | Unauthenticated), one


async def test_an_expired_and_an_unknown_code_are_worth_nothing(ports: Ports) -> None:
    alice = await ports.user()
    await ports.codes.issue("code", code_for(alice), PAST)

    assert Refused(Refusal.EXPIRED, alice.id) == await ports.codes.redeem("code")
    assert Refused(Refusal.UNKNOWN) == await ports.codes.redeem("unknown")


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

    rotated = await ports.refresh_tokens.rotate("first", "second", 2 * HOUR)
    again = await ports.refresh_tokens.rotate("second", "third", 3 * HOUR)

    assert isinstance(rotated, SignIn)
    assert isinstance(again, SignIn)
    assert started.id == rotated.id == again.id
    assert started.expires_at < rotated.expires_at < again.expires_at
    assert again == await ports.sign_ins.get(started.id)


async def test_a_token_used_twice_ends_its_whole_session_and_no_other(ports: Ports) -> None:
    alice = await ports.user()
    copied = await ports.sign_ins.start(alice.id, "first", HOUR)
    other = await ports.sign_ins.start(alice.id, "other", HOUR)
    await ports.refresh_tokens.rotate("first", "second", HOUR)

    reused = Refused(Refusal.REUSED, alice.id, copied.id, True)
    assert reused == await ports.refresh_tokens.rotate("first", "stolen", HOUR)

    assert None is await ports.sign_ins.get(copied.id)
    assert replace(reused, has_ended_it=False) == await ports.refresh_tokens.rotate("first", "x", HOUR)
    ended = Refused(Refusal.ENDED, alice.id, copied.id)
    assert ended == await ports.refresh_tokens.rotate("second", "x", HOUR)
    assert Refused(Refusal.UNKNOWN) == await ports.refresh_tokens.rotate("stolen", "x", HOUR)
    assert other == await ports.sign_ins.get(other.id)


async def test_of_many_exchanges_at_once_one_succeeds_and_the_session_ends(ports: Ports) -> None:
    started = await ports.sign_ins.start((await ports.user()).id, "first", HOUR)

    rotate = ports.refresh_tokens.rotate
    answers = await asyncio.gather(*(rotate("first", f"next {n}", HOUR) for n in range(10)))

    assert 1 == sum(isinstance(answer, SignIn) for answer in answers)
    assert {Refusal.REUSED} == {answer.why for answer in answers if isinstance(answer, Refused)}
    assert None is await ports.sign_ins.get(started.id)


async def test_a_used_token_ends_its_session_however_old_it_is(ports: Ports) -> None:
    alice = await ports.user()
    started = await ports.sign_ins.start(alice.id, "first", timedelta(seconds=0.05))
    rotated = await ports.refresh_tokens.rotate("first", "second", HOUR)
    assert isinstance(rotated, SignIn)
    await asyncio.sleep(0.1)
    await ports.purge()

    reused = Refused(Refusal.REUSED, alice.id, started.id, True)
    assert reused == await ports.refresh_tokens.rotate("first", "stolen", HOUR)

    assert None is await ports.sign_ins.get(started.id)


async def test_a_session_is_never_prolonged_past_its_longest_time(ports: Ports) -> None:
    started = await ports.sign_ins.start((await ports.user()).id, "first", HOUR)

    rotated = await ports.refresh_tokens.rotate("first", "second", 5 * HOUR, longest=2 * HOUR)

    assert isinstance(rotated, SignIn)
    assert timedelta(minutes=59) < rotated.expires_at - started.expires_at <= HOUR
    found = await ports.refresh_tokens.find("second")
    assert found is not None
    assert rotated.expires_at == found.expires_at


async def test_a_refresh_token_is_found_while_its_session_stands(ports: Ports) -> None:
    alice = await ports.user()
    started = await ports.sign_ins.start(alice.id, "first", HOUR)
    rotated = await ports.refresh_tokens.rotate("first", "second", HOUR)
    assert isinstance(rotated, SignIn)

    first, second = [await ports.refresh_tokens.find(token) for token in ("first", "second")]

    assert first == RefreshToken(rotated, started.expires_at, is_used=True)
    assert second == RefreshToken(rotated, rotated.expires_at, is_used=False)
    assert None is await ports.refresh_tokens.find("unknown")
    assert await ports.sign_ins.end(alice.id, started.id)
    assert None is await ports.refresh_tokens.find("second")


async def test_people_see_their_own_sign_ins_newest_first(ports: Ports) -> None:
    alice, bob = await ports.user(), await ports.user("bob")
    first = await ports.sign_ins.start(alice.id, "1", HOUR, Begun(client="Firefox"))
    second = await ports.sign_ins.start(alice.id, "2", HOUR)
    await ports.sign_ins.start(alice.id, "3", PAST)
    await ports.sign_ins.start(bob.id, "4", HOUR)
    rotated = await ports.refresh_tokens.rotate("1", "5", 2 * HOUR)
    assert isinstance(rotated, SignIn)

    found, total = await ports.sign_ins.of_user(alice.id, Page(10, 0))
    late, of_page = await ports.sign_ins.of_user(alice.id, Page(1, 5))

    assert [second.id, first.id] == [one.id for one in found]
    assert (2, [], 2) == (total, list(late), of_page)
    assert [None, "Firefox"] == [one.client for one in found]
    assert [second.expires_at, rotated.expires_at] == [one.expires_at for one in found]
    assert [True, False] == [one.refreshed_at is None for one in found]


async def test_a_session_is_ended_by_its_own_user_and_once(ports: Ports) -> None:
    alice, bob = await ports.user(), await ports.user("bob")
    started = await ports.sign_ins.start(alice.id, "token", HOUR)

    assert not await ports.sign_ins.end(bob.id, started.id)
    assert started == await ports.sign_ins.get(started.id)
    assert [True, False] == [await ports.sign_ins.end(alice.id, started.id) for _ in range(2)]

    assert None is await ports.sign_ins.get(started.id)


async def test_it_is_known_when_those_that_stand_will_end(ports: Ports) -> None:
    alice = await ports.user()
    stands, ended = [await ports.sign_ins.start(alice.id, str(n), HOUR) for n in range(2)]
    expired = await ports.sign_ins.start(alice.id, "expired", PAST)
    await ports.sign_ins.end(alice.id, ended.id)
    asked = [stands.id, ended.id, expired.id, SignInId(uuid4())]
    assert {stands.id: stands.expires_at} == dict(await ports.sign_in_terms.ends(asked))


async def test_all_sessions_but_one_are_ended(ports: Ports) -> None:
    alice, bob = await ports.user(), await ports.user("bob")
    of_alice = [await ports.sign_ins.start(alice.id, str(n), HOUR) for n in range(3)]
    of_bob = await ports.sign_ins.start(bob.id, "bob", HOUR)

    ended = await ports.sign_ins.end_all(alice.id, of_alice[1].id)

    assert {of_alice[0].id, of_alice[2].id} == set(ended)
    assert [None, of_alice[1], None] == [await ports.sign_ins.get(one.id) for one in of_alice]
    assert [of_alice[1].id] == list(await ports.sign_ins.end_all(alice.id))
    assert of_bob == await ports.sign_ins.get(of_bob.id)


async def test_an_expired_and_an_unknown_token_end_nothing(ports: Ports) -> None:
    alice = await ports.user()
    started = await ports.sign_ins.start(alice.id, "token", HOUR)
    old = await ports.sign_ins.start(alice.id, "expired", PAST)

    assert [Refused(Refusal.EXPIRED, alice.id, old.id), Refused(Refusal.UNKNOWN)] == [
        await ports.refresh_tokens.rotate(token, "next", HOUR) for token in ("expired", "unknown")
    ]
    assert started == await ports.sign_ins.get(started.id)


async def test_the_first_signing_key_wins(ports: Ports) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    first, second = [SigningKey(kid, "EdDSA", b"pem", at, at) for kid in ("a", "b")]
    assert [] == list(await ports.signing_keys.current())

    assert [[first], [first]] == [list(await ports.signing_keys.add_first(key)) for key in (first, second)]

    assert [first] == list(await ports.signing_keys.current())


async def test_of_many_first_signing_keys_at_once_one_wins_and_all_learn_it(ports: Ports) -> None:
    keys = [SigningKey(str(n), "EdDSA", b"pem", datetime(2026, 1, 1, tzinfo=UTC)) for n in range(8)]

    answers = await asyncio.gather(*(ports.signing_keys.add_first(key) for key in keys))

    assert [list(answers[0])] * 8 == [list(answer) for answer in answers]
    assert 1 == len(answers[0])
