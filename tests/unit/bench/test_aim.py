"""What the options of a command choose, and what they refuse."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from bench.aim import TOKEN, aimed
from bench.cli import main
from bench.machine import ROOT
from bench.runner import Plan
from bench.scenarios import SCENARIOS
from bench.scenarios.fanout import FanoutLoad
from bench.scenarios.rooms import RoomsLoad
from bench.servers import SERVERS, Deployment, ServerError
from bench.servers.base import free_port
from bench.servers.peers import PycrdtWebsocketServer
from bench.target import Target

LOAD = FanoutLoad(clients=50)
HERE = "http://127.0.0.1:8080"


def _aim(plan: Plan | None = None, **changes: Any) -> Plan:
    given = {
        "url": None, "servers": None, "token_file": None, "is_own": False, "at_most_s": None,
        "at_most_clients": None,
    }  # fmt: skip
    return aimed(plan or Plan([LOAD], []), **(given | changes))


@pytest.fixture
def without_pycrdt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PycrdtWebsocketServer, "lacks", classmethod(lambda cls: "is not installed"))
    for server in SERVERS.values():
        if server is not PycrdtWebsocketServer:
            monkeypatch.setattr(server, "lacks", classmethod(lambda cls: None))


@pytest.mark.usefixtures("without_pycrdt")
def test_by_default_a_peer_that_is_not_installed_is_left_out_and_named() -> None:
    plan = _aim()
    assert ["tmi", "hocuspocus", "y-websocket"] == [make().name for make in plan.servers]
    assert ["Left out: pycrdt-websocket is not installed"] == plan.notes
    assert plan.at_most_s is None


@pytest.mark.usefixtures("without_pycrdt")
def test_a_peer_that_was_asked_for_has_to_be_installed() -> None:
    with pytest.raises(click.ClickException, match="pycrdt-websocket is not installed"):
        _aim(servers=("tmi", "pycrdt-websocket"))


def test_a_service_is_measured_alone_and_not_without_end() -> None:
    plan = _aim(url=HERE)
    assert (["deployment"], 300) == ([make().name for make in plan.servers], plan.at_most_s)
    with pytest.raises(click.UsageError, match="leave --servers out"):
        _aim(url=HERE, servers=("tmi",))


@pytest.mark.parametrize(
    ("load", "clients"), [(FanoutLoad(clients=51), 51), (RoomsLoad(rooms=17, clients=2), 51)]
)  # fmt: skip
def test_no_load_may_have_more_clients_than_was_said(load: FanoutLoad | RoomsLoad, clients: int) -> None:
    plan = Plan([LOAD, load], [])
    _aim(plan, url=HERE, at_most_clients=clients)
    with pytest.raises(click.UsageError, match=re.escape(f"{load.label}: 51 clients at once")):
        _aim(plan, url=HERE, at_most_clients=clients - 1)


def test_every_load_says_how_many_clients_it_has() -> None:
    assert all(load().clients_at_once >= 1 for load in SCENARIOS)


def test_the_thousand_clients_of_a_service_are_a_default() -> None:
    refused = CliRunner().invoke(main, ["fanout", "--clients", "1001", "--url", HERE])
    assert (2, True) == (refused.exit_code, "--at-most-clients is 1,000" in refused.output)


@pytest.mark.parametrize("command", ["fanout", "short"])
@pytest.mark.parametrize("url", ["http://198.51.100.7", "http://[2001:db8::7]"])
def test_a_service_elsewhere_is_not_even_asked_without_its_owner_s_word(
    url: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Plan] = []

    async def carried_out(plan: Plan, _console: object, _command: object) -> int:
        plans.append(plan)
        return 0

    monkeypatch.setattr("bench.cli.carry_out", carried_out)
    refused = CliRunner().invoke(main, [command, "--url", url])
    assert (1, []) == (refused.exit_code, plans)
    assert "is not this machine" in refused.output
    allowed = CliRunner().invoke(main, [command, "--url", url, "--i-own-this-server"])
    assert (0, 300) == (allowed.exit_code, plans[0].at_most_s)
    assert ["deployment"] == [make().name for make in plans[0].servers]


def test_what_goes_with_a_service_is_refused_without_one(tmp_path: Path) -> None:
    given: dict[str, Any] = {"is_own": True, "token_file": tmp_path}
    given |= {"at_most_s": 300.0, "at_most_clients": 1000}
    for name, value in given.items():
        with pytest.raises(click.UsageError, match="go with --url"):
            _aim(servers=("tmi",), **{name: value})


@pytest.mark.parametrize("bound", [("--at-most-s", "60"), ("--at-most-clients", "5")])
def test_a_bound_that_would_bind_nothing_is_refused(bound: tuple[str, str]) -> None:
    refused = CliRunner().invoke(main, ["fanout", "--servers", "tmi", *bound])
    assert (2, True) == (refused.exit_code, f"{bound[0]} " in refused.output)
    assert "go with --url" in refused.output


async def test_who_does_not_answer_is_not_asked_for_a_token() -> None:
    with pytest.raises(ServerError, match="does the service run, and are scheme, host and port") as told:
        await Deployment(Target(f"http://127.0.0.1:{free_port()}")).start(0)
    assert "token" not in str(told.value).split("failed:")[1]


def _token(plan: Plan) -> str | None:
    made = plan.servers[0]()
    return made._target.token  # type: ignore[attr-defined, no-any-return]


def test_a_token_comes_from_a_file_or_else_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text("from-file\n")
    assert _token(_aim(url=HERE)) is None
    monkeypatch.setenv(TOKEN, "from-environment")
    assert "from-environment" == _token(_aim(url=HERE))
    assert "from-file" == _token(_aim(url=HERE, token_file=file))


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"two\nlines", b"\xff\xfe"])
def test_what_is_no_token_is_refused_and_not_repeated(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(click.UsageError) as refusal:
        _aim(url=HERE, token_file=file)
    assert "two" not in refusal.value.message


def test_what_is_not_installed_is_told_with_what_installs_it() -> None:
    """Without the packages of any environment."""
    told = subprocess.run(
        [sys.executable, "-S", "-m", "bench"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (1, "") == (told.returncode, told.stdout)
    assert "click is not installed for" in told.stderr
    assert "`make bench` installs" in told.stderr
    assert "Traceback" not in told.stderr
