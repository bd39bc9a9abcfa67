"""Whom an embedded server runs as. Started by root it runs as somebody who may do little.

PostgreSQL refuses to run as root. The account needs its own folder and the way to it, nothing else: parents
that it can't pass get an access entry for this one account (acl.py), and no mode is ever changed.
"""

import ctypes
import os
import pwd
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tmi.domain.errors import StartupError
from tmi.embedded import acl

CANDIDATES = ("postgres", "nobody")

_LIBC = ctypes.CDLL(None)
_SET_PDEATHSIG, _GET_PDEATHSIG = 1, 2
"""prctl(2)."""


def _at_parents_death() -> int:
    number = ctypes.c_int(0)
    _LIBC.prctl(_GET_PDEATHSIG, ctypes.byref(number))
    return number.value


@dataclass(frozen=True, slots=True)
class Account:
    """A user of the operating system; `is_other` when this process has to change to it."""

    name: str
    uid: int
    gid: int
    is_other: bool

    def own(self, path: Path) -> None:
        """Give a file or folder, which this process has just made, to the account."""
        if self.is_other:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def can_search(self, folder: Path) -> bool:
        """Whether the account may pass through a folder."""
        return self._has_access(folder, os.X_OK)

    def can_read(self, path: Path) -> bool:
        """Whether the account may read a file."""
        return self._has_access(path, os.R_OK)

    def can_run(self, program: Path) -> bool:
        """Whether the account may execute a file."""
        return self._has_access(program, os.R_OK | os.X_OK)

    def _has_access(self, path: Path, mode: int) -> bool:
        with self._acting():
            return os.access(path, mode, effective_ids=True)

    @contextmanager
    def _acting(self) -> Iterator[None]:
        """Ask the kernel as this account. For a moment during start-up, with no other thread running."""
        if not self.is_other:
            yield
            return
        groups = os.getgroups()
        gid = os.getegid()
        # Who started us may have asked the kernel to end us with them, which a change of user forgets.
        at_parents_death = _at_parents_death()
        os.setgroups([])
        os.setegid(self.gid)
        os.seteuid(self.uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(gid)
            os.setgroups(groups)
            _LIBC.prctl(_SET_PDEATHSIG, at_parents_death)


def choose_account(existing_data: Path) -> Account:
    """Our own account; for root the owner of the data, else one of `CANDIDATES`. Raises StartupError."""
    if os.geteuid() != 0:
        return _own_account(existing_data)
    entry = _owner(existing_data) or next(filter(None, map(_by_name, CANDIDATES)), None)
    if entry is None:
        raise StartupError("PostgreSQL refuses to run as root, and there is no user 'postgres' or 'nobody'.")
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, is_other=True)


def ourselves() -> Account:
    """The account of this process, root included."""
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return Account(name, uid, os.getegid(), is_other=False)


def open_way(account: Account, targets: Sequence[Path]) -> list[Path]:
    """Let the account reach `targets`; returns the folders that had to be opened. Raises StartupError."""
    opened: list[Path] = []
    if not account.is_other:
        return opened
    for target in targets:
        for folder in (*reversed(target.parents), target):
            if not account.can_search(folder):
                _let_search(account, folder)
                opened.append(folder)
    return opened


def _let_search(account: Account, folder: Path) -> None:
    try:
        acl.let_search(folder, account.uid)
        if account.can_search(folder):
            return
        why = "it stays closed"
    except OSError as error:
        why = error.strerror or str(error)
    raise StartupError(
        f"PostgreSQL runs as user {account.name}, who can't pass through {folder} ({why}): "
        f"run tmi as another user than root, move to another folder, or `chmod o+x {folder}`."
    )


def _own_account(existing_data: Path) -> Account:
    uid = os.geteuid()
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise StartupError(f"This process's user id {uid} has no name, which PostgreSQL asks for.") from None
    if existing_data.exists() and existing_data.stat().st_uid != uid:
        raise StartupError(f"The data in {existing_data} belongs to another user than {entry.pw_name}.")
    return Account(entry.pw_name, uid, entry.pw_gid, is_other=False)


def _owner(data: Path) -> pwd.struct_passwd | None:
    try:
        uid = data.stat().st_uid
    except FileNotFoundError:
        return None
    if uid == 0:
        raise StartupError(f"The data in {data} belongs to root, as whom PostgreSQL refuses to run.")
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        raise StartupError(f"The data in {data} belongs to user id {uid}, which has no name.") from None


def _by_name(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None
