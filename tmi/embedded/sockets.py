"""Where embedded servers listen: Unix sockets in folders that one account alone may enter."""

import hashlib
import os
import tempfile
from pathlib import Path

from tmi.domain.errors import StartupError
from tmi.embedded.account import Account

PATH_MAX = 107
"""Bytes of a Unix socket's path, unix(7)."""


def folder_for(preferred: Path, name: str) -> Path:
    """`preferred`; where the path of a socket `name` is too long, a folder below the temporary one."""
    if len(os.fsencode(preferred / name)) <= PATH_MAX:
        return preferred
    digest = hashlib.sha256(os.fsencode(preferred)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"tmi-{os.geteuid()}-{digest}"


def make_private(folder: Path, account: Account) -> None:
    """The folder is the account's and closed to all others. Raises StartupError if it is anybody else's."""
    try:
        folder.mkdir(mode=0o700)
        account.own(folder)
    except FileExistsError:
        found = folder.lstat()
        if not folder.is_dir() or folder.is_symlink() or found.st_uid != account.uid:
            raise StartupError(f"{folder} is not {account.name}'s folder; remove it.") from None
        folder.chmod(0o700)
