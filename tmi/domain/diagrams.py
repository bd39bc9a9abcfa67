"""What a diagram says of itself beside its cells."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from tmi.domain.errors import Conflict

METADATA_MAX = 100
"""Keys."""


@dataclass(frozen=True, slots=True)
class DiagramImage:
    """A picture of a diagram, as an editor has drawn it."""

    svg: str | None
    """In base64."""
    update_vector: int | None
    """The number of the last update that it shows."""


@dataclass(frozen=True, slots=True)
class DiagramFields:
    """What a REST write may change of a diagram's row, all of it at once."""

    name: str
    description: str | None
    image: DiagramImage | None
    include_in_report: bool
    timmy_enabled: bool
    metadata: Mapping[str, str] = field(default_factory=dict)

    def on_top_of(self, read: "DiagramFields", present: "DiagramFields") -> "DiagramFields":
        """What to store where others may have written since `read`: a field that this write leaves as it was
        read stays as it is at present, and so does a key of the metadata. Raises Conflict for too many keys.
        """
        kept = {
            one.name: getattr(present, one.name)
            for one in fields(self)
            if getattr(self, one.name) == getattr(read, one.name)
        }
        return replace(self, **{"metadata": self._metadata_on_top_of(read, present), **kept})

    def _metadata_on_top_of(self, read: "DiagramFields", present: "DiagramFields") -> Mapping[str, str]:
        merged = dict(present.metadata)
        for key in read.metadata.keys() | self.metadata.keys():
            if self.metadata.get(key) == read.metadata.get(key):
                continue
            if key in self.metadata:
                merged[key] = self.metadata[key]
            else:
                merged.pop(key, None)
        if len(merged) > max(METADATA_MAX, len(present.metadata)):
            raise Conflict(f"others have added metadata; there would be more than {METADATA_MAX} keys")
        return merged
