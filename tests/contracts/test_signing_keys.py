"""The ports `SigningKeys` and `KeyRotation` together: terms of keys."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from api.tokens import new_signing_key
from tests.contracts.conftest import Ports
from tests.contracts.test_accounts import entry
from tmi.domain.errors import Conflict
from tmi.domain.model import SigningKey

MINUTE = timedelta(minutes=1)


async def first_key(ports: Ports, ttl: timedelta = 15 * MINUTE) -> SigningKey:
    key = replace(new_signing_key(), created_at=datetime.now(UTC) - timedelta(days=1))
    await ports.signing_keys.add_first(key)
    await ports.signing_keys.promise(ttl)
    return key


async def test_a_new_key_is_known_before_it_signs_and_the_old_one_verifies_until_its_tokens_end(
    ports: Ports,
) -> None:
    old, new = await first_key(ports), new_signing_key()

    term = await ports.key_rotation.add(new, MINUTE, entry())

    assert new.kid == term.kid
    assert timedelta(seconds=55) < term.signs_from - datetime.now(UTC) <= MINUTE
    assert [new.kid, old.kid] == [key.kid for key in await ports.signing_keys.current()]
    assert term.signs_from == (await ports.signing_keys.current())[0].signs_from
    newest, oldest = await ports.key_rotation.terms()
    assert (term, None, None) == (newest, newest.signs_until, newest.verifies_until)
    assert (old.kid, term.signs_from) == (oldest.kid, oldest.signs_until)
    assert oldest.verifies_until is not None
    assert term.signs_from + 15 * MINUTE < oldest.verifies_until <= term.signs_from + 17 * MINUTE


async def test_a_key_is_gone_after_the_last_of_its_tokens(ports: Ports) -> None:
    old, new = await first_key(ports, ttl=timedelta(0)), new_signing_key()

    await ports.key_rotation.add(new, -2 * MINUTE, entry())

    assert [new.kid] == [key.kid for key in await ports.signing_keys.current()]
    assert [new.kid] == [term.kid for term in await ports.key_rotation.terms()]
    await ports.purge()
    assert [new.kid] == [key.kid for key in await ports.signing_keys.current()]
    assert old.kid != new.kid


async def test_a_node_with_longer_tokens_keeps_keys_longer_and_none_shortens_that(ports: Ports) -> None:
    await first_key(ports, ttl=60 * MINUTE)
    await ports.signing_keys.promise(MINUTE)
    term = await ports.key_rotation.add(new_signing_key(), MINUTE, entry())
    oldest = (await ports.key_rotation.terms())[1]
    assert oldest.verifies_until is not None
    assert oldest.verifies_until >= term.signs_from + 60 * MINUTE


async def test_one_new_key_waits_at_a_time_also_when_two_operators_rotate_at_once(ports: Ports) -> None:
    await first_key(ports)
    answers = await asyncio.gather(
        *(ports.key_rotation.add(new_signing_key(), MINUTE, entry()) for _ in range(4)),
        return_exceptions=True,
    )
    assert 3 == sum(isinstance(answer, Conflict) for answer in answers)
    with pytest.raises(Conflict):
        await ports.key_rotation.add(new_signing_key(), MINUTE, entry())


async def test_a_replacement_takes_all_others_away_at_once(ports: Ports) -> None:
    old, waiting, new = await first_key(ports), new_signing_key(), new_signing_key()
    await ports.key_rotation.add(waiting, MINUTE, entry())

    gone = await ports.key_rotation.replace_all(new, entry())

    assert {old.kid, waiting.kid} == set(gone)
    (current,) = await ports.signing_keys.current()
    assert (new.kid, new.private_pem) == (current.kid, current.private_pem)
    assert current.signs_from is not None
    assert current.signs_from <= datetime.now(UTC) + timedelta(seconds=1)
