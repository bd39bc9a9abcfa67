"""README's examples run as they stand. A block behind `<!-- test: NAME -->` is one of them."""

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness.ledger import loaded_by_a_fresh_client
from tests.harness.node import DRIVER, INTEROP, NodeDriver, node_program
from tests.harness.rest import Place, Rest
from tests.harness.service import Service

README = INTEROP.parent.parent / "README.md"
BLOCK = re.compile(r"^<!-- test: (\S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PACKAGES = {
    "yjs": "yjs",
    "lib0": "lib0",
    "ws": "ws",
    "y-websocket": "y-websocket-3",
    "@hocuspocus/provider": "hocuspocus-provider-4",
}
TOKEN_TTL_S = 3

Json = Any


def example(name: str) -> str:
    """The one block of that name."""
    found = [text for title, text in BLOCK.findall(README.read_text()) if title == name]
    assert 1 == len(found), f"README has {len(found)} examples named {name}"
    return str(found[0])


class Editor:
    """An example that runs, with a hand on its provider."""

    def __init__(self, folder: Path, url: str, script: str) -> None:
        modules = folder / "node_modules"
        for name, package in PACKAGES.items():
            (modules / name).parent.mkdir(parents=True, exist_ok=True)
            (modules / name).symlink_to(INTEROP / "node_modules" / package)
        (folder / "session.mjs").write_text(example("session.mjs"))
        (folder / "example.mjs").write_text(f"{script}\nglobalThis.answerTo(provider, diagram)\n")
        node = node_program("readme.mjs")[0]
        self.logged: list[str] = []
        self._answers: list[Json] = []
        self._process = subprocess.Popen(
            [node, "--import", str(DRIVER / "readme.mjs"), str(folder / "example.mjs")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMI_URL": url},
        )
        self._errors: list[str] = []
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        errors = self._process.stderr
        self._threads = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=lambda: self._errors.extend(errors), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if "logged" in said:
                self.logged.append(said["logged"])
            else:
                self._answers.append(said["answer"])

    async def ask(self, op: str, **arguments: Json) -> Json:
        """Run a command in the example's process."""
        known = len(self._answers)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
        self._process.stdin.flush()
        await self.until(lambda: len(self._answers) > known, f"an answer to {op}")
        return self._answers[known]

    async def until(self, condition: Callable[[], bool], what: str, timeout_s: float = 30) -> None:
        """Poll until something happened in the example."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self._process.poll() is None, f"the example ended: {''.join(self._errors)[-3000:]}"
            assert time.monotonic() < deadline, f"{what}: {''.join(self._errors)[-3000:]}"
            await asyncio.sleep(0.02)

    async def synced(self, timeout_s: float = 30) -> Json:
        """Wait until the provider is in sync; returns its state."""
        deadline = time.monotonic() + timeout_s
        while not (state := await self.ask("state"))["synced"]:
            assert time.monotonic() < deadline, f"{state} {''.join(self._errors)[-3000:]}"
            await asyncio.sleep(0.05)
        return state

    def end(self) -> None:
        self._process.kill()
        self._process.wait(30)
        for thread in self._threads:
            thread.join(30)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


@contextmanager
def editor(folder: Path, service: Service, script: str) -> Iterator[Editor]:
    folder.mkdir()
    running = Editor(folder, service.url, script)
    try:
        yield running
    finally:
        running.end()


async def arrives(driver: NodeDriver, service: Service, name: str, diagram: str, key: str) -> None:
    """Wait until a fresh client of the same user loads an edit."""
    async with Rest(service.url) as rest:
        token = await rest.collab_token(await rest.sign_in(name), diagram)
    deadline = time.monotonic() + 30
    while True:
        loaded = await loaded_by_a_fresh_client(driver, service, Place("", diagram), token)
        if key in loaded["content"]["meta"]:
            return
        assert time.monotonic() < deadline, loaded["content"]
        await asyncio.sleep(0.1)


@pytest.mark.parametrize(("name", "person"), [("y-websocket", "alice"), ("hocuspocus", "bob")])
async def test_the_example_of_an_editor_edits(
    tmp_path: Path, service: Service, driver: NodeDriver, name: str, person: str
) -> None:
    with editor(tmp_path / "example", service, example(name)) as running:
        state = await running.synced()
        await running.ask("edit", key="from-the-readme")
        await arrives(driver, service, person, state["diagram"], "from-the-readme")


async def test_the_example_of_saved_frames_counts_edits(tmp_path: Path, service: Service) -> None:
    script = example("y-websocket").replace("params: { token }", "params: { token, saved: '1' }")
    assert "saved: '1'" in script
    with editor(tmp_path / "example", service, script + example("y-websocket-saved")) as running:
        await running.synced()
        for number in range(3):
            await running.ask("edit", key=f"edit-{number}")
        last = "the first 3 edits of this connection are committed"
        await running.until(lambda: last in running.logged, last)


async def test_the_example_of_hocuspocus_tells_when_all_is_committed(
    tmp_path: Path, service: Service
) -> None:
    with editor(tmp_path / "example", service, example("hocuspocus")) as running:
        await running.synced()
        await running.ask("edit", key="edit")
        expected = ["waiting for a commit: true", "waiting for a commit: false"]
        await running.until(lambda: running.logged[-2:] == expected, f"{expected}")


async def test_the_python_example_draws_a_cell(tmp_path: Path, service: Service, rest: Rest) -> None:
    alice = await rest.sign_in("alice")
    place = await rest.create_place(alice)
    script = tmp_path / "example.py"
    run = f"asyncio.run(draw({service.collab!r}, {await rest.collab_token(alice)!r}, {place.diagram!r}))"
    script.write_text(f"import asyncio\n\n{example('python')}\n\n{run}\n")
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert 0 == done.returncode, done.stderr
    deadline = time.monotonic() + 20
    while not (cells := (await rest.diagram(alice, place))["cells"]):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert [("n1", "process", {"x": 40, "y": 80})] == [(c["id"], c["shape"], c["position"]) for c in cells]


@pytest.mark.parametrize(("name", "person"), [("y-websocket", "alice"), ("hocuspocus", "bob")])
async def test_an_editor_returns_with_a_renewed_token_when_the_server_restarts_after_the_first_has_expired(
    tmp_path: Path, driver: NodeDriver, name: str, person: str
) -> None:
    with (
        Service(tmp_path / "data", {"TMI_COLLAB_TOKEN_TTL_S": str(TOKEN_TTL_S)}) as service,
        editor(tmp_path / "example", service, example(name)) as running,
    ):
        state = await running.synced()
        async with Rest(service.url) as rest:
            token = await rest.collab_token(await rest.sign_in(person), state["diagram"])
        # This token is younger than the editor's, so when it is refused the editor's has expired as well.
        await until_refused(service, state["diagram"], token)
        await running.ask("edit", key="before")
        assert 0 == await asyncio.to_thread(service.stop)
        await running.ask("edit", key="while-away")
        await asyncio.to_thread(service.start)
        await running.synced(60)
        await arrives(driver, service, person, state["diagram"], "while-away")
        assert {"before": 1, "while-away": 1} == (await running.ask("state"))["meta"]


async def until_refused(service: Service, diagram: str, token: str) -> None:
    """Wait until an upgrade with this token is refused."""
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAECAwQFBgcICQoLDA0ODw==",
    }
    deadline = time.monotonic() + TOKEN_TTL_S + 120
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as http:
        while True:
            async with http.stream(
                "GET", f"/collab/{diagram}", params={"token": token}, headers=headers
            ) as answer:
                if answer.status_code == 401:
                    return
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
