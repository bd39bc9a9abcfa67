"""The JSON file: everything known of a plan that was carried out, written and read again."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

from pydantic import TypeAdapter, ValidationError

from bench.machine import Provenance
from bench.model import Figure, Load, Run
from bench.report import Summary

ERRORS_SHOWN = 3


class NotResults(Exception):
    """A file that was to be read does not hold what `--json` writes."""


@dataclass(frozen=True)
class ServerInfo:
    """What was measured under a server's name."""

    version: str
    command: list[str]
    persistence: str


@dataclass(frozen=True)
class ScenarioInfo:
    """What a reader needs of a scenario; `cost` is the key of the figure that chose the best peer."""

    title: str
    cost: str
    figures: list[Figure]


@dataclass(frozen=True)
class Document:
    """The whole file; `servers`, `scenarios`, `runs` and `summaries` explain each other."""

    about: Provenance
    servers: dict[str, ServerInfo]
    scenarios: dict[str, ScenarioInfo]
    runs: list[Run]
    summaries: list[Summary]
    is_complete: bool = True
    """False where the measurement was cut short: `notes` say by what."""
    notes: list[str] = field(default_factory=list)
    """What a reader has to know besides: which servers were left out, died or did not start."""

    def figure(self, scenario: str, key: str) -> Figure:
        return next(figure for figure in self.scenarios[scenario].figures if figure.key == key)

    def summaries_of(self, scenario: str) -> list[Summary]:
        return [summary for summary in self.summaries if summary.scenario == scenario]

    def runs_of(self, scenario: str) -> list[Run]:
        return [run for run in self.runs if run.scenario == scenario]


def described(loads: Sequence[Load]) -> dict[str, ScenarioInfo]:
    """The scenarios of these loads, by name."""
    return {load.scenario: ScenarioInfo(load.title, load.cost, list(load.figures)) for load in loads}


def write_json(path: Path, document: Document) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(document), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Document:
    """Raises `NotResults` with the reason, and `OSError`."""
    try:
        content = json.loads(path.read_bytes(), parse_constant=_refuse)
        document = _ADAPTER.validate_python(content)
    except ValidationError as failure:
        raise NotResults(f"{path} holds no results as this version writes them: {_told(failure)}") from None
    except ValueError as failure:
        raise NotResults(f"{path} is not JSON: {failure}") from None
    if wrong := _unexplained(document):
        raise NotResults(f"{path} does not explain itself: {wrong}")
    return document


_ADAPTER = TypeAdapter(Document)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _told(failure: ValidationError) -> str:
    errors = failure.errors(include_url=False, include_input=False)
    lines = [f"{'.'.join(map(str, error['loc'])) or 'the file'}: {error['msg']}" for error in errors]
    more = [f"and {len(lines) - ERRORS_SHOWN} more"] if len(lines) > ERRORS_SHOWN else []
    return "; ".join([*lines[:ERRORS_SHOWN], *more])


def _unexplained(document: Document) -> str | None:
    """What the tables and charts would look for in vain."""
    for name, scenario in document.scenarios.items():
        if scenario.cost not in {figure.key for figure in scenario.figures}:
            return f"scenario {name} has no figure {scenario.cost}, its cost"
        for figure in scenario.figures:
            try:
                format(0.0, figure.form)
            except ValueError:
                return f"figure {figure.key} of scenario {name} cannot be printed as {figure.form!r}"
    entries: list[Run | Summary] = [*document.runs, *document.summaries]
    for entry in entries:
        known = document.scenarios.get(entry.scenario)
        if known is None:
            return f"there is no scenario {entry.scenario}"
        if entry.server not in document.servers:
            return f"there is no server {entry.server}"
        if unknown := entry.figures.keys() - {figure.key for figure in known.figures}:
            return f"scenario {entry.scenario} has no figure {min(unknown)}"
    return None
