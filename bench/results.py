"""Everything that RESULTS.md reports, measured in one go: `make bench-results`.

Each part is a command of `python -m bench` with a time of its own, after which it is ended, as by Ctrl-C, and
what it knows by then is kept. The text begins with REMARKS.md, which people write and no run touches. What a
run could not measure is named, and no older figures stand in for it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click

from bench import markdown, wording
from bench.document import Document, NotResults, read_json
from bench.machine import ROOT
from bench.process import ends_with_this
from bench.servers import OURS

REMARKS = ROOT / "bench" / "REMARKS.md"
RESULTS = ROOT / "bench" / "RESULTS.md"
FOLDER = ROOT / "build" / "results"
STOP_TIMEOUT_S = 90.0
"""Servers are stopped and files written by then, or the part is killed."""


@dataclass(frozen=True)
class Part:
    """One command. `limit_s` is some three times what it takes on a quiet machine of two cores."""

    name: str
    command: tuple[str, ...]
    limit_s: float


@dataclass(frozen=True)
class Section:
    title: str
    text: str
    parts: tuple[Part, ...]


def _part(name: str, limit_s: float, command: str) -> Part:
    return Part(name, tuple(command.split()), limit_s)


SECTIONS = (
    Section(
        "The short set, beside three peers",
        "Medians of five interleaved runs of each.",
        (_part("short", 2400, "short --seconds 3 --repeat 5"),),
    ),
    Section(
        "Three rows of it again",
        "Those whose runs differ most, beside the best peer alone: nine interleaved runs of each.",
        (
            _part(
                "fanout-often",
                480,
                "fanout --servers tmi,y-websocket --clients 50 --writers 10 --rate 10 --seconds 4 --repeat 9",
            ),
            _part("connect-often", 480, "connect --servers tmi,y-websocket --seconds 3 --repeat 9"),
            _part("rooms-often", 600, "rooms --servers tmi,y-websocket --seconds 4 --repeat 9"),
        ),
    ),
    Section(
        "Two workers on one port, beside one",
        "The kernel spreads the clients of each room over both workers, so this is what a room costs whose "
        "clients sit on two nodes. Both workers may use the generator's core; a gain in throughput cannot be "
        "seen on two cores.",
        (
            _part("two-fanout", 180, "fanout --servers tmi,tmi-2 --repeat 2 --seconds 5"),
            _part("two-cursors", 180, "cursors --servers tmi,tmi-2 --repeat 2 --seconds 5"),
            _part("two-rooms", 180, "rooms --servers tmi,tmi-2 --repeat 2 --seconds 5"),
        ),
    ),
    Section(
        "Single scenarios, TMI alone",
        "Right after these.",
        (
            _part("ack", 120, "ack --servers tmi"),
            _part("rest-reads", 240, "rest --servers tmi --seconds 8"),
            _part("rest-parts", 240, "rest --servers tmi --seconds 8 --parts 0.7"),
            _part("rest-writes", 240, "rest --servers tmi --seconds 8 --writes 0.1"),
            _part("neighbours", 180, "neighbours --servers tmi --seconds 4"),
            _part("stall", 180, "stall --servers tmi"),
            _part("stall-cold", 180, "stall-cold --servers tmi"),
            _part("stall-drawn", 240, "stall-cold --servers tmi --cells 30000"),
            _part("stall-edit", 120, "stall-edit --servers tmi,y-websocket"),
            _part("cold-open", 240, "cold-open --servers tmi --opens 20"),
            _part("join-cold", 120, "join-cold --servers tmi"),
            _part("cursors-300", 180, "cursors --servers tmi --clients 300 --seconds 4"),
            _part("mixed", 300, "mixed --servers tmi"),
            _part("idle", 180, "idle --servers tmi"),
            _part("reconnect-storm", 120, "reconnect-storm --servers tmi"),
            _part("slow-reader", 180, "slow-reader --servers tmi"),
            _part("slow-reader-20", 180, "slow-reader --servers tmi --slow 20"),
            _part("growth", 900, "growth --servers tmi --edits 1000000"),
            _part("self", 120, "self"),
        ),
    ),
)
PARTS = {part.name: part for section in SECTIONS for part in section.parts}


def measure(part: Part, folder: Path) -> int:
    """The exit status of its command; what it writes replaces what a former run wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{part.name}.json"
    file.unlink(missing_ok=True)
    files = ["--json", str(file), "--html", str(file.with_suffix(".html"))]
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", *part.command, *files], cwd=ROOT,
        preexec_fn=ends_with_this(),  # noqa: PLW1509 - there are no threads here
    )  # fmt: skip
    try:
        return process.wait(part.limit_s)
    except subprocess.TimeoutExpired:
        return _ended(process, signal.SIGINT)
    except KeyboardInterrupt:
        _ended(process, signal.SIGINT)
        raise


def _ended(process: "subprocess.Popen[bytes]", number: signal.Signals) -> int:
    """Where it does not end by itself its servers do, since they end with it."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)
    try:
        return process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def read(folder: Path) -> dict[str, Document]:
    """What has been measured, by the names of parts."""
    found = {}
    for name in PARTS:
        with suppress(OSError, NotResults):
            found[name] = read_json(folder / f"{name}.json")
    return found


def composed(remarks: str, documents: Mapping[str, Document]) -> str:
    """The whole text."""
    return "\n\n".join(_texts(remarks, documents)) + "\n"


def _texts(remarks: str, documents: Mapping[str, Document]) -> Iterator[str]:
    yield "# Results"
    yield "Made by `make bench-results`; the words before the first table come from [REMARKS.md](REMARKS.md)."
    yield remarks.strip()
    found = [
        (document, *one)
        for document in documents.values()
        for one in wording.targets(document)
        if one[2] != "not compared" or not _is_by_itself(document)
    ]
    poor = [one for one in found if one[3] != "met"]
    yield f"**Of {len(found)} targets {len(found) - len(poor)} are met.**" + (" The others:" if poor else "")
    if poor:
        yield markdown.targets_table(poor)
    for section in SECTIONS:
        yield f"## {section.title}"
        yield section.text
        for part in section.parts:
            yield _text(part, documents.get(part.name), about=part.name == "short")


def _is_by_itself(document: Document) -> bool:
    """No peer was to be measured: goals that are ratios to one are none there."""
    return all(run.server in OURS for run in document.runs)


def _text(part: Part, document: Document | None, *, about: bool) -> str:
    command = f"`python -m bench {' '.join(part.command)}`"
    if document is None:
        return f"{command}: **not measured.**"
    facts = dict(wording.facts(document))
    told = "" if document.is_complete else ", **cut short**"
    heading = f"{command}, {facts['date']}, revision {facts['revision']}{told}"
    return markdown.part(document, heading, about=about)


def _names(context: click.Context, parameter: click.Parameter, value: str | None) -> Sequence[str]:
    names = list(PARTS) if value is None else [name.strip() for name in value.split(",")]
    if unknown := [name for name in names if name not in PARTS]:
        there_are = f"there are {', '.join(PARTS)}"
        raise click.BadParameter(f"no part {', '.join(unknown)}; {there_are}", context, parameter)
    return names


@click.command()
@click.option("--only", callback=_names, help="These parts, by name; of the others what was measured before.")
@click.option("--compose", is_flag=True, help="Measure nothing: write the text of what was measured before.")
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, help="Of the parts' files.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=RESULTS, help="The text.")
def main(only: Sequence[str], folder: Path, out: Path, *, compose: bool) -> None:
    """Measures everything that RESULTS.md reports, and writes it."""
    sys.exit(carry_out([] if compose else [PARTS[name] for name in only], folder, out, click.echo))


def carry_out(parts: Sequence[Part], folder: Path, out: Path, tell: Callable[[str], object]) -> int:
    """The exit status: 0 if every part was measured to its end, without a fault of TMI."""
    remarks = REMARKS.read_text(encoding="utf-8")
    failed = []
    for number, part in enumerate(parts, start=1):
        tell(f"== {number} of {len(parts)}: {' '.join(part.command)}, {part.limit_s / 60:g} minutes at most")
        if status := measure(part, folder):
            failed.append(f"{part.name} ended with {status}")
    documents = read(folder)
    out.write_text(composed(remarks, documents), encoding="utf-8")
    tell(f"Results: {out}")
    missing = [f"{name} was not measured" for name in PARTS if name not in documents]
    for words in (*failed, *missing):
        tell(words)
    return int(bool(failed or missing))


if __name__ == "__main__":
    main()
