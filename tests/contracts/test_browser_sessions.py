"""The port `BrowserSessions`."""

import asyncio
from datetime import timedelta

from tests.contracts.conftest import Ports
from tmi.domain.browser import Visitor
from tmi.domain.model import SignIn
from tmi.domain.ports import AuditFilter

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


async def idle_and_used(ports: Ports) -> tuple[SignIn, SignIn]:
    """Sign-ins of a browser that went unused for too long ten seconds ago, and of one that did not."""
    alice = await ports.user()
    idle, used = [await ports.sign_ins.start(alice.id, None, HOUR) for _ in range(2)]
    await ports.browser_sessions.begin("idle", idle.id, timedelta(seconds=-10))
    await ports.browser_sessions.begin("used", used.id, HOUR)
    return idle, used


async def test_sign_ins_of_idle_browsers_are_ended_once(ports: Ports) -> None:
    idle, used = await idle_and_used(ports)
    of_a_program = await ports.sign_ins.start(idle.user.id, None, HOUR)

    ended = [await ports.browser_sessions.end_idle(timedelta(seconds=5), 10) for _ in range(2)]

    assert [[idle.id], []] == [[one.sign_in for one in some] for some in ended]
    (kept,) = (await ports.audit.page(AuditFilter(what="sign_in.idle"), 10, None, newer=False)).entries
    assert (ended[0][0].entry.id, idle.user.id, str(idle.id)) == (kept.id, kept.actor, kept.old)
    standing = [await ports.sign_ins.get(one.id) for one in (idle, used, of_a_program)]
    assert [False, True, True] == [one is not None for one in standing]


async def test_they_are_ended_late_and_so_many_at_a_time(ports: Ports) -> None:
    alice = await ports.user()
    sign_ins = [await ports.sign_ins.start(alice.id, None, HOUR) for _ in range(3)]
    for n, sign_in in enumerate(sign_ins):
        await ports.browser_sessions.begin(str(n), sign_in.id, timedelta(seconds=-10))

    assert [] == list(await ports.browser_sessions.end_idle(timedelta(seconds=20), 10))
    batches = [await ports.browser_sessions.end_idle(timedelta(seconds=5), 2) for _ in range(3)]

    assert [2, 1, 0] == [len(batch) for batch in batches]


async def test_a_sign_in_with_a_browser_that_is_used_stands(ports: Ports) -> None:
    sign_in = await ports.sign_ins.start((await ports.user()).id, None, HOUR)
    await ports.browser_sessions.begin("idle", sign_in.id, timedelta(seconds=-10))
    await ports.browser_sessions.begin("used", sign_in.id, HOUR)

    assert [] == list(await ports.browser_sessions.end_idle(timedelta(seconds=5), 10))


async def test_edits_are_uses_unless_they_come_too_late(ports: Ports) -> None:
    idle, used = await idle_and_used(ports)
    unknown = await ports.sign_ins.start(idle.user.id, None, HOUR)
    every = [idle.id, used.id, unknown.id]

    await ports.browser_sessions.edited(every, timedelta(seconds=-30), timedelta(seconds=5))
    assert None is await ports.browser_sessions.use("used", HOUR), "it was given another end"
    await ports.browser_sessions.edited(every, HOUR, timedelta(seconds=20))

    ended = await ports.browser_sessions.end_idle(timedelta(seconds=5), 10)
    assert [used.id] == [one.sign_in for one in ended], "thirty seconds are more than twenty"
    assert None is not await ports.browser_sessions.use("idle", HOUR)
