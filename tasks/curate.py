"""Curate: turn a pile of images into a data set, with a decision for each image and rule."""

from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from fluxmodel.data.curation_rules import CurationRules
from fluxmodel.data.scoring_models import ScoringModels
from tasks.artifacts import ArtifactRef
from tasks.cards import read_json
from tasks.progress import board
from tasks.stage import Stage
from tasks.stage_run import Outcome, RunContext, StageRun

CURATE = Stage("curate", kind="dataset", modules=("tasks.curate", "fluxmodel.data.curation"))
MAX_SAID = 20


class DataSource(BaseModel):
    """What `--data` names, and a fingerprint of what is there now."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = Field(description="Canonical specification: procedural:..., a path or a URI.")
    fingerprint: str = Field(description="Digest of its content.")
    is_procedural: bool = Field(
        description="Whether scenes are drawn, so that the truth about each is known."
    )

    def semantic(self) -> dict[str, str]:
        """Return what influences the result: the content, not where it lies."""
        return {"data": self.data} if self.is_procedural else {"fingerprint": self.fingerprint}


def identify_source(data: str) -> DataSource:
    """Look at what `data` names.

    Raises:
        InputError: there is no such source.
    """
    from fluxmodel.data.sources import open_source

    source = open_source(data)
    return DataSource(data=source.spec, fingerprint=source.fingerprint(), is_procedural=source.is_procedural)


@task(**CURATE.options())
def curate(
    context: RunContext, source: DataSource, rules: CurationRules, models: ScoringModels | None = None
) -> ArtifactRef:
    """Keep the images that pass the rules, and split them by duplicate group.

    Args:
        context: the pipeline run.
        source: what is curated.
        rules: what an image must satisfy.
        models: that score images; without them the rules on scores are skipped.
    """
    return CURATE.run(context, _curate, source=source, rules=rules, models=models)


def _curate(
    run: StageRun, source: DataSource, rules: CurationRules, models: ScoringModels | None = None
) -> Outcome:
    changes = run.work / "changes.json"
    changes.unlink(missing_ok=True)
    final = run.call(
        "fluxmodel.data.curation:curate",
        computes=models is not None,
        data=source.data,
        rules=rules.model_dump(mode="json"),
        cache=str(run.home.root / "cache"),
        changes=str(changes),
        models=[each.model_dump(mode="json") for each in models.models] if models else [],
    )
    report = read_json(final / "curation.json")
    refused = report.get("num_refused", 0)
    _say_refused(report.get("refused") or [], refused)
    seen, kept = report.get("seen", 0), report.get("kept", 0)
    gave = f"{kept} of {seen} images kept" + (f", {refused} refused" if refused else "")
    changed = read_json(changes).get("sentence", "")
    gave += f"; {changed}" if changed else ""
    return Outcome(final, gave, {"seen": float(seen), "kept": float(kept)}, changed)


def _say_refused(examples: list[dict], num_refused: int) -> None:
    for entry in examples[:MAX_SAID]:
        board().say(f"curate: refused {entry.get('path')}: {entry.get('reason')} ({entry.get('detail')})")
    if num_refused > MAX_SAID:
        board().say(
            f"curate: and {num_refused - MAX_SAID} more; "
            "decisions.parquet, beside report.html in the curated data set, has a row for each."
        )
