"""Where Fluxline keeps its state: the layout of the folder FLUXLINE_HOME (default `./.fluxline`)."""

import os
from dataclasses import dataclass
from pathlib import Path

from fluxmodel.errors import InputError


@dataclass(frozen=True)
class Home:
    """The folder of all state of one project; every place in it has a name here and nowhere else.

    Attributes:
        root: the folder itself, absolute. Nothing is created before it is needed.
    """

    root: Path

    @property
    def artifacts(self) -> str:
        """URL of the artifact store; FLUXLINE_STORE may point it at a bucket (any fsspec URL)."""
        return os.environ.get("FLUXLINE_STORE") or str(self.root / "artifacts")

    @property
    def runs(self) -> Path:
        """One JSON record a run key, and under `stages/` the latest decisions of each stage."""
        return self.root / "runs"

    @property
    def results(self) -> Path:
        """Prefect's result store: one small JSON file a cache key."""
        return self.root / "results"

    @property
    def logs(self) -> Path:
        """Full logs of commands and servers."""
        return self.root / "logs"

    @property
    def evaluations(self) -> Path:
        """What `fluxline evaluate` found, one folder a model."""
        return self.root / "evaluations"

    @property
    def features(self) -> Path:
        """Features of real images, kept by what they are of; they may be deleted at any time."""
        return self.root / "features"

    @property
    def cache(self) -> Path:
        """Latents, embeddings, measurements by content, shared by all runs; it may be deleted while nothing runs."""
        return self.root / "cache"

    @property
    def watches(self) -> Path:
        """What each watched data set looked like when it was last looked at."""
        return self.root / "watches"

    @property
    def servers(self) -> Path:
        """What `fluxline up` is running: addresses and process id."""
        return self.root / "servers.json"

    def work(self, run_key: str) -> Path:
        """Scratch folder of one run key; it survives a crash, so that training goes on."""
        return self.root / "work" / run_key[:32]

    def make(self) -> "Home":
        """Create the folder.

        Raises:
            InputError: it cannot be created or written to.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            why = "" if os.access(self.root, os.W_OK | os.X_OK) else "permission denied"
        except OSError as error:
            why = (error.strerror or str(error)).lower()
        if why:
            raise InputError(
                f"FLUXLINE_HOME {self.root} cannot be written to ({why}); set FLUXLINE_HOME to a folder you own."
            )
        return self


def open_home(root: str | os.PathLike[str] | None = None) -> Home:
    """Return the home at `root`, else at FLUXLINE_HOME, else at `./.fluxline`."""
    return Home(Path(root or os.environ.get("FLUXLINE_HOME") or ".fluxline").expanduser().absolute())
