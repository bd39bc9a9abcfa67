"""A Node process that drives many real JavaScript clients at once (`tests/interop/driver`).

Commands and answers are JSON lines. A thread reads the answers, so that one process serves tests of any
event loop.
"""

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self

INTEROP = Path(__file__).resolve().parent.parent / "interop"
DRIVER = INTEROP / "driver"

Json = Any
Spec = dict[str, Json]

Y_WEBSOCKET_KINDS = ("y-websocket-2.1", "y-websocket-3.1")
HOCUSPOCUS_KINDS = ("hocuspocus-3.4", "hocuspocus-4.8")


class DriverError(Exception):
    """The driver could not do what a command asked."""


def node_program(script: str, *arguments: str) -> list[str]:
    """The command line of a driver's script. Raises RuntimeError where Node or the clients are missing."""
    node = shutil.which("node")
    if node is None:
        raise RuntimeError("the interop tests need Node 20 or newer")
    if not (INTEROP / "node_modules" / "yjs").is_dir():
        raise RuntimeError("the clients are not installed: run `npm ci --prefix tests/interop`")
    return [node, str(DRIVER / script), *arguments]


class NodeDriver:
    """Real clients in one Node process. `timeout_s` bounds each command."""

    def __init__(self, timeout_s: float = 120, authority: Path | None = None) -> None:
        """`authority`: whose certificates the clients trust besides, PEM."""
        self._timeout_s = timeout_s
        self._ids = itertools.count(1)
        self._waiting: dict[int, Future[Json]] = {}
        self._lock = threading.Lock()
        self.complaints: deque[str] = deque(maxlen=1000)
        """What the clients wrote to the console, newest last."""
        self._process = subprocess.Popen(
            node_program("main.mjs"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=None if authority is None else {**os.environ, "NODE_EXTRA_CA_CERTS": str(authority)},
        )
        self._threads = [
            threading.Thread(target=self._read_answers, daemon=True),
            threading.Thread(target=self._read_complaints, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process and every client in it."""
        self._process.kill()
        self._process.wait(30)
        for thread in self._threads:
            thread.join(30)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    async def call(self, op: str, **arguments: Json) -> Json:
        """Run one command and return its result. Raises DriverError with the driver's own words."""
        number = next(self._ids)
        answer: Future[Json] = Future()
        with self._lock:
            self._waiting[number] = answer
            stdin = self._process.stdin
            assert stdin is not None
            stdin.write(json.dumps({"id": number, "op": op, **arguments}) + "\n")
            stdin.flush()
        return await asyncio.wait_for(asyncio.wrap_future(answer), self._timeout_s)

    async def open(self, specs: Iterable[Spec]) -> list[int]:
        """Open clients; returns their Yjs client ids."""
        ids: list[int] = await self.call("open", clients=list(specs))
        return ids

    async def wait(self, names: Sequence[str], until: str, timeout_s: float = 30) -> None:
        """Wait until a condition of the driver (`synced`, `settled`, `closed`...) holds for all of them."""
        await self.call("wait", names=list(names), until=until, timeout_ms=timeout_s * 1000)

    async def report(self, name: str) -> dict[str, Json]:
        """Everything that a client shows of itself."""
        reports = await self.call("report", names=[name])
        one: dict[str, Json] = reports[name]
        return one

    async def close(self, names: Sequence[str], sockets: Sequence[str] = ()) -> None:
        """Destroy clients, and shared sockets by their names."""
        await self.call("close", names=list(names), sockets=list(sockets))

    def _read_answers(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            with self._lock:
                waiting = self._waiting.pop(answer["id"], None)
            if waiting is None or waiting.done():
                continue
            if "error" in answer:
                waiting.set_exception(DriverError(answer["error"]))
            else:
                waiting.set_result(answer["result"])
        with self._lock:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(
                        DriverError("the driver ended: " + "".join(self.complaints)[-4000:])
                    )
            self._waiting.clear()

    def _read_complaints(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.complaints.append(line)


class ReferenceServer:
    """One of the npm peers as a server on an ephemeral port: the drivers are proved against it."""

    def __init__(self, kind: str) -> None:
        self._process = subprocess.Popen(
            node_program("reference.mjs", kind), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = f"ws://127.0.0.1:{json.loads(self._process.stdout.readline())['port']}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate(timeout=30)
