"""What the files of `deploy/` say of each other and of the program. No container engine runs here."""

import asyncio
import os
import re
import subprocess
import tomllib
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from persistence.postgres.database import PostgresDatabase
from tests.harness.proxy import DEPLOY, NODES
from tests.postgres import binaries, running_postgres
from tmi.settings import read_settings

SECRETS = "/run/secrets/"
IMAGE = re.sub(r"\\\n", "", (DEPLOY / "Containerfile").read_text())


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """What the script makes."""
    folder = tmp_path / "secrets"
    subprocess.run(["sh", str(DEPLOY / "secrets.sh"), str(folder)], check=True, timeout=30)
    return folder


def nodes_of(compose: Any) -> dict[str, Any]:
    return {name: body for name, body in compose["services"].items() if body.get("image") == "tmi"}


def test_the_nodes_of_compose_have_settings_that_the_program_takes(
    compose: Any, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, node in nodes_of(compose).items():
        variables = {
            key: value.replace(SECRETS, f"{secrets}/") for key, value in node["environment"].items()
        }
        assert "${TMI_PUBLIC_URL:?" == variables["TMI_PUBLIC_URL"][:18]
        for key, value in {**variables, "TMI_PUBLIC_URL": "https://tmi.example.org"}.items():
            monkeypatch.setenv(key, value)
        settings = read_settings({})
        assert name == settings.node_name
        assert settings.database_url is not None
        assert settings.redis_url is not None
        assert node["stop_grace_period"] == "20s"
        assert settings.drain_s + 5 < 20
        [trusted] = settings.trusted_proxies
        assert str(trusted) == compose["networks"]["edge"]["ipam"]["config"][0]["subnet"]
        host, _, _ = settings.node_listen.partition(":")
        assert host == node["networks"]["nodes"]["ipv4_address"]


def test_only_nodes_are_on_the_network_of_node_links(compose: Any) -> None:
    on_it = [name for name, body in compose["services"].items() if "nodes" in body["networks"]]
    assert list(nodes_of(compose)) == on_it
    assert ["nginx"] == [name for name, body in compose["services"].items() if "ports" in body]
    for name, network in compose["networks"].items():
        assert network.get("internal", False) is (name != "public")


def test_fixed_addresses_are_in_their_networks_and_differ(compose: Any) -> None:
    seen = set()
    for node in nodes_of(compose).values():
        for name, at in node["networks"].items():
            if at:
                address = ip_address(at["ipv4_address"])
                assert address in ip_network(compose["networks"][name]["ipam"]["config"][0]["subnet"])
                assert address not in seen
                seen.add(address)


def test_proxies_name_the_nodes_of_compose(compose: Any) -> None:
    assert [f"{name}:8080" for name in nodes_of(compose)] == list(NODES)
    for name in ("nginx.conf", "haproxy.cfg"):
        text = (DEPLOY / name).read_text()
        assert list(NODES) == re.findall(r"^\s*server (?:tmi-\d )?(\S+:\d+)", text, re.MULTILINE)


def test_every_secret_is_made_and_none_is_made_twice(compose: Any, secrets: Path) -> None:
    wanted = {Path(secret["file"]).name for secret in compose["secrets"].values()}
    assert wanted == {path.name for path in secrets.iterdir()} == set(compose["secrets"])
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    subprocess.run(["sh", str(DEPLOY / "secrets.sh"), str(secrets)], check=True, timeout=30)
    assert before == {path.name: path.read_text() for path in secrets.iterdir()}
    for body in compose["services"].values():
        assert set(body.get("secrets", [])) <= wanted


async def test_the_role_of_compose_owns_its_database_and_may_migrate_it(secrets: Path) -> None:
    with running_postgres() as server:
        environment = {
            "PATH": f"{binaries()}:{os.defpath}",
            "PGHOST": str(server.folder),
            "TMI_DATABASE_PASSWORD_FILE": str(secrets / "tmi_database_password"),
        }
        script = ["sh", str(DEPLOY / "postgres-init.sh")]
        await asyncio.to_thread(subprocess.run, script, check=True, timeout=30, env=environment)
        database = await PostgresDatabase.connect(server.url("tmi", "tmi"))
        try:
            await database.migrate()
        finally:
            await database.close()


def test_the_image_holds_the_packages_of_the_wheel_and_no_embedded_servers() -> None:
    root = DEPLOY.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert packages == re.findall(r"^COPY (\w+) \1$", IMAGE, re.MULTILINE)
    let_in = {line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", IMAGE, re.MULTILINE)
    assert let_in == {name for line in copied for name in line.split()}
    locked = (root / "requirements" / "image.txt").read_text()
    for extra in project["project"]["optional-dependencies"]["standalone"]:
        assert re.split("[><=]", extra)[0] not in locked
    for needed in project["project"]["dependencies"]:
        assert f"\n{re.split('[><=[]', needed)[0]}" in locked
