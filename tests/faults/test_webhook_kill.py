"""Webhooks outlive kill -9: what was committed is told by whoever starts next."""

import asyncio
from pathlib import Path

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

            async def call(method: str, path: str, body: object = None) -> str:
                made = await rest.http.request(method, path, json=body, headers=admin.headers)
                assert made.is_success, made.text
                return str(made.json()["id"])

            webhook = {
                "name": "Ours",
                "url": hook.url,
                "events": ["threat_model.created"],
                "secret": "s" * 16,
            }
            await call("POST", "/admin/webhooks/subscriptions", webhook)
            await until(lambda: hook.calls, "challenge")
            await asyncio.sleep(0.1)  # until its answer is stored
            is_stuck = True
            models = [await call("POST", "/threat_models", {"name": f"Shop {n}"}) for n in range(CHANGES)]
            await until(lambda: len(hook.deliveries) == AT_ONCE, "deliveries under way")
            service.kill()
            await until(lambda: not hook.busy, "end of the calls")
            is_stuck = False
            hook.calls.clear()
            await asyncio.to_thread(service.start)
            await until(lambda: len(told(hook.deliveries)) == CHANGES, "delivery of all")
            assert set(models) == told(hook.deliveries)
            figure = f'tmi_webhook_attempts_total{{outcome="delivered"}} {float(CHANGES)}'
            await asyncio.sleep(0.1)  # until the last is settled
            assert figure in (await rest.http.get("/metrics")).text
            assert "a key of the deployment" not in service.output()


def told(calls: list[Call]) -> set[str]:
    return {call.json["resource_id"] for call in calls}
