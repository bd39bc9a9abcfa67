"""Data that does not change once it is made."""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """A dataclass with slots that is frozen to the type checker, and to nobody else.

    For what is made by the thousand each second: one with four fields takes 0.11 us, and a frozen one 0.43.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
