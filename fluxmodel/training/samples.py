"""Images of fixed prompts while a network trains: the same prompts and noise each time, to be leafed through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor, nn

from fluxmodel.training_job import SampleSettings

if TYPE_CHECKING:
    from fluxmodel.data.batches import CaptionedLatents
    from fluxmodel.encoders.text import WordEncoder
    from fluxmodel.training.ema import WeightAverage
    from fluxmodel.training.optimizer import MasterOptimizer


@contextmanager
def averaged(model: nn.Module, optimizer: MasterOptimizer, average: WeightAverage) -> Iterator[None]:
    """Have the averaged weights in the model; afterwards its masters give back the working ones, bit for bit."""
    working = [p.data for p in optimizer.working]
    torch._foreach_copy_(working, average.average)
    model.eval()
    try:
        yield
    finally:
        torch._foreach_copy_(working, optimizer.masters)
        model.train()


def draw(
    model: nn.Module,
    encoder: WordEncoder,
    autoencoder: str,
    latents: CaptionedLatents,
    settings: SampleSettings,
) -> UInt8[Tensor, "n 3 height width"]:
    """Draw each prompt from the noise of its own number, at the size of the training data."""
    from fluxmodel.encoders.autoencoder import Autoencoder
    from fluxmodel.text_to_image import ModelIndex, TextToImage

    decoder = Autoencoder.from_directory(autoencoder)
    height, width = (side * decoder.config.downscale for side in (latents.height, latents.width))
    pipe = TextToImage(ModelIndex(image_size=height), model, decoder, encoder)  # type: ignore[arg-type]
    return pipe.sample(
        settings.prompts,
        num_steps=settings.num_steps,
        guidance=settings.guidance,
        seeds=range(len(settings.prompts)),
        size=(height, width),
    )


def write_samples(
    folder: Path, step: int, prompts: tuple[str, ...], images: UInt8[Tensor, "n 3 h w"]
) -> None:
    """Write one PNG an image, which says its prompt and step itself, to a temporary name first."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (prompt, image) in enumerate(zip(prompts, images, strict=True)):
        said = PngInfo()
        said.add_itxt("prompt", prompt)
        said.add_text("step", str(step))
        path = folder / f"step-{step:08d}-{number:02d}.png"
        partial = path.with_suffix(".partial")
        Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())).save(
            partial, "PNG", pnginfo=said
        )
        partial.rename(path)
