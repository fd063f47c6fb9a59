"""The curated dataset behind a stage, as MLflow shows it: name, digest, place, columns, what was kept."""

from collections.abc import Sequence
from typing import Any

from fluxmodel.errors import ArtifactError
from tasks.artifacts import ArtifactStore
from tasks.cards import read_json
from tasks.home import Home
from tasks.run_key import RunBook, RunRecord
from tasks.tracking import DatasetInput

_CONTEXTS = {"curate": "curated", "evaluate": "evaluation", "pipeline": "pipeline"}
_COLUMNS = {
    "image": "binary",
    "captions": "string",
    "source": "string",
    "licence": "string",
    "split": "string",
}


def dataset_input(home: Home, stage: str, digests: Sequence[str]) -> DatasetInput | None:
    """Return the dataset that artifacts with these digests were made from, or are; None where there is none."""
    made = [r for r in RunBook(home).lineage(list(digests)) if r.identity.stage == "curate"]
    return describe_dataset(home, made[-1], stage) if made else None


def describe_dataset(home: Home, record: RunRecord, stage: str) -> DatasetInput:
    """Return a curated dataset as an input of `stage`."""
    try:
        report = read_json(ArtifactStore(home).path(record.artifact) / "curation.json")
    except ArtifactError:  # pruned, or on a store that is away: its name and digest are told all the same
        report = {}
    data = str(
        report.get("data") or record.identity.parameters.get("source", {}).get("data") or "a folder of images"
    )
    return DatasetInput(
        name=data,
        digest=record.artifact.digest,
        source={"uri": record.artifact.uri, "data": data},
        columns=_COLUMNS,
        profile=_profile(report),
        context=_CONTEXTS.get(stage, "training"),
    )


def _profile(report: dict[str, Any]) -> dict[str, Any]:
    kept = {"num_images": report.get("kept"), "seen": report.get("seen"), "kept": report.get("kept")}
    dropped = {f"dropped_{reason}": count for reason, count in (report.get("dropped") or {}).items()}
    splits = {f"num_{split}": count for split, count in (report.get("splits") or {}).items()}
    size = {"image_size_pixels": report.get("image_size")}
    return {name: value for name, value in (kept | dropped | splits | size).items() if value is not None}
