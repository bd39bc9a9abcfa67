"""POSIX access control lists of folders: as much of them as one user needs to pass through a folder.

The list is the extended attribute `system.posix_acl_access`: a version, then entries of tag, permissions
and id, ordered by tag and id (include/uapi/linux/posix_acl_xattr.h). The permissions of named users and of
all groups are cut by the mask. A mask that lacks "search" must be widened for the new entry to count;
what it cut from the others is then cut from their own entries, so that nobody else gains anything.
"""

import errno
import os
import stat
import struct
from dataclasses import dataclass, replace
from pathlib import Path

ATTRIBUTE = "system.posix_acl_access"
VERSION = 2
HEADER = struct.Struct("<I")
ENTRY = struct.Struct("<HHI")
NO_ID = 0xFFFFFFFF

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
SEARCH = 0o1


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a list."""

    tag: int
    permissions: int
    id: int = NO_ID


def let_search(folder: Path, uid: int) -> None:
    """Let one user pass through a folder, and change nothing for anybody else. Raises OSError."""
    os.setxattr(folder, ATTRIBUTE, encode(with_search(_current(folder), uid)))


def with_search(entries: list[Entry], uid: int) -> list[Entry]:
    """The list with an entry by which the user `uid` may search the folder."""
    mask = next((entry.permissions for entry in entries if entry.tag == MASK), None)
    if mask is not None:
        entries = [_cut(entry, mask) for entry in entries]
    own = next((entry for entry in entries if entry.tag == USER and entry.id == uid), Entry(USER, 0, uid))
    kept = [entry for entry in entries if entry.tag != MASK and entry != own]
    kept.append(replace(own, permissions=own.permissions | SEARCH))
    widest = 0
    for entry in kept:
        if entry.tag in (USER, GROUP, GROUP_OBJ):
            widest |= entry.permissions
    kept.append(Entry(MASK, widest))
    return sorted(kept, key=lambda entry: (entry.tag, entry.id))


def encode(entries: list[Entry]) -> bytes:
    """The attribute's bytes."""
    return HEADER.pack(VERSION) + b"".join(ENTRY.pack(e.tag, e.permissions, e.id) for e in entries)


def decode(data: bytes) -> list[Entry]:
    """The entries in an attribute. Raises OSError when the format is unknown."""
    if HEADER.unpack_from(data) != (VERSION,):
        raise OSError(errno.EOPNOTSUPP, "unknown version of access control list")
    return [Entry(*fields) for fields in ENTRY.iter_unpack(data[HEADER.size :])]


def _current(folder: Path) -> list[Entry]:
    try:
        return decode(os.getxattr(folder, ATTRIBUTE))
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
    mode = stat.S_IMODE(folder.stat().st_mode)
    return [Entry(USER_OBJ, mode >> 6 & 7), Entry(GROUP_OBJ, mode >> 3 & 7), Entry(OTHER, mode & 7)]


def _cut(entry: Entry, mask: int) -> Entry:
    if entry.tag in (USER, GROUP, GROUP_OBJ):
        return replace(entry, permissions=entry.permissions & mask)
    return entry
