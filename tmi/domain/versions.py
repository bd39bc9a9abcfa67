"""Which version of something a writer has read."""

from tmi.domain.errors import VersionMismatch


def check_version(expected: int | None, present: int, words: str) -> None:
    """Raises VersionMismatch, unless any version will do (None). `words` name what has the version."""
    if expected is not None and expected != present:
        raise VersionMismatch(f"the {words} is at version {present} now")
