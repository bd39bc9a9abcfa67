"""Which machine, which commit, which versions: what a figure is worth nothing without."""

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


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
    """The commit of this checkout, marked where the working tree differs from it."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return described.stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
