"""The kinds of child of a threat model, as a table of their fields.

Threats, assets, documents, notes and repositories differ in what they hold, and in nothing else: bodies,
documentation, storage, lists, patches, bulk operations, metadata, deletion and restoring are written once and
read this table. Diagrams are the sixth kind: they have these fields besides a document of their own, so only
what is common to all (metadata, deletion, restoring) is shared with them.

Bounds and patterns are the contract's. Patterns are in the common part of ECMA-262 and Rust's `regex`.
"""

from dataclasses import dataclass
from typing import Any

LINE = r"^[^\x00-\x1F]*$"
TEXT = r"^[^\x00-\x08\x0B\x0C\x0E-\x1F]*$"
PLAIN_NAME = r"^[^<>\"'&]*$"
PLAIN_TEXT = r"^[^<>\x00-\x08\x0B\x0C\x0E-\x1F]*$"
# Of URIs and IRIs (RFC 3987): so they have no `format: uri`, which the latter would break.
ANY_URI = r"^[a-zA-Z][a-zA-Z0-9+.-]*://[^\s]*$"
ISSUE_URI = (
    r"^$|^\s*https?:\/\/[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
    r"(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*(:[0-9]{1,5})?(\/[^\s]*)?\s*$"
)

SEVERITIES = ("unknown", "informational", "low", "medium", "high", "critical")
"""Rising: what a list sorted by severity goes by."""


@dataclass(frozen=True, slots=True)
class Text:
    """Text of `least` to `most` characters."""

    most: int
    least: int = 0
    pattern: str | None = LINE
    is_markdown: bool = False
    is_stripped: bool = False
    """Space around it is taken off, and nothing is the same as no value."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of these words."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Flag:
    """Yes or no."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number of one decimal place."""

    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Reference:
    """The id of something else in the threat model: a kind, or `cell` of a diagram. Empty is no value."""

    to: str


@dataclass(frozen=True, slots=True)
class Several:
    """At most `most` of one shape."""

    of: "Shape"
    most: int
    unique: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """An object of its own fields."""

    name: str
    fields: tuple["Field", ...]


Shape = Text | Choice | Flag | Number | Reference | Several | Record


@dataclass(frozen=True, slots=True)
class Field:
    """A field that clients write."""

    name: str
    shape: Shape
    required: bool = False
    nullable: bool = True
    default: Any = None
    """What a new child has where nothing is given."""
    about: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of child."""

    name: str
    plural: str
    fields: tuple[Field, ...]
    has_version: bool
    """Its `version` is shown, and `If-Match` is heeded."""
    takes_metadata: bool = False
    """Metadata may come with the child itself."""
    shows_origin: bool = False
    """`auto_generated` is shown: whether a program made it."""
    apart: str | None = None
    """A bulky field, which lists leave out."""
    sorts: tuple[str, ...] = ()
    """What its lists can be sorted by, besides `created_at`."""
    bulk_most: int = 0
    """How many one bulk operation takes; 0: there are no bulk operations."""
    has_all_bulk: bool = False
    """There are bulk PATCH and DELETE as well, and bulk PUT makes no new ones."""
    is_filtered: bool = False
    """Its lists can be filtered and sorted."""

    @property
    def title(self) -> str:
        """As it is called in names of schemas and operations."""
        return self.name.capitalize()

    def field(self, name: str) -> Field:
        """Raises KeyError."""
        return next(iter(f for f in self.fields if f.name == name))


def _named(required: bool = True) -> tuple[Field, ...]:
    return (
        Field("name", Text(256, 1, PLAIN_NAME), required=required, nullable=not required),
        Field("description", Text(2048, 0, PLAIN_TEXT)),
    )


_SHOWN = (
    Field("include_in_report", Flag(), nullable=False, default=True, about="It appears in reports."),
    Field("timmy_enabled", Flag(), nullable=False, default=True, about="An assistant may read it."),
)

_CVSS = Record(
    "CVSSScore",
    (
        Field("vector", Text(250, 26, r"^[A-Za-z0-9.:/_-]+$"), required=True, nullable=False),
        Field("score", Number(0.0, 10.0), required=True, nullable=False),
    ),
)
_SSVC = Record(
    "SSVCScore",
    (
        Field("vector", Text(256, 1, r"^[A-Za-z0-9/:._-]+$"), required=True, nullable=False),
        Field(
            "decision",
            Choice(("Defer", "Scheduled", "Out-of-Cycle", "Immediate")),
            required=True,
            nullable=False,
        ),
        Field("methodology", Text(64, 1, r"^[A-Za-z0-9 _-]+$"), required=True, nullable=False),
    ),
)
_SOURCE = Record(
    "RepositoryParameters",
    (
        Field("refType", Choice(("branch", "tag", "commit")), required=True, nullable=False),
        Field("refValue", Text(256), required=True, nullable=False),
        Field("subPath", Text(256), nullable=False),
    ),
)

THREAT = Kind(
    "threat",
    "threats",
    (
        *_named(),
        Field("mitigation", Text(1024, 0, TEXT, is_markdown=True)),
        Field("diagram_id", Reference("diagram")),
        Field("cell_id", Reference("cell")),
        Field("asset_id", Reference("asset")),
        Field("severity", Text(50)),
        Field("score", Number(0.0, 10.0), nullable=False),
        Field("priority", Text(256)),
        Field("mitigated", Flag(), nullable=False, default=False),
        Field("status", Text(256)),
        Field("threat_type", Several(Text(256, 1), 20, unique=True), required=True, nullable=False),
        Field("issue_uri", Text(1000, 0, ISSUE_URI, is_stripped=True)),
        Field("cwe_id", Several(Text(16, 5, r"^CWE-[0-9]+$"), 50, unique=True), nullable=False),
        Field("cvss", Several(_CVSS, 10), nullable=False),
        Field("ssvc", _SSVC),
        *_SHOWN,
    ),
    has_version=True,
    takes_metadata=True,
    shows_origin=True,
    sorts=("modified_at", "alias", "name", "severity", "score", "priority", "status", "mitigated"),
    bulk_most=20,
    has_all_bulk=True,
    is_filtered=True,
)

ASSET = Kind(
    "asset",
    "assets",
    (
        *_named(),
        Field(
            "type",
            Choice(("data", "hardware", "software", "infrastructure", "service", "personnel")),
            required=True,
            nullable=False,
        ),
        Field("criticality", Text(128)),
        Field("classification", Several(Text(128), 50)),
        Field("sensitivity", Text(128)),
        *_SHOWN,
    ),
    has_version=True,
    bulk_most=50,
)

DOCUMENT = Kind(
    "document",
    "documents",
    (
        *_named(),
        Field("uri", Text(1000, 1, ANY_URI), required=True, nullable=False),
        *_SHOWN,
    ),
    has_version=True,
    bulk_most=20,
)

NOTE = Kind(
    "note",
    "notes",
    (
        *_named(),
        Field("content", Text(262_144, 1, TEXT, is_markdown=True), required=True, nullable=False),
        *_SHOWN,
    ),
    has_version=False,
    shows_origin=True,
    apart="content",
)

REPOSITORY = Kind(
    "repository",
    "repositories",
    (
        *_named(required=False),
        Field("type", Choice(("git", "svn", "mercurial", "other"))),
        Field("parameters", _SOURCE, nullable=False),
        Field("uri", Text(1000, 1, ANY_URI), required=True, nullable=False),
        *_SHOWN,
    ),
    has_version=False,
    bulk_most=20,
)

KINDS = (THREAT, ASSET, DOCUMENT, NOTE, REPOSITORY)
BY_NAME = {kind.name: kind for kind in KINDS}

DIAGRAM_KIND = "diagram"
"""The name of the sixth kind where all six are named."""
