"""Logs: one line per event on standard error, for people in a terminal or as JSON. Never with a token."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

_SECRET = re.compile(
    r"(?i)\b(?:(?:access_|refresh_|id_)?token|ticket|code_verifier|client_secret|(?:__Host-)?tmi[_-]s[a-z-]+)=[^&\s\"']+"
    r"|(?<=[?&])code=[^&\s\"']+"
    r"|\b(?:Bearer|Basic)\s+[^\s\"']+"
    r"|\btmi_cs_[A-Za-z0-9_-]+"
)
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")


def configure_logs(
    form: Literal["auto", "console", "json"], level: str, worker: int | None = None
) -> None:
    """Send all logs of the process to standard error. `worker`: which of several processes this is."""

    def name_worker(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return event if worker is None else {**event, "worker": worker}

    is_console = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer: list[Any]
    if is_console:
        renderer = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    else:
        renderer = [structlog.processors.JSONRenderer()]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([] if is_console else [structlog.processors.format_exc_info]),
                without_secrets,
                name_worker,
                *renderer,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(capture=True)


def without_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Blot out whatever looks like a token, in case a library writes a URL or a header."""
    for name, text in event.items():
        if isinstance(text, str):
            event[name] = _JWT.sub("[token]", _SECRET.sub("[secret]", text))
    return event
