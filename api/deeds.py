"""Who does it, as the trail of threat models shows it."""

from api.context import caller
from tmi.domain.events import Actor, ChangeType, Deed


def actor() -> Actor:
    """The caller."""
    return Actor.of(caller().user)


def deed(change: ChangeType, summary: str | None = None) -> Deed:
    """What the caller does; `summary` in words, or None for the names of the fields that change."""
    return Deed(actor(), change, summary)
