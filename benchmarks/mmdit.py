"""The MM-DiT beside diffusers' FluxTransformer2DModel: same weights, inputs, dtype, threads and optimizer.

Sampling is Euler over the whole schedule, training one step: forward, backward, fused AdamW. diffusers runs with each
of its attention back-ends that work on this machine, and the faster one counts, row by row. Before anything is timed,
both must give the same output. Run: python -m benchmarks.mmdit --json
"""

import argparse
import copy
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.measure import Row, faster, median_seconds, publish, show
from fluxmodel.flow.packing import image_ids
from fluxmodel.mmdit.config import MMDiTConfig
from fluxmodel.mmdit.transformer import MMDiT
from fluxmodel.randomness import keyed_generator
from fluxmodel.weights import save_mmdit

BACKENDS = ("native", "_native_math")
"""diffusers' names; both are torch's own: flash attention as it chooses it, and plain products."""


@dataclass(frozen=True)
class Case:
    """A network, a batch and what is done with it; `size` is of the latents."""

    name: str
    hidden_size: int
    num_heads: int
    depth: tuple[int, int]
    size: tuple[int, int]
    num_text: int
    batch: int
    dtype: torch.dtype
    trains: bool = False
    num_steps: int = 8

    def config(self) -> MMDiTConfig:
        head_dim = self.hidden_size // self.num_heads
        side = head_dim * 3 // 16 * 2
        return MMDiTConfig(
            in_channels=32,
            out_channels=32,
            vec_in_dim=128,
            context_in_dim=128,
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            depth=self.depth[0],
            depth_single_blocks=self.depth[1],
            axes_dim=(head_dim - 2 * side, side, side),
            guidance_embed=False,
        )


def small(name: str, batch: int, dtype: torch.dtype, trains: bool = False) -> Case:
    """Return a case of the demo's network: 128 wide, 64 image tokens and 16 of text."""
    return Case(name, 128, 4, (1, 3), (16, 16), 16, batch, dtype, trains)


def wide(name: str, dtype: torch.dtype, trains: bool = False) -> Case:
    """Return a case bound by matrix products: 384 wide, 288 tokens, 8 images."""
    return Case(name, 384, 6, (2, 4), (32, 32), 32, 8, dtype, trains, num_steps=1)


FP32, BF16 = torch.float32, torch.bfloat16
CASES = (
    small("train, 1 image, fp32", 1, FP32, trains=True),
    small("train, 2 images, fp32", 2, FP32, trains=True),
    small("train, 4 images, fp32", 4, FP32, trains=True),
    small("sample 8 steps, 1 image, bf16", 1, BF16),
    small("sample 8 steps, 4 images, bf16", 4, BF16),
    small("train, 1 image, bf16", 1, BF16, trains=True),
    small("train, 4 images, bf16", 4, BF16, trains=True),
    wide("384 wide, one call, fp32", FP32),
    wide("384 wide, train, fp32", FP32, trains=True),
    wide("384 wide, one call, bf16", BF16),
    wide("384 wide, train, bf16", BF16, trains=True),
    small("sample 8 steps, 4 images, fp32", 4, FP32),
    small("sample 8 steps, 1 image, fp32", 1, FP32),
)


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description="Time the MM-DiT beside diffusers' on this processor.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--rounds", type=int, default=60, help="rounds that count; an eighth for wide networks"
    )
    parser.add_argument("--threads", type=int, default=0, help="default torch's choice")
    parser.add_argument("--only", default="", help="only cases whose name holds this; nothing is published")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows, figures = [], {"threads": float(torch.get_num_threads())}
    for case in CASES:
        if arguments.only in case.name:
            row, found = measure(case, arguments.rounds)
            rows.append(row)
            figures |= {f"{case.name}: {name}": value for name, value in found.items()}
            print(f"{row.name:34} {1e3 * row.ours:9.2f} ms against {1e3 * row.peer:9.2f}, {row.ratio:.2f}x")
    if not arguments.only:
        result = publish("mmdit", rows, ("torch", "diffusers"), figures)
        show(result, arguments.json)


def measure(case: Case, rounds: int) -> tuple[Row, dict[str, float]]:
    """Return the row of a case; and by how much the outputs differ, each back-end's time, the share of the peak."""
    model, given = network(case), inputs(case)
    twins = {backend: twin(model, backend) for backend in BACKENDS}
    figures = {"relative difference": difference(model, twins[BACKENDS[0]], given)}
    how = training if case.trains else sampling
    contestants = {"ours": how(model, called(model, given), case, given)}
    for backend, each in twins.items():
        contestants[backend] = how(each, called(each, given), case, given)
    seconds = median_seconds(contestants, rounds if case.hidden_size < 256 else max(3, rounds // 8))
    peer = min(seconds[backend] for backend in BACKENDS)
    work = products(case) * (3 if case.trains else case.num_steps)
    figures |= {f"{backend}, seconds": seconds[backend] for backend in BACKENDS}
    peak = matmul_peak(case.dtype)
    figures |= {"matmul peak, GFLOP/s": peak / 1e9, "ours, share of peak": work / seconds["ours"] / peak}
    figures |= {"diffusers, share of peak": work / peer / peak}
    return faster(case.name, seconds["ours"], peer), figures


# The contestants


def network(case: Case) -> MMDiT:
    """Return a network with random weights whose blocks all do something."""
    model, generator = MMDiT(case.config()), keyed_generator(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn * 0.5 * parameter.shape[-1] ** -0.5 + name.endswith("scale"))
    return model.to(case.dtype)


def twin(model: MMDiT, backend: str) -> torch.nn.Module:
    """Return diffusers' network with the same weights, read from a directory we write."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as directory:
        warnings.simplefilter("ignore")  # diffusers and its dependencies announce what is theirs to mend
        from diffusers import FluxTransformer2DModel
        from diffusers.utils import logging

        logging.set_verbosity_error()
        save_mmdit(model, directory, layout="diffusers")
        made = FluxTransformer2DModel.from_pretrained(directory, torch_dtype=model.img_in.weight.dtype)
        made.set_attention_backend(backend)
        return made.train()


def inputs(case: Case) -> dict[str, Tensor]:
    """Return what a forward pass takes."""
    generator, (height, width) = keyed_generator(1), case.size
    num, text = case.batch, case.num_text
    return {
        "img": torch.randn(num, height * width // 4, 32, generator=generator).to(case.dtype),
        "img_ids": image_ids(num, height, width),
        "txt": torch.randn(num, text, 128, generator=generator).to(case.dtype),
        "txt_ids": torch.zeros(num, text, 3),
        "timesteps": torch.rand(num, generator=generator),
        "y": torch.randn(num, 128, generator=generator).to(case.dtype),
    }


Forward = Callable[[Tensor, Tensor], Tensor]
"""velocity(img, timesteps)"""


def called(model: torch.nn.Module, given: dict[str, Tensor]) -> Forward:
    """Return the forward pass of either network under the given text."""
    if isinstance(model, MMDiT):
        rest = {name: given[name] for name in ("img_ids", "txt", "txt_ids", "y")}
        return lambda img, t: model(img=img, timesteps=t, **rest)
    return lambda img, t: model(
        hidden_states=img,
        encoder_hidden_states=given["txt"],
        pooled_projections=given["y"],
        timestep=t.to(img.dtype),
        img_ids=given["img_ids"][0],
        txt_ids=given["txt_ids"][0],
        return_dict=False,
    )[0]


def difference(model: MMDiT, peer: torch.nn.Module, given: dict[str, Tensor]) -> float:
    """Return the greatest difference of the outputs over the greatest output.

    Raises:
        AssertionError: the networks do not agree, so that their times mean nothing.
    """
    given = {name: value.float() for name, value in given.items()}
    exact = [copy.deepcopy(each).float() for each in (model, peer)]
    with torch.no_grad():
        ours, theirs = (called(each, given)(given["img"], given["timesteps"]) for each in exact)
    found = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    assert found < 1e-5, f"the outputs differ by {found:.1e}"
    return found


def sampling(
    model: torch.nn.Module, forward: Forward, case: Case, given: dict[str, Tensor]
) -> Callable[[], Tensor]:
    """Return Euler from noise to data; ours prepares all steps before the first, as its sampler does."""
    times = torch.linspace(1, 0, case.num_steps + 1)
    steps = (times[1:] - times[:-1]).tolist()
    rest = {name: given[name] for name in ("img_ids", "txt", "txt_ids", "y")}

    @torch.inference_mode()
    def ours() -> Tensor:
        x = given["img"]
        assert isinstance(model, MMDiT)
        for step, conditioning in zip(steps, model.condition_steps(times=times[:-1], **rest), strict=True):
            x = x + step * model.velocity(x, conditioning)
        return x

    @torch.inference_mode()
    def theirs() -> Tensor:
        x = given["img"]
        for step, t in zip(steps, times, strict=False):
            x = x + step * forward(x, t.expand(case.batch))
        return x

    return ours if isinstance(model, MMDiT) else theirs


def training(
    model: torch.nn.Module, forward: Forward, case: Case, given: dict[str, Tensor]
) -> Callable[[], None]:
    """Return one step of training on a squared error."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        forward(given["img"], given["timesteps"]).float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


# The machine's limit


def products(case: Case) -> float:
    """Return the floating-point operations of a forward pass of a batch, by torch's counter on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = MMDiT(case.config())
        given = {name: torch.empty_like(value, device="meta") for name, value in inputs(case).items()}
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            model.float()(**{name: value.float() for name, value in given.items()})
    return float(counter.get_total_flops())


def matmul_peak(dtype: torch.dtype, size: int = 1024, repeats: int = 40) -> float:
    """Return the FLOP/s of a large product in this dtype, the best of several: a limit, not a habit."""
    operand, seconds = torch.randn(size, size).to(dtype), []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(operand, operand)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


if __name__ == "__main__":
    main()
