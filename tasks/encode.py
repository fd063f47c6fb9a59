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
        cache=str(run.home.cache),
    )
    figures = numbers(read_json(final / "config.json"))
    return Outcome(final, _gave(read_json(final / "reuse.json")), figures)


def _gave(reuse: dict[str, int]) -> str:
    """Return "encoded 11 of 1356 images, 1345 from the cache"."""
    num_encoded, num_reused = reuse.get("num_encoded", 0), reuse.get("num_from_cache", 0)
    if not num_reused:
        return f"{num_encoded} images encoded"
    return f"encoded {num_encoded} of {num_encoded + num_reused} images, {num_reused} from the cache"
