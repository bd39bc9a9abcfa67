"""Access control lists: one user gets through, and nobody else gains anything."""

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tmi.embedded.acl import (
    GROUP,
    GROUP_OBJ,
    MASK,
    OTHER,
    USER,
    USER_OBJ,
    Entry,
    decode,
    encode,
    let_search,
    with_search,
)

UID = 4711
permissions = st.integers(0, 7)


@st.composite
def lists(draw: st.DrawFn) -> list[Entry]:
    """A valid list: the three base entries, perhaps named ones, and then a mask."""
    entries = [Entry(tag, draw(permissions)) for tag in (USER_OBJ, GROUP_OBJ, OTHER)]
    users: set[int] = draw(st.sets(st.sampled_from([1, 2, UID]), max_size=3))
    groups: set[int] = draw(st.sets(st.integers(1, 3), max_size=3))
    entries += [Entry(USER, draw(permissions), uid) for uid in users]
    entries += [Entry(GROUP, draw(permissions), gid) for gid in groups]
    has_mask: bool = draw(st.booleans())
    if users or groups or has_mask:
        entries.append(Entry(MASK, draw(permissions)))
    return sorted(entries, key=lambda entry: (entry.tag, entry.id))


def effective(entries: list[Entry]) -> dict[tuple[int, int], int]:
    """What every entry grants after the mask; acl(5)."""
    mask = next((entry.permissions for entry in entries if entry.tag == MASK), 7)
    cut = (USER, GROUP, GROUP_OBJ)
    return {
        (entry.tag, entry.id): entry.permissions & mask if entry.tag in cut else entry.permissions
        for entry in entries
        if entry.tag != MASK
    }


@given(lists())
def test_the_user_may_search_and_everybody_else_keeps_exactly_what_they_had(entries: list[Entry]) -> None:
    before, after = effective(entries), effective(with_search(entries, UID))
    own = (USER, UID)
    assert before.get(own, 0) | 1 == after.pop(own)
    before.pop(own, None)
    assert before == after


@given(lists())
def test_a_list_is_in_the_kernels_order_with_one_mask_and_survives_encoding(entries: list[Entry]) -> None:
    changed = with_search(entries, UID)
    assert sorted(changed, key=lambda entry: (entry.tag, entry.id)) == changed
    assert 1 == [entry.tag for entry in changed].count(MASK)
    assert changed == decode(encode(changed))
    assert changed == with_search(changed, UID)


def test_the_kernel_takes_the_list_and_others_stay_out(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700)
    let_search(folder, UID)
    entries = effective(decode(os.getxattr(folder, "system.posix_acl_access")))
    no_id = 0xFFFFFFFF
    assert {(USER_OBJ, no_id): 7, (USER, UID): 1, (GROUP_OBJ, no_id): 0, (OTHER, no_id): 0} == entries
