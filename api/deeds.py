"""Who does it, as the trail of threat models shows it."""

from api.context import caller
from tmi.domain.events import Actor, ChangeType, Deed


def actor() -> Actor:
    """The caller."""
    return Actor.of(caller().user)


def deed(change: ChangeType, summary: str | None = None) -> Deed:
    """What the caller does; `summary` in words, or None for the names of the fields that change.

    Whoever acts by a client credential is a program; accounts of the provider `automation` always do.
    """
    return Deed(actor(), change, summary, by_program=caller().credential is not None)
