"""Of which commit a measurement is, and what a server ran on."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench import machine
from bench.machine import CHANGES, UNKNOWN, program_of, revision, version_of
from bench.servers import SERVERS
from bench.servers.peers import NodePeer


def _git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_commit_is_marked_where_a_file_of_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert revision() == UNKNOWN
    _git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("before")
    _git(tmp_path, "add", "file")
    _git(tmp_path, "commit", "-qm", "first")
    commit = _git(tmp_path, "rev-parse", "--short=12", "HEAD")
    assert commit == revision()
    (tmp_path / "file").write_text("after")
    assert ("+changes", f"{commit}+changes") == (CHANGES, revision())


def _program(file: Path, *lines: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(["#!/bin/sh", '[ "$1" = --version ] || exit 1', *lines]))
    file.chmod(0o755)
    return file


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("v20.20.2", "20.20.2"),
        ("Python 3.12.0rc1", "3.12.0rc1"),
        ("postgres (PostgreSQL) 18.3 (Debian 18.3-1)", "18.3"),
        ("nothing", UNKNOWN),
    ],
)
def test_a_program_is_asked_for_its_version(tmp_path: Path, said: str, version: str) -> None:
    assert version == version_of(_program(tmp_path / "program", f"echo '{said}'"))


def test_a_program_that_fails_or_is_not_there_has_no_known_version(tmp_path: Path) -> None:
    assert version_of(tmp_path / "missing") == UNKNOWN
    assert version_of(_program(tmp_path / "program", "echo 1.2.3", "exit 1")) == UNKNOWN


def test_the_program_of_a_process_is_found() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert Path(sys.executable).resolve() == program_of(process.pid)
    assert program_of(process.pid) is None


def test_peers_say_which_node_and_which_python_they_run_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = str(_program(tmp_path / "node", "echo v20.1.2"))
    monkeypatch.setattr(NodePeer, "program", classmethod(lambda cls: [node, cls.script]))
    monkeypatch.setattr("bench.servers.peers.PYTHON", _program(tmp_path / "python", "echo Python 3.13.5"))
    told = {name: make().runs_on() for name, make in SERVERS.items() if not name.startswith("tmi")}
    assert told == {
        "hocuspocus": {"Node": "20.1.2"},
        "y-websocket": {"Node": "20.1.2"},
        "pycrdt-websocket": {"Python of pycrdt-websocket": "3.13.5"},
    }
