"""Schemathesis against the service as it is served, by its own OpenAPI document.

Without a token nothing is given away: every operation that needs a sign-in answers 401, whatever else is in
the request, and an address that is none 404 or 405. With an administrator's token nothing breaks: no answer
of 5xx, none that the document does not describe, no invalid request that is taken for a valid one.

The stateful phase walks the links of the document (`api/links.py`): what it has created it reads, changes,
deletes and restores. It is a run of its own, by examples: with a bound of time alone this version ends in an
error of its own. Links that schemathesis would guess besides are 40 times as many, and are left out.

In CI all take about 20 s with a fixed seed; `make schemathesis` takes longer, with all phases and seeds of
its own.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.harness.rest import Rest
from tests.harness.service import ADMINISTRATOR, Service

SECONDS = int(os.environ.get("TMI_SCHEMATHESIS_S", "10"))
"""For each of the two; how long it may go on, not how long it takes."""
SEED = os.environ.get("TMI_SCHEMATHESIS_SEED", "1")
PHASES = os.environ.get("TMI_SCHEMATHESIS_PHASES", "fuzzing")
"""A few examples of each operation are quick; the phase `coverage` is not."""
WALKS = os.environ.get("TMI_SCHEMATHESIS_WALKS", "12")
"""Examples of the stateful phase: walks from one operation to the next."""
EXAMPLES = os.environ.get("TMI_SCHEMATHESIS_EXAMPLES", "1")

NO_LIMITS = {
    "TMI_USER_REQUESTS_PER_MIN": "0",
    "TMI_USER_REQUESTS_PER_HOUR": "0",
    "TMI_ADDRESS_REQUESTS_PER_MIN": "0",
    "TMI_SIGN_IN_REQUESTS_PER_MIN": "0",
    "TMI_USER_THREAT_MODELS_MAX": "0",
    "TMI_USER_DIAGRAMS_MAX": "0",
    "TMI_USER_STORED_MAX_BYTES": "0",
    "TMI_ACCESS_TOKEN_TTL_S": "7200",
}
"""By the environment, so that no request of the run can change them."""

REPLACED = (
    "positive_data_acceptance",
    "allow_header_conformance",
    "unsupported_method",
    "ensure_resource_availability",
)
"""In their places stand those of `schemathesis_checks.py`, which have a few exceptions. All others are on."""
CHECKS = str(Path(__file__).parent / "schemathesis_checks.py")

ENDS_THE_RUN = re.compile(
    r"deleteUserAccount|deleteAdminUser|updateUserAPIQuota|logout|revoke|drain"
    r"|end(My|AdminUser|Browser)\w*"
    # An answer without an end: its own tests read it.
    r"|getThreatModelEvents",
    re.IGNORECASE,
)
"""Operations that would end the administrator's own sign-in, or slow it down, when they are tried on it."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request of the run, and the status of its answer."""

    method: str
    path: str
    status: int


@pytest.fixture
def service(tmp_path: Path, database_url: str) -> Iterator[Service]:
    with Service(tmp_path / "data", NO_LIMITS, database_url) as running:
        yield running


FOR_A_TIME = ("--phases", PHASES, "--max-examples", EXAMPLES, "--max-time", str(SECONDS))
BY_LINKS = ("--phases", "stateful", "--max-examples", WALKS)
CONFIG = """
[phases.stateful.inference]
algorithms = []

[checks.negative_data_rejection]
# Those that schemathesis knows, and 413: a text that is too long may make a body that is.
expected-statuses = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428", "429"]
"""


def run(service: Service, folder: Path, *arguments: str) -> tuple[int, str, list[Sent]]:
    """Exit code, output and all requests."""
    har, config = folder / "run.har", folder / "schemathesis.toml"
    config.write_text(CONFIG)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
    command += [f"{service.url}/openapi.json", "--no-color", "--generation-database", "none", "--seed", SEED]
    command += ["--request-timeout", "10", "--no-shrink", "--continue-on-failure"]
    command += ["--report-har-path", str(har), "--exclude-checks", ",".join(REPLACED)]
    command += arguments
    patience = 90 + SECONDS + 2 * int(WALKS)
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "SCHEMATHESIS_HOOKS": CHECKS},
        capture_output=True,
        text=True,
        timeout=patience,
        check=False,
    )
    assert har.exists(), done.stdout + done.stderr
    entries = json.loads(har.read_text())["log"]["entries"]
    return done.returncode, done.stdout + done.stderr, [sent_of(entry) for entry in entries]


def sent_of(entry: Any) -> Sent:
    return Sent(
        entry["request"]["method"], urlsplit(entry["request"]["url"]).path, entry["response"]["status"]
    )


def operations(service: Service) -> list[tuple[str, re.Pattern[str], bool, str]]:
    """Method, path, whether it is public, and id of each operation."""
    document = httpx.get(f"{service.url}/openapi.json", trust_env=False).json()
    found = []
    for path, methods in document["paths"].items():
        pattern = re.compile(re.sub(r"\\\{\w+\\\}", "[^/]*", re.escape(path)))
        for method, operation in methods.items():
            is_public = operation.get("security") == []
            found.append((method.upper(), pattern, is_public, operation["operationId"]))
    return found


def broken(sent: list[Sent]) -> set[Sent]:
    return {one for one in sent if one.status >= 500}


def test_without_a_token_only_public_operations_answer_anything_but_401_404_and_405(
    service: Service, tmp_path: Path
) -> None:
    only_errors = ("--checks", "not_a_server_error", "--mode", "positive")
    code, output, sent = run(service, tmp_path, *FOR_A_TIME, *only_errors)
    listed = operations(service)
    public = [(method, path) for method, path, is_public, _ in listed if is_public]
    told = {
        one
        for one in sent
        if one.status not in (401, 404, 405)
        and not any(one.method == method and path.fullmatch(one.path) for method, path in public)
    }

    assert set() == told
    assert set() == broken(sent), output
    assert 0 == code, output
    refused = {one for one in sent if one.status == 401}
    private = [(method, path) for method, path, is_public, _ in listed if not is_public]
    tried = [any(o.method == method and path.fullmatch(o.path) for o in refused) for method, path in private]
    assert sum(tried) > 0.9 * len(private), "the run was too short to mean anything"


async def test_with_a_token_nothing_breaks_and_every_answer_is_as_documented(
    service: Service, tmp_path: Path
) -> None:
    async with Rest(service.url) as rest:
        token = (await rest.sign_in(ADMINISTRATOR)).access_token
    left_out = [name for _, _, _, name in operations(service) if ENDS_THE_RUN.search(name)]
    excluded = [argument for name in left_out for argument in ("--exclude-operation-id", name)]

    for how in (FOR_A_TIME, BY_LINKS):
        code, output, sent = run(service, tmp_path, *how, "-H", f"Authorization: Bearer {token}", *excluded)
        assert set() == broken(sent), output
        assert 0 == code, output
        assert any(one.status == 201 for one in sent), "the run was too short to mean anything"
    async with Rest(service.url) as rest:
        answer = await rest.http.get("/admin/users", headers={"Authorization": f"Bearer {token}"})
    assert 200 == answer.status_code, "the run has ended its own sign-in"
