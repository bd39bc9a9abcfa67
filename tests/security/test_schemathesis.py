"""Schemathesis against the service as it is served, by its own OpenAPI document.

Without a token nothing is given away: every operation that needs a sign-in answers 401, whatever else is in
the request, and an address that is none 404 or 405. Each operation is tried with data that the document
allows and with data that it does not, made-up credentials among them; every path with every other method; and
each operation with a body, a media type and ids that none takes.
With an administrator's token nothing breaks: no answer of 5xx, none that the document does not describe, no
invalid request that is taken for a valid one.

The stateful phase walks the links of the document (`api/links.py`): what it has created it reads, changes,
deletes and restores. It is a run of its own, by examples: with a bound of time alone this version ends in an
error of its own. Links that schemathesis would guess besides are 40 times as many, and are left out.

In CI all take about 25 s with a fixed seed; `make schemathesis` takes longer, with all phases and seeds of
its own.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation

from tests.harness.rest import Rest
from tests.harness.service import ADMINISTRATOR, Service

SECONDS = int(os.environ.get("TMI_SCHEMATHESIS_S", "10"))
"""How long a run of many examples may go on, not how long it takes."""
SEED = os.environ.get("TMI_SCHEMATHESIS_SEED", "1")
PHASES = os.environ.get("TMI_SCHEMATHESIS_PHASES", "fuzzing")
"""A few examples of each operation are quick; the phase `coverage` is not."""
IS_LONG = PHASES != "fuzzing"
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


@dataclass(frozen=True, slots=True)
class Operation:
    """One that the document lists."""

    label: str
    """As schemathesis calls it."""
    method: str
    path: re.Pattern[str]
    name: str
    is_public: bool

    def is_meant(self, one: Sent) -> bool:
        """Whether a request is for this operation."""
        return one.method == self.method and self.path.fullmatch(one.path) is not None


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


def operations(service: Service) -> list[Operation]:
    """What the document lists."""
    document = httpx.get(f"{service.url}/openapi.json", trust_env=False).json()
    return [
        Operation(
            label=f"{method.upper()} {path}",
            method=method.upper(),
            path=re.compile(re.sub(r"\\\{\w+\\\}", "[^/]*", re.escape(path))),
            name=told["operationId"],
            is_public=told.get("security") == [],
        )
        for path, methods in document["paths"].items()
        for method, told in methods.items()
    ]


def broken(sent: list[Sent]) -> set[Sent]:
    return {one for one in sent if one.status >= 500}


def an_example(operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode) -> Case[Any] | None:
    """A request with data that the document allows, or with some that it does not: always the same; None
    where there is no such data.
    """
    made: list[Case[Any]] = []

    @seed(int(SEED))
    @settings(
        max_examples=1,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def keep(case: Case[Any]) -> None:
        made.append(case)

    with suppress(Unsatisfiable):
        keep()
    return made[0] if made else None


REFUSED = (401, 404, 405)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "NONE")


ODD = {"Content-Type": "text/plain", "If-Match": "odd", "Connection": "close"}
"""The body is not waited for: who is refused before it is there loses the connection."""


def sent_by_hand(service: Service) -> list[Sent]:
    """Every path with every method: those of the document with what no operation takes, others plain."""
    with httpx.Client(base_url=service.url, trust_env=False) as http:
        sent = []
        for path, documented in http.get("/openapi.json").json()["paths"].items():
            for method in METHODS:
                if method.lower() in documented:
                    filled, odd = re.sub(r"\{\w+\}", "no-id", path), b"{"
                else:
                    filled, odd = re.sub(r"\{\w+\}", str(uuid4()), path), None
                headers = {} if odd is None else ODD
                answer = http.request(method, filled, content=odd, headers=headers)
                sent.append(Sent(method, filled, answer.status_code))
    return sent


def as_get(one: Sent) -> Sent:
    """HEAD comes with GET."""
    return replace(one, method="GET") if one.method == "HEAD" else one


def given_away(listed: list[Operation], sent: list[Sent]) -> set[Sent]:
    """Answers that nobody without a token should get."""
    public = [operation for operation in listed if operation.is_public]
    return {
        one
        for one in sent
        if one.status not in REFUSED and not any(operation.is_meant(as_get(one)) for operation in public)
    }


def test_without_a_token_only_public_operations_answer_anything_but_401_404_and_405(
    service: Service, tmp_path: Path
) -> None:
    document = httpx.get(f"{service.url}/openapi.json", trust_env=False).json()
    positive, negative = dict[str, int](), dict[str, int]()
    with requests.Session() as session:
        for result in schemathesis.openapi.from_dict(document).get_all_operations():
            assert isinstance(result, Ok)
            operation = result.ok()
            for mode, answers in ((GenerationMode.POSITIVE, positive), (GenerationMode.NEGATIVE, negative)):
                case = an_example(operation, mode)
                if case is not None:
                    answer = case.call(base_url=service.url, session=session, timeout=10)
                    answers[operation.label] = answer.status_code

    listed = operations(service)
    private = {one.label for one in listed if not one.is_public}
    assert {one.label for one in listed} == positive.keys()
    assert {} == {label: positive[label] for label in private if positive[label] != 401}
    # Where there is nothing else to get wrong, credentials are.
    assert private <= negative.keys()
    assert {} == {label: negative[label] for label in private if negative[label] not in REFUSED}
    assert {} == {one: status for one, status in [*positive.items(), *negative.items()] if status >= 500}
    by_hand = sent_by_hand(service)
    assert set() == given_away(listed, by_hand) | broken(by_hand)
    if IS_LONG:
        code, output, sent = run(service, tmp_path, *FOR_A_TIME, "--checks", "not_a_server_error")
        assert set() == given_away(listed, sent) | broken(sent), output
        assert 0 == code, output


async def test_with_a_token_nothing_breaks_and_every_answer_is_as_documented(
    service: Service, tmp_path: Path
) -> None:
    async with Rest(service.url) as rest:
        token = (await rest.sign_in(ADMINISTRATOR)).access_token
    left_out = [one.name for one in operations(service) if ENDS_THE_RUN.search(one.name)]
    excluded = [argument for name in left_out for argument in ("--exclude-operation-id", name)]

    for how in (FOR_A_TIME, BY_LINKS):
        code, output, sent = run(service, tmp_path, *how, "-H", f"Authorization: Bearer {token}", *excluded)
        assert set() == broken(sent), output
        assert 0 == code, output
        assert any(one.status == 201 for one in sent), "the run was too short to mean anything"
    async with Rest(service.url) as rest:
        answer = await rest.http.get("/admin/users", headers={"Authorization": f"Bearer {token}"})
    assert 200 == answer.status_code, "the run has ended its own sign-in"
