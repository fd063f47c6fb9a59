"""What the caches give: images read a second beside what a training step takes, and beside doing the work again.

The first rows read random batches of the demo preset's latents and text embeddings, against a step of its training
(ratio: how often over the reading feeds it). The next set a value from the cache beside computing it anew, in one
process on warm pages. The last is the headline: latents by memory map against the step.
Run: python -m benchmarks.caches --json
"""

import argparse
import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.measure import Row, median_seconds, publish, show
from fluxmodel.data.batches import PackedLatents
from fluxmodel.data.content_cache import ContentCache
from fluxmodel.data.decode import decode, encode_png, fit
from fluxmodel.data.latent_cache import ENCODE_BATCH, EncodedDataset
from fluxmodel.data.text_embeddings import CachedTextEncoder
from fluxmodel.encoders.autoencoder import Autoencoder, AutoencoderConfig
from fluxmodel.encoders.text import EncodedText, WordEncoder, WordEncoderConfig
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.pixels import to_signed
from fluxmodel.presets import DEMO
from fluxmodel.training.rehearsal import Rehearsal, StepShape

BATCH = 64


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description="Reading caches beside a training step and beside the work.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--num", type=int, default=20_000, help="images of the demo preset's size")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each measurement")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, figures = measured(Path(folder), arguments.num, arguments.rounds)
    show(
        publish("caches", rows, ("torch", "numpy", "pillow"), figures, threads=torch.get_num_threads()),
        arguments.json,
    )


def measured(folder: Path, num: int, rounds: int) -> tuple[list[Row], dict[str, float]]:
    """Return the rows, and further figures: bytes a value and the reading rate at FLUX.1's sizes."""
    generator = torch.Generator().manual_seed(0)
    step, latents = _step(), _mapped(folder / "demo", torch.randn(num, 8, 8, 8, generator=generator))
    held, keys = _kept(folder, "latents", [bytes(1024)] * num)
    encoder = WordEncoder(WordEncoderConfig(dim=128, context=2))
    captions = [
        f"a red circle left of a blue square number {number}" for number in range(max(num // 20, BATCH))
    ]
    texts = CachedTextEncoder(lambda: encoder, {"encoder": "words"}, folder, encoder.config.max_tokens)
    texts(captions)
    few = captions[:BATCH]

    def random_batch() -> torch.Tensor:
        return torch.randint(num, (BATCH,), generator=generator)

    seconds = median_seconds(
        {
            "step": step,
            "latents by memory map": lambda: latents[random_batch()],
            "latents from the content cache": lambda: [
                held.get(keys[place]) for place in random_batch().tolist()
            ],
            "text embeddings from the content cache": lambda: texts(few),
        },
        rounds,
    )
    rates = {name: BATCH / value for name, value in seconds.items()}
    rows = [
        Row(f"{name} / step", rate, rates["step"], rate / rates["step"], "images/s")
        for name, rate in rates.items()
        if name != "step"
    ]
    rows += _against_the_work(folder, rounds, lambda: encoder(few), lambda: texts(few))
    rows.append(rows.pop(0))
    return rows, _flux_sizes(folder, rounds) | {"images of the demo's size": float(num)}


def _step() -> Callable[[], None]:
    """Return a step of the demo preset's training, one process with the whole batch."""
    config = MMDiTConfig.model_validate(DEMO.flow.model)
    shape = StepShape(config, BATCH, 8, 8, text_tokens=16, precision="fp32", optimizer=DEMO.flow.optimizer)
    rehearsal = Rehearsal(shape)
    batch = rehearsal.batch()
    return lambda: rehearsal.step(batch)


def _mapped(place: Path, latents: torch.Tensor) -> PackedLatents:
    place.mkdir()
    save_file({"latents": latents.half()}, place / "latents.safetensors")
    (place / "captions.json").write_text("[" + ",".join(["[]"] * len(latents)) + "]")
    return PackedLatents(EncodedDataset.from_directory(place, mapped=True).latents)


def _kept(folder: Path, name: str, values: list[bytes]) -> tuple[ContentCache, list[str]]:
    keys = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(len(values))]
    with ContentCache(folder, {"name": name}) as cache:
        for key, value in zip(keys, values, strict=True):
            cache.put(key, value)
    return ContentCache(folder, {"name": name}), keys


def _against_the_work(
    folder: Path, rounds: int, encode: Callable[[], EncodedText], cached: Callable[[], EncodedText]
) -> list[Row]:
    """Return the rows of a value read beside the same value computed anew."""
    noise = np.random.default_rng(0).integers(0, 256, (BATCH, 128, 128, 3), np.uint8)
    small = [encode_png(fit(image, 32)) for image in noise]
    large = [encode_png(np.kron(image, np.ones((8, 8, 1), np.uint8))) for image in noise[:4]]
    autoencoder = Autoencoder(AutoencoderConfig.model_validate(DEMO.autoencoder.model)).eval()
    images = to_signed(torch.from_numpy(noise[:ENCODE_BATCH, :32, :32]))
    latents, latent_keys = _kept(folder, "encoded", [bytes(1024)] * BATCH)
    pixels, pixel_keys = _kept(folder, "pixels", [bytes(32 * 32 * 3)] * BATCH)
    wide, wide_keys = _kept(folder, "wide", [bytes(512 * 512 * 3)] * len(large))

    def encoded() -> torch.Tensor:
        with torch.inference_mode():
            return autoencoder.encode(images).half()

    pairs: dict[str, tuple[Callable[[], object], Callable[[], object], int]] = {
        "decoded pixels, PNG of 32": (
            lambda: [pixels.get(key) for key in pixel_keys],
            lambda: [fit(decode(data), 32) for data in small],
            BATCH,
        ),
        "decoded pixels, PNG of 1024 at 512": (
            lambda: [wide.get(key) for key in wide_keys],
            lambda: [fit(decode(data), 512) for data in large],
            len(large),
        ),
        "text embeddings, the embedded encoder": (cached, encode, BATCH),
        "latents, the demo's autoencoder": (
            lambda: [latents.get(key) for key in latent_keys],
            encoded,
            BATCH,
        ),
    }
    rows = []
    for name, (read, work, size) in pairs.items():
        seconds = median_seconds({"read": read, "work": work}, rounds)
        ours, peer = size / seconds["read"], size / seconds["work"]
        rows.append(Row(f"{name}: read / done anew", ours, peer, ours / peer, "images/s"))
    return rows


def _flux_sizes(folder: Path, rounds: int) -> dict[str, float]:
    """Return the images read a second at FLUX.1's sizes: latents of 1024 pixels, T5's 512 tokens in bf16."""
    latents = _mapped(folder / "flux", torch.zeros(64, 16, 128, 128))
    texts, keys = _kept(folder, "t5", [np.random.default_rng(n).bytes(512 * 4096 * 2) for n in range(8)])
    generator = torch.Generator().manual_seed(0)
    seconds = median_seconds(
        {
            "latents": lambda: latents[torch.randint(64, (4,), generator=generator)],
            "texts": lambda: [texts.get(key) for key in keys],
        },
        rounds,
    )
    return {
        "FLUX.1 latents of 1024 pixels by memory map: images/s": 4 / seconds["latents"],
        "T5 embeddings of 512 tokens from the content cache: captions/s": len(keys) / seconds["texts"],
    }


if __name__ == "__main__":
    main()
