"""The folder where a service without outside servers keeps everything, for one service at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tmi.domain.errors import StartupError


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Make the data directory if need be and hold it; yields its resolved path. Raises StartupError.

    The lock is the kernel's, so it ends with this process, however that ends.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = folder.resolve(strict=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StartupError(f"The data directory {folder} can't be used: {error.strerror}.") from None
    try:
        _take(lock, folder)
        yield folder
    finally:
        os.close(lock)


def is_in_use(folder: Path) -> bool:
    """Whether a service holds the data directory."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(lock)


def _take(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StartupError(f"The data directory {folder} is in use by another tmi service.") from None
    except OSError as error:
        raise StartupError(f"The data directory {folder} can't be locked: {error.strerror}.") from None
