"""The command line beside a running service: keys are rotated, scripts get tokens."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import jwt
import pytest

from tests.harness.rest import Rest
from tests.harness.service import ADMINISTRATOR, Service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """On an embedded PostgreSQL, as on a laptop."""
    with Service(tmp_path / "data") as running:
        yield running


def tmi(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    variables = {key: value for key, value in os.environ.items() if not key.startswith("TMI_")}
    return subprocess.run(
        [sys.executable, "-m", "tmi.cli", *arguments],
        env=variables | dict(environment or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_scripts_get_tokens_and_operators_rotate_keys_while_the_service_runs(
    service: Service, tmp_path: Path
) -> None:
    data = {"TMI_DATA_DIR": str(service.data)}
    async with Rest(service.url) as rest:
        admin = await rest.sign_in(ADMINISTRATOR)
        answer = await rest.http.post(
            "/me/client_credentials", json={"name": "ci"}, headers=admin.headers
        )
        credential = answer.raise_for_status().json()
        file = tmp_path / "credential.json"
        file.write_text(answer.text)

        by_file = tmi("token", "--url", service.url, "--credentials", str(file))
        by_environment = tmi(
            "token",
            "--url",
            service.url,
            "--json",
            environment={
                "TMI_CLIENT_ID": credential["client_id"],
                "TMI_CLIENT_SECRET": credential["client_secret"],
            },
        )
        tokens = [by_file.stdout.strip(), json.loads(by_environment.stdout)["access_token"]]
        for token in tokens:
            assert 200 == await status_of(rest, token)
        wrong = tmi(
            "token",
            "--url",
            service.url,
            environment={"TMI_CLIENT_ID": credential["client_id"], "TMI_CLIENT_SECRET": "wrong"},
        )
        assert (1, "") == (wrong.returncode, wrong.stdout)
        assert "its secret is not good" in wrong.stderr

        old = jwt.get_unverified_header(tokens[0])["kid"]
        assert [old] == [key["kid"] for key in listed(data)]
        rotated = tmi("keys", "rotate", environment=data)
        assert rotated.returncode == 0, rotated.stderr
        new, former = listed(data)
        assert old == former["kid"]
        assert f"Key {new['kid']} signs from" in rotated.stdout
        again = tmi("keys", "rotate", environment=data)
        assert (1, "") == (again.returncode, again.stdout)
        assert "waits for its time" in again.stderr
        assert 200 == await status_of(rest, tokens[0])

        replaced = tmi("keys", "rotate", "--compromised", environment=data)
        assert replaced.returncode == 0, replaced.stderr
        assert old in replaced.stdout
        assert 401 == await status_of(rest, tokens[0])
        fresh = await rest.sign_in(ADMINISTRATOR)
        assert jwt.get_unverified_header(fresh.access_token)["kid"] not in (old, new["kid"])
        assert 200 == await status_of(rest, fresh.access_token)
        entries = (await rest.http.get("/admin/audit/system", headers=fresh.headers)).json()["entries"]
        assert {"keys.rotated", "keys.replaced"} <= {entry["field_path"] for entry in entries}
    for secret in (credential["client_secret"], "PRIVATE KEY"):
        for text in (rotated.stdout, replaced.stdout, wrong.stderr, service.output()):
            assert secret not in text


def listed(environment: Mapping[str, str]) -> list[dict[str, str]]:
    answer = tmi("keys", "list", "--json", environment=environment)
    assert answer.returncode == 0, answer.stderr
    assert "private" not in answer.stdout
    assert "VERIFIES UNTIL" in tmi("keys", "list", environment=environment).stdout
    keys: list[dict[str, str]] = json.loads(answer.stdout)["keys"]
    return keys


async def status_of(rest: Rest, token: str) -> int:
    answer: httpx.Response = await rest.http.get("/me", headers={"Authorization": f"Bearer {token}"})
    return answer.status_code
