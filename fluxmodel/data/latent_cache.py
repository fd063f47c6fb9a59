"""A curated dataset encoded once: latents and captions in the order of the dataset.

The directory lies under the digests of its dataset and its autoencoder, so a replaced image or a retrained
autoencoder can never meet a stale latent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fluxmodel.data.caption_rows import CaptionRow, read_rows, trainable_captions
from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.encoders.autoencoder import Autoencoder
from fluxmodel.errors import ArtifactError
from fluxmodel.pixels import to_signed
from fluxmodel.progress import Progress, silent

ENCODE_BATCH = 250


@torch.inference_mode()
def encode_dataset(
    dataset: str | Path,
    autoencoder: str | Path,
    output: str | Path,
    captions: str | Path | None = None,
    progress: Progress = silent,
) -> dict[str, float]:
    """Encode the training split of a curated dataset into the existing directory `output`.

    Args:
        dataset: directory of a curated dataset.
        autoencoder: directory of an autoencoder.
        output: receives latents.safetensors (fp16), captions.json, ids.json and config.json.
        captions: directory written by `caption_dataset`; where it is given no caption comes from anywhere else, so
            the truth about drawn scenes, which only the dataset has, cannot be learned from.
        progress: told after every batch.

    Returns:
        What it gave: number of samples, mean and standard deviation of the latents.

    Raises:
        ArtifactError: `dataset` is no curated dataset, or `captions` are of another one.
        InputError: `autoencoder` is no autoencoder.
    """
    source, encoder = CuratedDataset(dataset), Autoencoder.from_directory(autoencoder)
    pixels = source.pixels("train")
    batches = []
    for start in range(0, len(pixels), ENCODE_BATCH):
        images = to_signed(torch.from_numpy(pixels[start : start + ENCODE_BATCH]))
        batches.append(encoder.encode(images).half())
        progress(min(start + ENCODE_BATCH, len(pixels)), len(pixels), "encoding images")
    latents = torch.cat(batches)
    output = Path(output)
    save_file({"latents": latents.contiguous()}, str(output / "latents.safetensors"))
    texts = source.captions("train") if captions is None else _captions_of(source, captions)
    rows = [[{"text": c.text, "kind": c.kind} for c in own] for own in texts]
    (output / "captions.json").write_text(json.dumps(rows))
    (output / "ids.json").write_text(json.dumps(source.ids("train")))
    figures = {
        "num_samples": float(len(latents)),
        "latent_mean": latents.float().mean().item(),
        "latent_std": latents.float().std().item(),
    }
    (output / "config.json").write_text(
        json.dumps({"image_size": source.image_size, **figures}, indent=2) + "\n"
    )
    return figures


def _captions_of(source: CuratedDataset, captions: str | Path) -> list[list[CaptionRow]]:
    """Return the captions of each training image that may be learned from.

    Raises:
        ArtifactError: an image has none there.
    """
    texts = trainable_captions(read_rows(captions, "train"), source.ids("train"))
    if num_without := sum(not own for own in texts):
        raise ArtifactError(
            f"{captions}: {num_without} of {len(texts)} images of {source.directory} have no caption there; "
            "caption this dataset"
        )
    return texts


@dataclass(frozen=True)
class EncodedDataset:
    """Latents, and for every sample its captions by kind and its id; pairs also know the seed of each latent's noise.

    Pairs have no ids: their samples are named by their numbers.
    """

    latents: Float[Tensor, "n c h w"]
    captions: list[dict[str, str]]
    ids: list[str]
    noise_seeds: list[int] | None = None

    @classmethod
    def from_directory(cls, directory: str | Path) -> EncodedDataset:
        """Read what `encode_dataset` wrote.

        Raises:
            ArtifactError: a file is missing or damaged, or captions and latents differ in number.
        """
        try:
            tensors = load_file(str(Path(directory) / "latents.safetensors"))
            latents = tensors["latents"].float()
            rows = json.loads((Path(directory) / "captions.json").read_text())
            names = Path(directory) / "ids.json"
            ids = json.loads(names.read_text()) if names.exists() else [str(i) for i in range(len(rows))]
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise ArtifactError(
                f"{directory}: no encoded dataset can be read there ({error}); encode again"
            ) from error
        if not len(rows) == len(ids) == len(latents):
            raise ArtifactError(
                f"{directory}: {len(latents)} latents but {len(rows)} rows of captions and {len(ids)} ids; encode again"
            )
        seeds = tensors["noise_seeds"].tolist() if "noise_seeds" in tensors else None
        return cls(latents, [{c["kind"]: c["text"] for c in own} for own in rows], ids, seeds)
