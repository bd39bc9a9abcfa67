"""Which machine, which commit, which versions: what a figure is worth nothing without."""

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHANGES = "+changes"
"""After a commit from which the files differ."""

UNKNOWN = "unknown"
TIMEOUT_S = 10
_VERSION = re.compile(r"\d+(?:\.\d+)+\S*")


@dataclass(frozen=True)
class Machine:
    """What figures were measured on; `load_before` is its load average over 1, 5 and 15 minutes."""

    processor: str
    cores: int
    memory_bytes: int
    system: str
    load_before: list[float]


@dataclass(frozen=True)
class Provenance:
    """When, where, at which commit, with what and how figures came to be."""

    at: str
    machine: Machine
    revision: str
    generator: dict[str, str]
    command: list[str]
    versions: dict[str, str] = field(default_factory=dict)
    """Of what the measured servers ran on: Node, a peer's Python, PostgreSQL."""


def provenance(command: list[str]) -> Provenance:
    return Provenance(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=Machine(
            processor=_processor(),
            cores=len(os.sched_getaffinity(0)),
            memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            system=f"{platform.system()} {platform.release()}",
            load_before=list(os.getloadavg()),
        ),
        revision=revision(),
        generator={
            "python": platform.python_version(),
            "picows": version("picows"),
            "uvloop": version("uvloop"),
        },
        command=command,
    )


def revision() -> str:
    """The commit of this checkout, with `CHANGES` where a file that belongs to it differs from it."""
    return _told_by(["git", "describe", "--always", f"--dirty={CHANGES}", "--abbrev=12"]) or UNKNOWN


def version_of(program: str | Path) -> str:
    """What a program says to `--version`: the number alone."""
    found = _VERSION.search(_told_by([str(program), "--version"]))
    return found[0] if found else UNKNOWN


def program_of(pid: int) -> Path | None:
    """The file that a process runs, if that can be told."""
    try:
        return Path(f"/proc/{pid}/exe").readlink()
    except OSError:
        return None


def _told_by(command: Sequence[str]) -> str:
    """What it printed; nothing where it failed."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or UNKNOWN
