"""The port `PendingAuthorizations`."""

import asyncio
from datetime import timedelta

from tests.contracts.conftest import Ports
from tmi.domain.sign_in import PendingAuthorization

HOUR = timedelta(hours=1)
PENDING = PendingAuthorization("corp", "http://127.0.0.1:1/callback", "xyz", "challenge", "openid")
NAMELESS = PendingAuthorization("corp", "http://127.0.0.1:1/callback", None, "challenge", "openid")


async def test_one_that_is_finished_is_gone(ports: Ports) -> None:
    await ports.pending_authorizations.begin("state", "browser", PENDING, HOUR)
    await ports.pending_authorizations.begin("other", "browser", NAMELESS, HOUR)

    finish = ports.pending_authorizations.finish
    assert [PENDING, None] == [await finish("state", "browser") for _ in range(2)]
    assert NAMELESS == await finish("other", "browser")


async def test_another_browser_finishes_nothing_and_takes_nothing_away(ports: Ports) -> None:
    await ports.pending_authorizations.begin("state", "browser", PENDING, HOUR)

    assert None is await ports.pending_authorizations.finish("state", "another")
    assert PENDING == await ports.pending_authorizations.finish("state", "browser")


async def test_an_expired_and_an_unknown_one_are_worth_nothing(ports: Ports) -> None:
    await ports.pending_authorizations.begin("state", "browser", PENDING, timedelta(seconds=-1))

    finish = ports.pending_authorizations.finish
    assert [None, None] == [await finish(state, "browser") for state in ("state", "unknown")]


async def test_of_many_who_finish_at_once_one_succeeds(ports: Ports) -> None:
    await ports.pending_authorizations.begin("state", "browser", PENDING, HOUR)

    finished = await asyncio.gather(
        *(ports.pending_authorizations.finish("state", "browser") for _ in range(20))
    )

    assert 19 == finished.count(None)
    assert PENDING in finished
