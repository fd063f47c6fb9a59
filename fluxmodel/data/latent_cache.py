"""A curated dataset encoded once: latents and captions in the order of the dataset.

With a cache only those images are encoded whose latent is not there yet. A latent is kept by the sha256 of the decoded
pixels under a recipe of all that was done to them (how they were fitted, the autoencoder's weights, the code, the
libraries), so a replaced image or a retrained autoencoder can never meet a stale one. A convolution's result differs in
its last digits between batch sizes (1e-6 in float32), so every batch has the same shape, the last one filled up with
zeros: a latent depends on its image alone, and what comes from the cache equals what would be encoded, bit for bit.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fluxmodel.data import decode
from fluxmodel.data.caption_rows import CaptionRow, read_rows, trainable_captions
from fluxmodel.data.content_cache import ContentCache
from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.encoders import autoencoder as autoencoder_code
from fluxmodel.encoders.autoencoder import Autoencoder
from fluxmodel.errors import ArtifactError
from fluxmodel.pixels import to_signed
from fluxmodel.progress import Progress, silent

ENCODE_BATCH = 64
REUSE = "reuse.json"
"""How many images were encoded and how many came from the cache: about the run, so no part of the artifact's digest."""
_FLUSH_BATCHES = 16
_UNDIGESTED = "undigested.json"


@torch.inference_mode()
def encode_dataset(
    dataset: str | Path,
    autoencoder: str | Path,
    output: str | Path,
    captions: str | Path | None = None,
    progress: Progress = silent,
    cache: str | Path | None = None,
) -> dict[str, float]:
    """Encode the training split of a curated dataset into the existing directory `output`.

    Args:
        dataset: directory of a curated dataset.
        autoencoder: directory of an autoencoder.
        output: receives latents.safetensors (fp16), captions.json, ids.json, config.json and reuse.json.
        captions: directory written by `caption_dataset`; where it is given no caption comes from anywhere else, so
            the truth about drawn scenes, which only the dataset has, cannot be learned from.
        progress: told after every batch.
        cache: folder of all caches; without one every image is encoded. What is written is the same.

    Returns:
        What it gave: number of samples, mean and standard deviation of the latents.

    Raises:
        ArtifactError: `dataset` is no curated dataset, or `captions` are of another one.
        InputError: `autoencoder` is no autoencoder.
    """
    source, encoder = CuratedDataset(dataset), Autoencoder.from_directory(autoencoder)
    kept = None if cache is None else ContentCache(cache, latent_recipe(source.image_size, autoencoder))
    try:
        latents, num_encoded = _encoded(source, encoder, kept, progress)
    finally:
        if kept is not None:
            kept.close()
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
    reuse = {"num_encoded": num_encoded, "num_from_cache": len(latents) - num_encoded}
    (output / REUSE).write_text(json.dumps(reuse) + "\n")
    (output / _UNDIGESTED).write_text(json.dumps([REUSE]) + "\n")
    return figures


def latent_recipe(image_size: int, autoencoder: str | Path) -> dict[str, object]:
    """Return all that is done to decoded pixels to make their latent: what may change its last bit is here."""
    from importlib.metadata import version

    weights = hashlib.sha256()
    for name in ("config.json", "model.safetensors"):
        with (Path(autoencoder) / name).open("rb") as file:
            weights.update(hashlib.file_digest(file, "sha256").digest())
    code = [inspect.getsource(each) for each in (decode.fit, to_signed, _batches, autoencoder_code)]
    return {
        "name": "latents",
        "image_size": image_size,
        "autoencoder": weights.hexdigest(),
        "code": hashlib.sha256("".join(code).encode()).hexdigest(),
        "batch": ENCODE_BATCH,
        "dtype": "float16",
        "torch": torch.__version__,
        "pillow": version("pillow"),
        "processor": torch.backends.cpu.get_cpu_capability(),
    }


def _encoded(
    source: CuratedDataset, encoder: Autoencoder, kept: ContentCache | None, progress: Progress
) -> tuple[Tensor, int]:
    """Return the latents of the training images and how many of them were encoded now."""
    keys = source.pixel_digests("train")
    side = source.image_size // encoder.config.downscale
    latents = torch.empty(len(keys), encoder.config.latent_channels, side, side, dtype=torch.float16)
    missing = []
    for place, key in enumerate(keys):
        value = None if kept is None else kept.get(key)
        if value is not None and len(value) == latents[place].nbytes:
            latents[place] = torch.frombuffer(bytearray(value), dtype=torch.float16).view(latents.shape[1:])
        else:
            missing.append(place)
    done = len(keys) - len(missing)
    progress(done, len(keys), "encoding images")
    for number, (places, images) in enumerate(_batches(source, missing), 1):
        found = encoder.encode(images)[: len(places)].half()
        latents[places] = found
        for place, latent in zip(places, found if kept is not None else (), strict=kept is not None):
            assert kept is not None
            kept.put(keys[place], latent.numpy().tobytes())
        if kept is not None and number % _FLUSH_BATCHES == 0:
            kept.flush()
        done += len(places)
        progress(done, len(keys), "encoding images")
    return latents, len(missing)


def _batches(source: CuratedDataset, places: Sequence[int]) -> Iterator[tuple[list[int], Tensor]]:
    """Yield places of the training split and their images, always `ENCODE_BATCH`: the rest are zeros."""
    pixels = np.zeros((ENCODE_BATCH, source.image_size, source.image_size, 3), np.uint8)
    held: list[int] = []
    if not places:
        return
    for place, image in zip(places, source.iter_pixels("train", set(places)), strict=True):
        pixels[len(held)] = image
        held.append(place)
        if len(held) == ENCODE_BATCH or place == places[-1]:
            pixels[len(held) :] = 0
            yield held, to_signed(torch.from_numpy(pixels))
            held = []


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
    def from_directory(cls, directory: str | Path, mapped: bool = False) -> EncodedDataset:
        """Read what `encode_dataset` wrote.

        Args:
            directory: an encoded dataset.
            mapped: leave the latents in their file, fp16: what is read of them is read when it is, and the pages are
                shared with every process that trains on them. Otherwise they are float32 in memory.

        Raises:
            ArtifactError: a file is missing or damaged, or captions and latents differ in number.
        """
        try:
            tensors = load_file(str(Path(directory) / "latents.safetensors"))
            latents = tensors["latents"] if mapped else tensors["latents"].float()
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
