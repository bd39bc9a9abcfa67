"""The proxies of `deploy/` as processes: the committed files, with other addresses."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tests.harness.service import free_port, wait_for

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PROXIES = ("nginx", "haproxy")
NODES = ("tmi-1:8080", "tmi-2:8080", "tmi-3:8080")


class Proxy:
    """nginx or HAProxy on loopback, before three ports of loopback."""

    def __init__(self, kind: str, folder: Path, ports: Sequence[int]) -> None:
        self.kind = kind
        self.folder = folder
        self.port = free_port()
        self._ports = ports
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def collab(self) -> str:
        """The base URL of live sockets."""
        return f"ws://127.0.0.1:{self.port}/collab"

    @property
    def output(self) -> str:
        """What it has logged."""
        return (self.folder / "log").read_text(errors="replace")

    def __enter__(self) -> Self:
        self.folder.mkdir()
        command = self._nginx() if self.kind == "nginx" else self._haproxy()
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(self._answers, 10, f"an answer of {self.kind}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.output
        try:
            # HAProxy begins with nodes that it has not asked yet.
            return httpx.get(f"{self.url}/livez", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def _nginx(self) -> list[str]:
        text = self._rendered("nginx.conf", "listen 8080;", f"listen 127.0.0.1:{self.port};")
        text = text.replace("/tmp/", f"{self.folder}/").replace("/dev/std", f"{self.folder}/std")
        text = text.replace("worker_processes auto;", "worker_processes 2;")
        if os.geteuid() == 0:
            text = f"user root;\n{text}"
        (self.folder / "nginx.conf").write_text(text)
        return [_program("nginx"), "-c", str(self.folder / "nginx.conf"), "-g", "daemon off;"]

    def _haproxy(self) -> list[str]:
        text = self._rendered("haproxy.cfg", "bind :8080", f"bind 127.0.0.1:{self.port}")
        # So many take twice as many open files, which a test's account need not be allowed.
        text = text.replace("maxconn 60000", "maxconn 200")
        (self.folder / "haproxy.cfg").write_text(text)
        return [_program("haproxy"), "-db", "-f", str(self.folder / "haproxy.cfg")]

    def _rendered(self, name: str, listens: str, instead: str) -> str:
        text = (DEPLOY / name).read_text()
        assert text.count(listens) == 1
        text = text.replace(listens, instead)
        for node, port in zip(NODES, self._ports, strict=True):
            text, count = re.subn(rf"\b{node}\b", f"127.0.0.1:{port}", text)
            assert count == 1, node
        return text


def program(name: str) -> str | None:
    """Where a proxy is installed; None where it is not."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


def _program(name: str) -> str:
    """Raises RuntimeError where it is missing."""
    found = program(name)
    if found is None:
        raise RuntimeError(f"the tests of deploy/ need {name}: apt-get install {name}")
    return found
