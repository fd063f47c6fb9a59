"""Encode: turn the curated images into latents, once."""

from prefect import task

from tasks.artifacts import ArtifactRef
from tasks.cards import numbers, read_json
from tasks.stage import Stage
from tasks.stage_run import Outcome, RunContext, StageRun

ENCODE = Stage("encode", kind="latents", modules=("tasks.encode", "fluxmodel.data.latent_cache"))


@task(**ENCODE.options())
def encode(
    context: RunContext, dataset: ArtifactRef, captions: ArtifactRef, autoencoder: ArtifactRef
) -> ArtifactRef:
    """Encode each image of the training split with the autoencoder, beside the captions it may be learned by."""
    return ENCODE.run(context, _encode, dataset=dataset, captions=captions, autoencoder=autoencoder)


def _encode(run: StageRun, dataset: ArtifactRef, captions: ArtifactRef, autoencoder: ArtifactRef) -> Outcome:
    final = run.call(
        "fluxmodel.data.latent_cache:encode_dataset",
        dataset=str(run.path(dataset)),
        captions=str(run.path(captions)),
        autoencoder=str(run.path(autoencoder)),
    )
    figures = numbers(read_json(final / "config.json"))
    return Outcome(final, f"{figures.get('num_samples', 0):.0f} images encoded", figures)
