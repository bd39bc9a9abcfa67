"""Webhooks outlive kill -9: what was committed is told by whoever starts next."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.faults.conftest import OwnPostgres
from tests.harness.endpoint import Call, Reply, agreeable, endpoint, until
from tests.harness.rest import Rest
from tests.harness.service import ADMINISTRATOR, Service

SETTINGS = {
    "TMI_WEBHOOK_NETWORKS": "127.0.0.0/8",
    "TMI_WEBHOOK_TIMEOUT_S": "0.7",
    "TMI_WEBHOOK_KEY": "a key of the deployment: long and random",
}
CHANGES = 6
AT_ONCE = 4


async def test_a_change_is_told_though_the_service_is_killed_right_after_it(
    tmp_path: Path, own_postgres: OwnPostgres
) -> None:
    """Some deliveries are under way when it is killed, and others not begun."""
    is_stuck = False

    def answer(call: Call) -> Reply:
        return Reply(never=True) if is_stuck and not call.is_challenge else agreeable(call)

    with Service(tmp_path / "data", SETTINGS, own_postgres.url) as service:
        async with endpoint(answer) as hook, Rest(service.url) as rest:
            admin = await rest.sign_in(ADMINISTRATOR)

            async def call(method: str, path: str, body: object = None) -> Any:
                made = await rest.http.request(method, path, json=body, headers=admin.headers)
                assert made.is_success, made.text
                return made.json()

            webhook = {
                "name": "Ours",
                "url": hook.url,
                "events": ["threat_model.created"],
                "secret": "s" * 16,
            }
            path = "/admin/webhooks/subscriptions"
            made = await call("POST", path, webhook)
            await eventually(
                lambda: call("GET", f"{path}/{made['id']}"), lambda one: one["status"] == "active"
            )
            is_stuck = True
            shops = [await call("POST", "/threat_models", {"name": f"Shop {n}"}) for n in range(CHANGES)]
            await until(lambda: len(hook.deliveries) == AT_ONCE, "deliveries under way")
            service.kill()
            await until(lambda: not hook.busy, "end of the calls")
            is_stuck = False
            hook.calls.clear()
            await asyncio.to_thread(service.start)
            await until(lambda: len(told(hook.deliveries)) == CHANGES, "delivery of all")
            assert {shop["id"] for shop in shops} == told(hook.deliveries)
            figure = f'tmi_webhook_attempts_total{{outcome="delivered"}} {float(CHANGES)}'
            await eventually(lambda: rest.http.get("/metrics"), lambda answer: figure in answer.text)
            assert "a key of the deployment" not in service.output()


async def eventually(ask: Callable[[], Awaitable[Any]], is_so: Callable[[Any], bool]) -> None:
    """Ask until the answer is as it should be. Raises TimeoutError."""
    async with asyncio.timeout(20):
        while not is_so(await ask()):
            await asyncio.sleep(0.02)


def told(calls: list[Call]) -> set[str]:
    return {call.json["resource_id"] for call in calls}
