"""Images in memory with what is known of them: drawn on demand, or the splits of a curated dataset."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fluxmodel.data.curated_dataset import CuratedDataset
from fluxmodel.data.procedural import ProceduralSource, Scene, detailed_caption, draw_scene, render
from fluxmodel.data.styles import random_look
from fluxmodel.errors import InputError

PREPARE_SEED_OFFSET = 500_000
"""Added to the seed of a specification, so that evaluators and autoencoder see other scenes than the base model."""
HELD_OUT_EVERY = 5
SCENES_A_LOOK = 16


@dataclass(frozen=True)
class ImagePool:
    """uint8 [n, side, side, 3], one caption each, and the scenes where they are known."""

    pixels: np.ndarray
    captions: list[str]
    scenes: list[Scene] | None

    @property
    def image_size(self) -> int:
        return self.pixels.shape[1]


def draw_pool(source: ProceduralSource, num: int, stream: int, with_held_out: bool) -> ImagePool:
    """Draw `num` scenes of a stream; every fifth has a held-out pair where asked."""
    seed = PREPARE_SEED_OFFSET + 2 * source.seed + stream
    scenes = [
        draw_scene(source.level, seed, i, with_held_out and i % HELD_OUT_EVERY == 0) for i in range(num)
    ]
    return ImagePool(render(scenes), [detailed_caption(s) for s in scenes], scenes)


def vary_looks(pool: ImagePool, share: float, seed: int) -> ImagePool:
    """Draw the last share of a pool's scenes again in random looks: backgrounds, outlines and rims no style is made of.

    An autoencoder that saw four grounds can draw no fifth (17 dB on a teal one against 37 on the four), and what it
    can't draw no LoRA can learn; a foundation autoencoder has seen more than its first model's data.
    """
    scenes, num = pool.scenes, round(share * len(pool.pixels))
    if scenes is None or not num:
        return pool
    rng = np.random.default_rng((seed, 3))
    first = len(scenes) - num  # the first images stay: statistics are taken of them
    drawn = [
        render(scenes[at : at + SCENES_A_LOOK], random_look(rng))
        for at in range(first, len(scenes), SCENES_A_LOOK)
    ]
    return replace(pool, pixels=np.concatenate([pool.pixels[:first], *drawn]))


def load_pools(
    data: str,
    num_train: int,
    num_validation: int,
    with_held_out: bool = False,
    cache: str | None = None,
) -> tuple[ImagePool, ImagePool]:
    """Return images to learn from and others to be judged on.

    Args:
        data: a procedural specification, or the directory of a curated dataset.
        num_train, num_validation: how many at most.
        with_held_out: whether scenes may have the pairs the base model never sees; evaluators must know them.
        cache: folder of all caches; images of a dataset decoded before are read from there.

    Raises:
        InputError: the dataset has no training image.
    """
    if data.startswith("procedural:"):
        source = ProceduralSource.parse(data)
        return (
            draw_pool(source, num_train, 0, with_held_out),
            draw_pool(source, num_validation, 1, with_held_out),
        )
    dataset = CuratedDataset(data, cache)
    if dataset.num("train") == 0:
        raise InputError(
            f"{data}: curation kept no training image; look at its decisions and loosen the rules"
        )
    train = _split(dataset, "train", num_train)
    validation = _split(dataset, "test", num_validation) if dataset.num("test") else train
    return train, validation


def _split(dataset: CuratedDataset, split: str, limit: int) -> ImagePool:
    captions = [own[0].text for own in dataset.captions(split)[:limit]]
    return ImagePool(dataset.pixels(split, limit=limit), captions, None)
