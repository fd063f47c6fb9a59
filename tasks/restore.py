"""Artifacts back from MLflow: what the store lost is downloaded, checked against its digest, and used."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

from tasks import tracking
from tasks.artifacts import MANIFEST, ArtifactRef, content_digest, list_files
from tasks.home import Home


def download(home: Home, ref: ArtifactRef, target: Path) -> Path | None:
    """Download an artifact below `target`; return its directory, or None where MLflow has no whole copy of it.

    The run is the one the reference names, else any that logged an artifact of this digest (a stage that
    finished while MLflow was away does not know its run).
    """
    for run_id in _runs(home, ref):
        try:
            place = tracking.download_files(home, run_id, ref.kind, target / run_id)
            manifest = place / MANIFEST
            told = json.loads(manifest.read_text())["files"] if manifest.is_file() else list_files(place)
            manifest.unlink(missing_ok=True)
            _drop_others(place, {entry["path"] for entry in told})
            files = list_files(place)
            if content_digest(files) == ref.digest and files == told:  # what is undigested must be whole, too
                return place
        except Exception as error:  # not in this run, or MLflow went away
            logging.getLogger("fluxline").info("%s is not in run %s", ref.kind, run_id, exc_info=error)
    return None


def _drop_others(place: Path, names: set[str]) -> None:
    """Remove what MLflow's copy of a model holds beside the model: its card, and what serves it."""
    for path in [p for p in place.rglob("*") if p.is_file()]:
        if path.relative_to(place).as_posix() not in names:
            path.unlink()


def _runs(home: Home, ref: ArtifactRef) -> Iterator[str]:
    if ref.mlflow_run_id:
        yield ref.mlflow_run_id
    try:
        yield from (run for run in tracking.runs_with_artifact(home, ref.digest) if run != ref.mlflow_run_id)
    except Exception as error:  # MLflow is away: then the artifact is made again
        logging.getLogger("fluxline").info("MLflow is away", exc_info=error)
