"""Caption: write new captions for every image, and say how right they are."""

from prefect import task
from pydantic import BaseModel, ConfigDict, Field

from fluxmodel.data.scoring_models import ScoringModel
from fluxmodel.progress import seconds_spooled
from tasks.artifacts import ArtifactRef
from tasks.cards import read_card, read_json
from tasks.stage import Stage
from tasks.stage_run import Outcome, RunContext, StageRun

CAPTION = Stage("caption", kind="captions", modules=("tasks.caption", "fluxmodel.data.captioning"))


class OwnCaptioner(BaseModel):
    """A vision-language model of the user's own: a directory in transformers' layout, or an endpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    directory: str = Field(description="Where it lies: a directory, or an address.")
    revision: str = Field(
        description="Digest of its files; of an endpoint, whose content cannot be seen, of the model's name and what "
        "the server says of it."
    )
    prompt: str | None = Field(
        default=None, description="What it is asked; by default what its family expects."
    )
    max_failed_share: float = Field(
        default=0.05, ge=0, le=1, description="Share of the images that may fail before the stage does."
    )
    max_failed: int = Field(default=1000, ge=0, description="Images that may fail, however many there are.")

    def semantic(self) -> dict[str, str | None]:
        """Return what influences the result: its content, not where it lies nor how much patience it gets."""
        return {"revision": self.revision, "prompt": self.prompt}


def identify_captioner(directory: str, prompt: str | None = None) -> OwnCaptioner:
    """Look at the model in a directory, or ask an endpoint (`http://HOST:PORT/v1?model=NAME`) what it serves.

    Raises:
        InputError: there is none.
    """
    from fluxmodel.data.chat_endpoint import is_endpoint

    if is_endpoint(directory):
        from fluxmodel.data.endpoint_writer import endpoint_revision

        return OwnCaptioner(directory=directory, revision=endpoint_revision(directory), prompt=prompt)
    from fluxmodel.data.caption_writers import revision_of

    return OwnCaptioner(directory=directory, revision=revision_of(directory), prompt=prompt)


@task(**CAPTION.options())
def caption(
    context: RunContext,
    dataset: ArtifactRef,
    captioner: ArtifactRef | None = None,
    own: OwnCaptioner | None = None,
    judge: ScoringModel | None = None,
) -> ArtifactRef:
    """Caption every image of the dataset.

    Args:
        context: the pipeline run.
        dataset: curated images.
        captioner: the one trained here.
        own: a model of the user's; with neither of the two the given captions are kept.
        judge: a CLIP that says of each new caption whether it fits its image less than the old one.
    """
    return CAPTION.run(context, _caption, dataset=dataset, captioner=captioner, own=own, judge=judge)


def _caption(
    run: StageRun,
    dataset: ArtifactRef,
    captioner: ArtifactRef | None,
    own: OwnCaptioner | None,
    judge: ScoringModel | None = None,
) -> Outcome:
    directory = str(run.path(captioner)) if captioner is not None else own.directory if own else None
    given = {
        "dataset": str(run.path(dataset)),
        "captioner": directory,
        "settings": own.model_dump(include={"prompt", "max_failed_share", "max_failed"}) if own else {},
        "cache": str(run.home.root / "cache"),
    }
    shards = run.map("fluxmodel.data.captioning:caption_shard", **given) if directory else []
    final = run.call(
        "fluxmodel.data.captioning:caption_dataset",
        computes=bool(directory) and (judge is not None or not (shards or _is_elsewhere(own))),
        shards=[str(shard) for shard in shards],
        dual_encoder=judge.directory if judge is not None and directory else None,
        **given,
    )
    _, metrics = read_card(final)
    reason = read_json(final / "captions.json").get("provenance", {}).get("reason")
    seconds = (
        0.0 if shards else seconds_spooled(run.output / "metrics.jsonl")
    )  # of the merging, where there are any
    if seconds and metrics.get("num_captioned"):
        metrics["images_per_second"] = metrics["num_captioned"] / seconds
    return Outcome(final, _said(metrics, reason), metrics)


def _is_elsewhere(own: OwnCaptioner | None) -> bool:
    """Return whether an endpoint computes, so that no device is needed here."""
    from fluxmodel.data.chat_endpoint import is_endpoint

    return own is not None and is_endpoint(own.directory)


def _said(metrics: dict[str, float], reason: str | None) -> str:
    if reason:
        return reason
    scores = (
        [f"attribute F1 {metrics['f1']:.3f}, alt text {metrics['alt_f1']:.3f}"] if "f1" in metrics else []
    )
    failed = [f"{metrics['num_failed']:,.0f} failed"] if metrics.get("num_failed") else []
    return ", ".join([f"{metrics['num_captioned']:,.0f} images captioned", *failed, *scores])
