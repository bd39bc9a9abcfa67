"""A page of the system audit as a file: CSV (RFC 4180) for spreadsheets, JSON lines for programs.

What spreadsheets would take for a formula gets an apostrophe before it (OWASP, "CSV Injection"): names and
paths in the audit are what strangers sent.
"""

import csv
import io
from collections.abc import Sequence

import orjson

from api.schemas import AuditEntryOutput

JSON, CSV, NDJSON = "application/json", "text/csv", "application/x-ndjson"
FORMATS = (JSON, CSV, NDJSON)

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_COLUMNS = (
    "id",
    "created_at",
    "actor_email",
    "actor_provider",
    "actor_provider_id",
    "actor_display_name",
    "http_method",
    "http_path",
    "field_path",
    "old_value_redacted",
    "new_value_redacted",
    "change_summary",
)


def as_csv(entries: Sequence[AuditEntryOutput]) -> bytes:
    """A line of names, then one of each entry."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(_COLUMNS)
    for entry in entries:
        body = entry.model_dump(mode="json", exclude_none=True)
        body |= {f"actor_{name}": value for name, value in body["actor"].items()}
        writer.writerow([_harmless(str(body.get(name, ""))) for name in _COLUMNS])
    return text.getvalue().encode()


def as_lines(entries: Sequence[AuditEntryOutput]) -> bytes:
    """An entry a line, as `GET` of one shows it."""
    return b"".join(
        orjson.dumps(entry.model_dump(exclude_none=True), option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)
        for entry in entries
    )


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
