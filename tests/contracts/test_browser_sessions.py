"""The port `BrowserSessions`."""

import asyncio
from datetime import timedelta

from tests.contracts.conftest import Ports
from tmi.domain.browser import Visitor

HOUR = timedelta(hours=1)
PAST = timedelta(seconds=-1)


async def test_a_secret_stands_for_its_sign_in(ports: Ports) -> None:
    sign_in = await ports.sign_ins.start((await ports.user()).id, None, HOUR)
    await ports.browser_sessions.begin("secret", sign_in.id, HOUR)

    used = [await ports.browser_sessions.use("secret", HOUR) for _ in range(2)]

    assert [Visitor(sign_in.user.id, sign_in.id, sign_in.expires_at)] * 2 == used


async def test_an_unknown_secret_stands_for_nobody(ports: Ports) -> None:
    sign_in = await ports.sign_ins.start((await ports.user()).id, None, HOUR)
    await ports.browser_sessions.begin("secret", sign_in.id, HOUR)

    assert None is await ports.browser_sessions.use("another", HOUR)


async def test_one_that_went_unused_for_too_long_is_over(ports: Ports) -> None:
    sign_in = await ports.sign_ins.start((await ports.user()).id, None, HOUR)
    await ports.browser_sessions.begin("late", sign_in.id, PAST)
    await ports.browser_sessions.begin("lately", sign_in.id, HOUR)
    await ports.browser_sessions.use("lately", PAST)

    assert [None, None] == [await ports.browser_sessions.use(one, HOUR) for one in ("late", "lately")]


async def test_each_use_counts_from_anew(ports: Ports) -> None:
    sign_in = await ports.sign_ins.start((await ports.user()).id, None, HOUR)
    await ports.browser_sessions.begin("secret", sign_in.id, timedelta(seconds=0.3))

    await ports.browser_sessions.use("secret", HOUR)
    await asyncio.sleep(0.35)

    assert None is not await ports.browser_sessions.use("secret", HOUR)


async def test_it_is_over_with_its_sign_in(ports: Ports) -> None:
    alice = await ports.user()
    ended = await ports.sign_ins.start(alice.id, None, HOUR)
    expired = await ports.sign_ins.start(alice.id, None, PAST)
    for secret, sign_in in (("ended", ended), ("expired", expired)):
        await ports.browser_sessions.begin(secret, sign_in.id, HOUR)
    await ports.sign_ins.end(alice.id, ended.id)

    assert [None, None] == [await ports.browser_sessions.use(one, HOUR) for one in ("ended", "expired")]


async def test_two_browsers_have_sessions_of_their_own(ports: Ports) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")
    signed_in = {user.id: await ports.sign_ins.start(user.id, None, HOUR) for user in (alice, bob)}
    for user, sign_in in signed_in.items():
        await ports.browser_sessions.begin(str(user), sign_in.id, HOUR)
    await ports.sign_ins.end(alice.id, signed_in[alice.id].id)

    found = await ports.browser_sessions.use(str(bob.id), HOUR)

    assert None is await ports.browser_sessions.use(str(alice.id), HOUR)
    assert found is not None
    assert bob.id == found.user
